"""Deletes sessions: `delete_session` for a client's own, `Sweep` for those that dead clients left in an embedded store.

Guarantee: age alone never deletes a session. The sweep deletes a session that was declared deleted, an attached session
without `keep` whose client's process is gone (`owner.py`), and writes that landed after a session was deleted. Each must
also be a week old, so that the user has a week to inspect it.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from datetime import datetime, timezone

from starburst_executor.client import registry
from starburst_executor.client.owner import is_gone
from starburst_executor.clock import Clock
from starburst_executor.errors import SessionNotFound, StarburstError, StoreUnavailable
from starburst_executor.launch.local.workers import forget_session
from starburst_executor.protocol.keys import SESSIONS, is_session_id
from starburst_executor.protocol.records import ATTACHED, Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.names import Names
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import ObjectStore

__all__ = ["SWEEP_AFTER_S", "Sweep", "delete_session", "say_skipped", "utc"]

_log = logging.getLogger(__name__)

SWEEP_AFTER_S = 7 * 24 * 3600.0
# Reading a manifest takes a fraction of a millisecond. A folder may hold thousands of sessions that must stay: each client
# checks a random range of them, a few per step, since the same thread also watches the workers.
_LOOKS = 100
_LOOKS_AT_ONCE = 5
_skipped: set[tuple[str, str]] = set()


def delete_session(session: SessionStore) -> None:
    """Delete all objects of this session and no others, the manifest last. Harmless if they are gone.

    Store: 1 GET, 1 swap, 1 LIST per 1,000 objects until one is empty, 1 delete per 1,000; 1 GET, 1 swap for its name.
    """
    store, keys = session.store, session.keys
    # Without a manifest, another client is deleting the session, or died while it did.
    with suppress(SessionNotFound):
        manifest = session.manifest.end(SessionState.DELETED, "deleted")
        if manifest.name:
            # Crash here: the name is that of a deleted session, which frees it too.
            Names(store, session.clock).free(manifest.name, session.session_id)
    # Until a listing is empty: a worker may still write while this runs.
    while left := [line.key for line in store.list(keys.folder) if line.key != keys.manifest]:
        store.delete(left)
    # Crash here: only a manifest in state DELETED remains. In an embedded store a later client's sweep deletes it.
    store.delete([keys.manifest])
    registry.forget(session.session_id)
    forget_session(session.session_id)


def say_skipped(store_url: str, session_id: str, error: StarburstError) -> None:
    """Log, once per process, a session that is skipped because it cannot be read."""
    if (store_url, session_id) not in _skipped:
        _skipped.add((store_url, session_id))
        _log.warning(
            "left alone what cannot be read as a session: session=%s, store=%s: %s", session_id, store_url, error
        )


class Sweep:
    """Deletes old sessions from an embedded store, a few at each step. Not thread-safe.

    Args:
        store: One without retries: a file that another program has locked is left to the next client.
    """

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._left: list[str] | None = None

    def step(self) -> bool:
        """Check a few sessions; return whether more remain.

        Store: 1 LIST at the first step; at each further one, up to 5 sessions that are old enough: 1 GET each, 1 LIST
        for each abandoned one, and its deletion.
        """
        try:
            if self._left is None:
                self._left = self._old_sessions()
            else:
                for name in self._left[:_LOOKS_AT_ONCE]:
                    self._look_at(name)
                del self._left[:_LOOKS_AT_ONCE]
        except StarburstError as error:
            _log.info("old sessions are not swept now: %s", error)
            return False
        return bool(self._left)

    def _old_sessions(self) -> list[str]:
        # An id begins with the time of its creation, so young sessions need not be read.
        newest = f"{utc(self._clock.now() - SWEEP_AFTER_S):%Y%m%d-%H%M%S}"
        names = [name for name in self._store.list_folders(SESSIONS) if is_session_id(name) and name < newest]
        first = int(self._clock.random() * len(names))
        return [*names[first:], *names[:first]][:_LOOKS]

    def _look_at(self, session_id: str) -> None:
        session = SessionStore(self._store, session_id, Sealer(b"", session_id), self._clock)
        try:
            if _is_left_behind(session):
                lines = session.store.list(session.keys.folder)
                touched_at = max((line.modified_at for line in lines), default=math.inf)
                if not lines:  # the file of a deleted session, whose process died before it removed the file
                    session.store.delete([session.keys.manifest])
                elif self._clock.now() - touched_at > SWEEP_AFTER_S:
                    delete_session(session)
        except StoreUnavailable:
            raise
        except StarburstError as error:
            say_skipped(self._store.url, session_id, error)


def _is_left_behind(session: SessionStore) -> bool:
    try:
        return _is_ownerless(session.manifest.refresh())
    except SessionNotFound:
        # The manifest is created first and deleted last: these objects remain from a deleted session.
        return True


def _is_ownerless(manifest: Manifest) -> bool:
    if manifest.state == SessionState.DELETED:  # the client that deleted it did not finish
        return True
    return manifest.kind == ATTACHED and not manifest.keep and is_gone(manifest.owner)


def utc(at: float) -> datetime:
    """Return a `Clock.now` time as a datetime in UTC, for messages and names."""
    return datetime.fromtimestamp(at if math.isfinite(at) else 0.0, timezone.utc)
