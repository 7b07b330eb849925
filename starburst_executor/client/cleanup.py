"""How sessions are deleted: one by its client, and by the next client those that dead ones left in an embedded store.

Guarantee: nothing is deleted for its age alone. What the sweep deletes has been declared deleted, or is an attached
session whose client's process is gone (`owner.py`) and that was not to be kept, or what landed too late in a session that
is deleted. Age comes on top: for a week a person may look at it.
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
from starburst_executor.launch.local.launcher import forget_session
from starburst_executor.protocol.keys import SESSIONS, is_session_id
from starburst_executor.protocol.records import ATTACHED, Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import ObjectStore

__all__ = ["SWEEP_AFTER_S", "Sweep", "delete_session", "say_skipped", "utc"]

_log = logging.getLogger(__name__)

SWEEP_AFTER_S = 7 * 24 * 3600.0
# A look at a session takes a fraction of a millisecond. A folder may hold thousands that are not to be swept: each client
# looks at some, by lot, and a few at a time, since the thread that does so also watches the workers.
_LOOKS = 100
_LOOKS_AT_ONCE = 5
_skipped: set[tuple[str, str]] = set()


def delete_session(session: SessionStore) -> None:
    """Delete exactly this session's objects, all of them, the manifest last. Harmless if they are gone.

    Store: 1 GET, 1 swap, 1 LIST per 1,000 objects until one is empty, 1 delete per 1,000.
    """
    store, keys = session.store, session.keys
    # A manifest that is gone: another client is deleting the session, or did not finish.
    with suppress(SessionNotFound):
        session.end(SessionState.DELETED, "deleted")
    while left := [line.key for line in store.list(keys.folder) if line.key != keys.manifest]:
        store.delete(left)
    store.delete([keys.manifest])
    registry.forget(session.session_id)
    forget_session(session.session_id)


def say_skipped(store_url: str, session_id: str, error: StarburstError) -> None:
    """Say once in this process what is left alone because it cannot be read."""
    if (store_url, session_id) not in _skipped:
        _skipped.add((store_url, session_id))
        _log.warning(
            "left alone what cannot be read as a session: session=%s, store=%s: %s", session_id, store_url, error
        )


class Sweep:
    """Tidies an embedded store, a little at each step. Not thread-safe.

    Args:
        store: Without patience: a file that another program has locked is left to the next client.
    """

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._left: list[str] | None = None

    def step(self) -> bool:
        """Look at a few sessions; whether there are more to look at.

        Store: 1 LIST at the first step; at each further one 1 GET for up to 5 sessions that are old enough, 1 LIST for
        those that are left behind, and their deletion.
        """
        try:
            if self._left is None:
                self._left = self._old_ones()
            else:
                for name in self._left[:_LOOKS_AT_ONCE]:
                    self._look_at(name)
                del self._left[:_LOOKS_AT_ONCE]
        except StarburstError as error:
            _log.info("the store is not tidied now: %s", error)
            return False
        return bool(self._left)

    def _old_ones(self) -> list[str]:
        # Ids begin with the date of their making, so the young ones need not be read.
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
                if not lines:  # the file of one that was deleted, whose process died as it was to remove it
                    session.store.delete([session.keys.manifest])
                elif self._clock.now() - touched_at > SWEEP_AFTER_S:
                    delete_session(session)
        except StoreUnavailable:
            raise
        except StarburstError as error:
            say_skipped(self._store.url, session_id, error)


def _is_left_behind(session: SessionStore) -> bool:
    try:
        return _is_ownerless(session.refresh())
    except SessionNotFound:
        # The manifest is made first and deleted last: these are remains of a session that was deleted.
        return True


def _is_ownerless(manifest: Manifest) -> bool:
    if manifest.state == SessionState.DELETED:  # whoever deleted it did not finish
        return True
    return manifest.kind == ATTACHED and not manifest.keep and is_gone(manifest.owner)


def utc(at: float) -> datetime:
    """A time of the clock for people and for names."""
    return datetime.fromtimestamp(at if math.isfinite(at) else 0.0, timezone.utc)
