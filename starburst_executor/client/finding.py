"""Finds a session by what a user types: an id, a unique beginning of one, a URL, a name, or `last`; and opens it to read it.

    text ──► a URL ────────────────────────────────────────────► that session
         ──► an id or its beginning ──► registry, then the stores ► the one that matches
         ──► a name ──────────────────► names in the stores ─────► the one that has it
         ──► last ──► registry, then the stores ────────────────► the newest that this user started

Reading needs no key as long as it shows neither values nor errors: `visit` opens a session without one.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby

from starburst_executor import config
from starburst_executor.client import registry
from starburst_executor.client.opening import FIRST_PATIENCE_S, find_name
from starburst_executor.clock import Clock
from starburst_executor.config import SessionKey
from starburst_executor.errors import (
    ConfigError,
    KeyNotFound,
    RecordInvalid,
    SessionNotFound,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.protocol.keys import SESSIONS, is_name, is_session_id
from starburst_executor.protocol.records import DETACHED, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.names import Names
from starburst_executor.session.store import SessionStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import join_url, split_url

__all__ = ["LAST", "Visit", "find_url", "known_ids", "known_names", "visit"]

LAST = "last"
# Sessions that are read in search of the newest of this user's, in a store that others use too.
_MOST_READ = 200
_SHOWN = 5
_SECOND_CHARS = len("20260401-120000")


@dataclass(frozen=True, slots=True)
class Visit:
    """A session that is open for reading.

    Attributes:
        session: The session; without a key if this process has none, or another one.
        store: Its store.
    """

    session: SessionStore
    store: PatientStore

    @property
    def url(self) -> str:
        return join_url(self.store.url, self.session.session_id)


@contextmanager
def visit(url: str, clock: Clock, *, key: str | bytes | SessionKey | None = None) -> Iterator[Visit]:
    """Open a session by its URL, to read it; changes nothing and starts nothing.

    Raises: SessionNotFound, ConfigError, AccessDenied, StoreUnavailable. Store: 1 GET; 1 more if the key is another session's; 1 LIST if there is none.
    """
    store_url, session_id = split_url(url)
    with closing(PatientStore(open_store(store_url), clock, patience_s=FIRST_PATIENCE_S)) as store:
        session = SessionStore(store, session_id, Sealer(_key(session_id, key), session_id), clock)
        if not _is_stored(session):
            near = difflib.get_close_matches(session_id, store.list_folders(SESSIONS), 1, 0.6)
            raise SessionNotFound(
                f"no such session, or it was deleted: session={session_id}, store={store.url}; "
                f"{f'did you mean {near[0]}? ' if near else ''}`starburst sessions --store {shlex.quote(store.url)}` lists those that are there"
            )
        if session.sealer.has_key and not session.manifest.has_right_key():
            session = SessionStore(store, session_id, Sealer(b"", session_id), clock)
        store.patience_s = session.manifest.current.timings.patience_s
        yield Visit(session, store)


def _is_stored(session: SessionStore) -> bool:
    with suppress(SessionNotFound):
        return session.manifest.refresh().state != SessionState.DELETED
    return False


def _key(session_id: str, given: str | bytes | SessionKey | None) -> bytes:
    try:
        return bytes(config.find_session_key(session_id, given))
    except KeyNotFound:
        return b""


def known_ids(stores: Sequence[str], clock: Clock) -> list[str]:
    """Return the ids of all sessions in these stores and in this machine's registry, oldest first. Store: 1 LIST each."""
    ids = set(registry.all_ids())
    for url in stores:
        ids.update(_ids_in(url, clock))
    return sorted(ids)


def known_names(stores: Sequence[str], clock: Clock) -> list[str]:
    """Return the names of sessions in these stores. Store: 1 LIST each, 1 GET a name."""
    return sorted({name for url in stores for name in _names_in(url, clock)})


