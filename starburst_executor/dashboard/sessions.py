"""A line for each session of the stores, the newest first, a page at a time; what cannot change any more is read once.

Cost of a whole page of 25 sessions: 1 LIST a store; for each session that is not over 1 GET, 1 LIST per 1,000 status objects, 1 LIST of
beats, and up to 8 GETs of each, of those that have changed since they were read. An update makes `MOST_REQUESTS` at the most, and those
of one session: it reads new sessions, then those whose lines are oldest.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qsl

from starburst_executor import config
from starburst_executor.client import registry
from starburst_executor.client.money import cost_of, is_billed
from starburst_executor.client.reading import Reading
from starburst_executor.clock import Clock
from starburst_executor.dashboard.hub import Places
from starburst_executor.errors import KeyNotFound, SessionNotFound, StarburstError
from starburst_executor.protocol.keys import SESSIONS, is_session_id
from starburst_executor.protocol.records import SessionState, WorkerBeat
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.beats import Sign, list_workers, read_beat
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.store import SessionStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import join_url, split_url

__all__ = ["MOST_REQUESTS", "PAGE", "Line", "SessionList", "Sessions"]

_V = TypeVar("_V")
_log = logging.getLogger(__name__)

PAGE = 25
_PATIENCE_S = 3.0
_MOST_READ = 8
_REMEMBERED = 500
MOST_REQUESTS = 20
# An update begins to read a session if at least this number of requests is left; it needs three or more.
_LEAST_LEFT = 6
_KINDS = ("get", "not_modified", "list", "create", "swap", "put", "delete")


@dataclass(frozen=True, slots=True)
class Line:
    """One session of the list.

    Attributes:
        n_ended: Ended tasks, as far as they were read.
        n_failed: Failed tasks, likewise.
        is_exact: Whether both are exact.
        cost_usd: Dollars so far; None if they are not known here.
        problem: Why the session cannot be shown; the rest is then empty.
    """

    id: str
    state: str = ""
    kind: str = ""
    name: str = ""
    created_at: float = 0.0
    active_at: float = 0.0
    n_tasks: int = 0
    n_ended: int = 0
    n_failed: int = 0
    is_exact: bool = True
    workers: int = 0
    cost_usd: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SessionList:
    """A page of sessions.

    Attributes:
        total: The number of all sessions.
        n_elsewhere: How many of them are in no store that was searched: the user has named or started them.
        before: The id after which the page before begins; None on the first page, "" if that is the first page.
        after: The id after which the next page begins; None on the last page.
        problems: Stores that cannot be listed, and why.
        n_requests: The requests that reading it took.
        counts: These, by kind, of stores that cost money.
    """

    lines: list[Line]
    total: int
    n_elsewhere: int
    n_before: int
    before: str | None
    after: str | None
    problems: list[str]
    n_requests: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


class Sessions:
    """Reads the list of sessions. Used by one thread at a time. Stores stay open until `close`, for further pages and updates."""

    def __init__(self, places: Places, clock: Clock) -> None:
        self._places = places
        self._clock = clock
        self._lock = threading.Lock()  # guards: _lines, _over, _read_ones, _beats, _sessions
        self._lines: OrderedDict[str, Line] = OrderedDict()  # those that may change, the one read longest ago first
        self._over: OrderedDict[str, Line] = OrderedDict()
        self._read_ones: OrderedDict[str, tuple[str, int, int]] = OrderedDict()  # by key: ETag, ended and failed tasks
        self._beats: OrderedDict[str, tuple[str, WorkerBeat]] = OrderedDict()  # by key: ETag, beat
        self._stores: dict[str, PatientStore] = {}
        self._sessions: dict[str, SessionStore] = {}

    def page(self, after: str = "", *, whole: bool = True) -> SessionList:
        """Return the page of sessions after this id; the newest for "". Blocks.

        Args:
            whole: Whether to read all that may have changed, instead of `MOST_REQUESTS` requests' worth of it.
        """
        before_n = self._counts()
        problems: list[str] = []
        urls, listed = self._all(problems)
        ids = sorted(urls, reverse=True)  # an id begins with the time of its creation
        first = next((i for i, name in enumerate(ids) if name < after), len(ids)) if after else 0
        shown = ids[first : first + PAGE]
        before = None if first == 0 else ids[first - PAGE - 1] if first > PAGE else ""
        most = None if whole else MOST_REQUESTS - sum((self._counts() - before_n).values())
        lines = self._shown({name: urls[name] for name in shown}, most)
        counts = self._counts() - before_n
        return SessionList(
            lines,
            len(ids),
            len(urls.keys() - listed),
            first,
            before,
            shown[-1] if shown and first + PAGE < len(ids) else None,
            problems,
            sum(counts.values()),
            counts if any(map(is_billed, self._stores)) else {},
        )

    def close(self) -> None:
        """Close the stores; a later page opens them again."""
        while self._stores:
            self._stores.popitem()[1].close()
        with self._lock:
            self._sessions.clear()

    def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for store in self._stores.values():
            snapshot = store.requests.snapshot()
            counts.update({kind: snapshot[kind] for kind in _KINDS})
        return counts

    def _all(self, problems: list[str]) -> tuple[dict[str, str], Set[str]]:
        """Return the URLs of all sessions by id, and the ids of those that the stores have listed."""
        urls: dict[str, str] = {}
        listed: set[str] = set()
        for store_url in self._places.stores:
            try:
                store = self._store(store_url)
                names = [name for name in store.list_folders(SESSIONS) if is_session_id(name)]
                urls.update({name: join_url(store_url, name) for name in names})
                listed |= {_place(store_url), _place(store.url)}
            except StarburstError as error:
                problems.append(f"{store_url}: {error}")
        known = dict(self._places.known)
        if not self._places.is_given:
            known |= {name: url for name in registry.all_ids() if (url := registry.known_url(name)) is not None}
        # What a store was known to have, and does not list, was deleted.
        elsewhere = {name: url for name, url in known.items() if _store_of(url) not in listed}
        return elsewhere | urls, urls.keys()

    def _store(self, store_url: str) -> PatientStore:
        if store_url not in self._stores:
            self._stores[store_url] = PatientStore(open_store(store_url), self._clock, patience_s=_PATIENCE_S)
        return self._stores[store_url]

    def _shown(self, urls: Mapping[str, str], most: int | None) -> list[Line]:
        """Return the lines of these sessions; read those again that may have changed, up to this number of requests."""
        with self._lock:
            lines = {name: self._over[name] for name in urls if name in self._over}
            order = {name: i for i, name in enumerate(self._lines)}
        due: dict[str, PatientStore] = {}
        for name in sorted(urls.keys() - lines.keys(), key=lambda name: order.get(name, -1)):
            try:
                due[name] = self._store(split_url(urls[name])[0])
            except StarburstError as error:  # a damaged note in the registry, or a store that cannot be opened
                lines[name] = Line(name, problem=str(error))
        if most is None:
            for store in dict.fromkeys(due.values()):
                names = [name for name in due if due[name] is store]
                lines.update(zip(names, fan_out(store, partial(self._line, store), names), strict=True))
        else:
            begun = self._counts()
            for name, store in due.items():
                left = most - sum((self._counts() - begun).values())
                if left < _LEAST_LEFT:
                    break
                lines[name] = self._line(store, name, most_read=min(_MOST_READ, (left - _LEAST_LEFT) // 2 + 1))
        with self._lock:
            return [lines.get(name) or self._lines.get(name) or Line(name, problem="not read yet") for name in urls]

    def _line(self, store: PatientStore, session_id: str, most_read: int = _MOST_READ) -> Line:
        try:
            line = self._read(store, session_id, most_read)
        except SessionNotFound:
            line = Line(session_id, problem="it was deleted")
        except StarburstError as error:
            _log.info("a session cannot be listed: session=%s: %s", session_id, type(error).__name__)
            line = Line(session_id, problem=str(error))
        is_final = line.state not in ("", "open", "closing") and line.is_exact
        with self._lock:
            _keep(self._over if is_final else self._lines, session_id, line, _REMEMBERED)
            if is_final:
                self._lines.pop(session_id, None)
        return line

    def _session(self, store: PatientStore, session_id: str) -> SessionStore:
        """Return a session whose manifest is read again only if it has changed."""
        with self._lock:
            if session_id not in self._sessions:
                self._sessions[session_id] = SessionStore(
                    store, session_id, Sealer(_key(session_id), session_id), self._clock
                )
            return self._sessions[session_id]

    def _read(self, store: PatientStore, session_id: str, most_read: int) -> Line:
        session = self._session(store, session_id)
        manifest = session.manifest.refresh()
        listing = session.statuses.all()
        suspects = [
            listed for listed in listing if listed.size_class not in (SizeClass.ALL_PENDING, SizeClass.ALL_COMPLETED)
        ]
        with self._lock:
            known = {listed.key: self._read_ones.get(listed.key, ("", 0, 0)) for listed in suspects}
        unread = [listed for listed in suspects if known[listed.key][0] != listed.etag]
        for block in Reading(session).blocks(unread[:most_read]):
            n_failed = sum(task.state == State.FAILED for task in block.tasks)
            known[block.listed.key] = (block.listed.etag, sum(task.has_ended for task in block.tasks), n_failed)
        with self._lock:
            for key, counted in known.items():
                _keep(self._read_ones, key, counted, 40 * _REMEMBERED)
        signs = list_workers(session)
        alive = [sign for sign in signs if not sign.has_left]
        beats = self._newest_beats(session, signs, most_read)
        now = self._clock.now()
        cost = cost_of(manifest, now, beats, (), {}, store.url) if len(signs) <= _MOST_READ else None
        is_due = manifest.deadline_at is not None and now >= manifest.deadline_at and not manifest.state.is_over
        state = SessionState.EXPIRED if is_due else manifest.state
        return Line(
            session_id,
            state.value,
            manifest.kind,
            manifest.name,
            manifest.created_at,
            max([manifest.created_at, *(listed.modified_at for listed in listing)]),
            sum(listed.ref.n_tasks for listed in listing),
            sum(
                listed.ref.n_tasks if listed.size_class.has_ended else known.get(listed.key, ("", 0, 0))[1]
                for listed in listing
            ),
            sum(n_failed for _, _, n_failed in known.values()),
            len(unread) <= most_read,
            0 if state.is_over else len(alive),
            None if cost is None else cost.workers_usd,
        )

    def _newest_beats(self, session: SessionStore, signs: Sequence[Sign], most_read: int) -> list[WorkerBeat]:
        """Return the beats of the newest workers; read those that have changed, up to a number."""
        newest = signs[-_MOST_READ:]
        with self._lock:
            known = {sign.key: self._beats[sign.key] for sign in newest if sign.key in self._beats}
        changed = [sign.key for sign in newest if known.get(sign.key, ("", None))[0] != sign.etag][:most_read]
        for key, pair in zip(changed, fan_out(session.store, partial(read_beat, session), changed), strict=True):
            if pair is not None:
                known[key] = (pair[1], pair[0])
        with self._lock:
            for key, beat in known.items():
                _keep(self._beats, key, beat, _MOST_READ * _REMEMBERED)
        return [beat for _, beat in known.values()]


def _place(store_url: str) -> str:
    """Return where a store is: without the options by which this process reaches it, except for another endpoint."""
    base, _, query = store_url.partition("?")
    endpoint = dict(parse_qsl(query)).get("endpoint_url", "")
    return f"{base.rstrip('/')} {endpoint}"


def _store_of(url: str) -> str:
    try:
        return _place(split_url(url)[0])
    except StarburstError:  # a damaged note in the registry: its line says so
        return ""


def _key(session_id: str) -> bytes:
    try:
        return bytes(config.find_session_key(session_id))
    except KeyNotFound:
        return b""


def _keep(kept: OrderedDict[str, _V], key: str, value: _V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
