"""A line for each session of the stores, the newest first, a page at a time; what cannot change any more is read once.

Cost of a page of 25 sessions: 1 LIST a store; for each session that is not over 1 GET, 1 LIST per 1,000 status objects, 1 LIST of
beats, and up to 8 GETs of each, conditional on what was read before.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from starburst_executor import config
from starburst_executor.client import registry
from starburst_executor.client.money import cost_of
from starburst_executor.client.reading import Reading
from starburst_executor.clock import Clock
from starburst_executor.dashboard.hub import Places
from starburst_executor.errors import KeyNotFound, SessionNotFound, StarburstError
from starburst_executor.protocol.keys import SESSIONS, is_session_id
from starburst_executor.protocol.records import SessionState, WorkerBeat
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.beats import list_workers, read_beat
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.store import SessionStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import join_url, split_url

__all__ = ["PAGE", "Line", "SessionList", "Sessions"]

_V = TypeVar("_V")
_log = logging.getLogger(__name__)

PAGE = 25
_PATIENCE_S = 3.0
_MOST_READ = 8
_REMEMBERED = 500


@dataclass(frozen=True, slots=True)
class Line:
    """One session of the list.

    Attributes:
        n_failed: Failed tasks, as far as they were read.
        is_exact: Whether `n_failed` is exact.
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
        before: The id after which the page before begins; None on the first page, "" if that is the first page.
        after: The id after which the next page begins; None on the last page.
        problems: Stores that cannot be listed, and why.
    """

    lines: list[Line]
    total: int
    n_before: int
    before: str | None
    after: str | None
    problems: list[str]


class Sessions:
    """Reads the list of sessions. Used by one thread at a time."""

    def __init__(self, places: Places, clock: Clock) -> None:
        self._places = places
        self._clock = clock
        self._lock = threading.Lock()  # guards: _over, _failed
        self._over: OrderedDict[str, Line] = OrderedDict()
        self._failed: OrderedDict[str, tuple[str, int]] = OrderedDict()  # by key of a status object: ETag, failed tasks

    def page(self, after: str = "") -> SessionList:
        """Return the page of sessions after this id; the newest for "". Blocks."""
        problems: list[str] = []
        urls = self._all(problems)
        ids = sorted(urls, reverse=True)  # an id begins with the time of its creation
        first = next((i for i, name in enumerate(ids) if name < after), len(ids)) if after else 0
        shown = ids[first : first + PAGE]
        before = None if first == 0 else ids[first - PAGE - 1] if first > PAGE else ""
        return SessionList(
            self._lines({name: urls[name] for name in shown}),
            len(ids),
            first,
            before,
            shown[-1] if shown and first + PAGE < len(ids) else None,
            problems,
        )

    def _all(self, problems: list[str]) -> dict[str, str]:
        urls = dict(self._places.known)
        for store_url in self._places.stores:
            try:
                with closing(self._store(store_url)) as store:
                    names = [name for name in store.list_folders(SESSIONS) if is_session_id(name)]
                urls.update({name: join_url(store_url, name) for name in names})
            except StarburstError as error:
                problems.append(f"{store_url}: {error}")
        if not self._places.is_given:
            for name in registry.all_ids():
                if name not in urls and (known := registry.known_url(name)) is not None:
                    urls[name] = known
        return urls

    def _store(self, store_url: str) -> PatientStore:
        return PatientStore(open_store(store_url), self._clock, patience_s=_PATIENCE_S)

    def _lines(self, urls: Mapping[str, str]) -> list[Line]:
        """Return the lines of these sessions; those of one store through one client, several at a time if it is far away."""
        with self._lock:
            lines = {name: self._over[name] for name in urls if name in self._over}
        by_store: dict[str, list[str]] = {}
        for name, url in urls.items():
            if name in lines:
                continue
            try:
                by_store.setdefault(split_url(url)[0], []).append(name)
            except StarburstError as error:  # a damaged note in the registry
                lines[name] = Line(name, problem=str(error))
        for store_url, names in by_store.items():
            try:
                with closing(self._store(store_url)) as store:
                    lines.update(zip(names, fan_out(store, partial(self._line, store), names), strict=True))
            except StarburstError as error:
                lines.update({name: Line(name, problem=str(error)) for name in names})
        return [lines[name] for name in urls]

    def _line(self, store: PatientStore, session_id: str) -> Line:
        try:
            line = self._read(store, session_id)
        except SessionNotFound:
            return Line(session_id, problem="it was deleted")
        except StarburstError as error:
            _log.info("a session cannot be listed: session=%s: %s", session_id, type(error).__name__)
            return Line(session_id, problem=str(error))
        if line.state not in ("open", "closing") and line.is_exact:
            with self._lock:
                _keep(self._over, session_id, line, _REMEMBERED)
        return line

    def _read(self, store: PatientStore, session_id: str) -> Line:
        session = SessionStore(store, session_id, Sealer(_key(session_id), session_id), self._clock)
        manifest = session.manifest.refresh()
        listing = session.statuses.all()
        ended = [listed for listed in listing if listed.size_class.has_ended]
        suspects = [
            listed for listed in listing if listed.size_class not in (SizeClass.ALL_PENDING, SizeClass.ALL_COMPLETED)
        ]
        with self._lock:
            known = {listed.key: self._failed.get(listed.key, ("", 0)) for listed in suspects}
        unread = [listed for listed in suspects if known[listed.key][0] != listed.etag]
        for block in Reading(session).blocks(unread[:_MOST_READ]):
            known[block.listed.key] = (block.listed.etag, sum(task.state == State.FAILED for task in block.tasks))
        with self._lock:
            for key, counted in known.items():
                _keep(self._failed, key, counted, 40 * _REMEMBERED)
        signs = list_workers(session)
        alive = [sign for sign in signs if not sign.has_left]
        beats: list[WorkerBeat] = [
            pair[0]
            for pair in fan_out(store, partial(read_beat, session), [sign.key for sign in signs[-_MOST_READ:]])
            if pair
        ]
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
            sum(listed.ref.n_tasks for listed in ended),
            sum(n_failed for _, n_failed in known.values()),
            len(unread) <= _MOST_READ,
            0 if state.is_over else len(alive),
            None if cost is None else cost.workers_usd,
        )


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