def find_url(text: str, stores: Sequence[str], clock: Clock, *, is_given: bool) -> str:
    """Return the URL of the session that a user means.

    Args:
        text: An id, a unique beginning of one, a URL, a name, or `last`.
        stores: The URLs of the stores to search.
        is_given: Whether the user named the store: then no session in another one is meant.

    Raises:
        SessionNotFound: there is none; the message names the nearest.
        ConfigError: several ids begin so, or it is not a proper URL.

    Store: nothing for a URL or a known id; 1 GET each for a name; otherwise 1 LIST each, and for `last` on a machine that has started none up to 200 GETs.
    """
    if "://" in text:
        split_url(text)
        return text
    if text == LAST:
        return _last(stores, clock, is_given=is_given)
    if is_name(text):
        named = find_name(text, stores, clock, is_given=is_given)
        if named is not None:
            return join_url(*named)
    if not is_given and (known := registry.known_url(text)) is not None:
        return known
    places: dict[str, str] = {}
    for url in stores:
        places.update({name: join_url(url, name) for name in _ids_in(url, clock)})
    if not is_given:
        for name in registry.all_ids():
            if name not in places and (known := registry.known_url(name)) is not None:
                places[name] = known
    if text in places:
        return places[text]
    matches = sorted(name for name in places if text and name.startswith(text))
    if len(matches) == 1:
        return places[matches[0]]
    if matches:
        more = f" and {len(matches) - _SHOWN} more" if len(matches) > _SHOWN else ""
        raise ConfigError(
            f"several sessions begin with {text!r}: {', '.join(matches[-_SHOWN:])}{more}; type more of the id"
        )
    near = difflib.get_close_matches(text, [*places, *known_names(stores, clock), LAST], 1, 0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    raise SessionNotFound(
        f"no such session: {text!r} in {' or '.join(stores)}; {hint}`starburst sessions` lists them, and --store names "
        "another store"
    )


def _last(stores: Sequence[str], clock: Clock, *, is_given: bool) -> str:
    """Return the URL of the newest session that this user started: by the registry, or by the user's key."""
    known = [(name, url) for name in registry.all_ids() if (url := registry.known_url(name)) is not None]
    ours = [(name, url) for name, url in known if not is_given or split_url(url)[0] in stores]
    if newest := _newest(ours, lambda url: _created_at(url, clock)):
        return newest
    found: list[tuple[str, str]] = []
    for store_url in stores:
        found += [(name, join_url(store_url, name)) for name in _ids_in(store_url, clock)]
    if newest := _newest(sorted(found, reverse=True)[:_MOST_READ], lambda url: _created_by_user(url, clock)):
        return newest
    raise SessionNotFound(
        f"you have started no session in {' or '.join(stores)}; `starburst sessions` lists those that are there, and "
        "`starburst run` starts one"
    )


def _newest(sessions: Iterable[tuple[str, str]], created_at: Callable[[str], float | None]) -> str:
    """Return the URL of the session that was created last; empty if there is none.

    Args:
        sessions: Ids and URLs. An id begins with the second of its creation.
        created_at: Returns when the session of a URL was created; None if it does not count.
    """
    for _, same in groupby(sorted(sessions, reverse=True), key=lambda session: session[0][:_SECOND_CHARS]):
        times = [(at, url) for _, url in same if (at := created_at(url)) is not None]
        if times:
            return max(times)[1]
    return ""


def _created_at(url: str, clock: Clock) -> float | None:
    try:
        with visit(url, clock) as visited:
            return visited.session.manifest.current.created_at
    except SessionNotFound:
        return None


def _created_by_user(url: str, clock: Clock) -> float | None:
    """Return when this user created a session; None for one of others, whose token does not open with the key of the user's key file."""
    try:
        with visit(url, clock) as visited:
            manifest = visited.session.manifest.current
            return manifest.created_at if manifest.kind == DETACHED and visited.session.sealer.has_key else None
    except (SessionNotFound, RecordInvalid, VersionMismatch, StoreUnavailable):
        return None


def _names_in(store_url: str, clock: Clock) -> list[str]:
    with closing(PatientStore(open_store(store_url), clock, patience_s=FIRST_PATIENCE_S)) as store:
        return list(Names(store, clock).all())


def _ids_in(store_url: str, clock: Clock) -> list[str]:
    with closing(PatientStore(open_store(store_url), clock, patience_s=FIRST_PATIENCE_S)) as store:
        return [name for name in store.list_folders(SESSIONS) if is_session_id(name)]
