"""Announces what the keys of a client's status objects say: that a session has priorities, and its limits with their numbers."""

from __future__ import annotations

from dataclasses import replace

from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.options import Limit
from starburst_executor.protocol.records import Manifest
from starburst_executor.session.store import SessionStore

__all__ = ["Announcer"]


class Announcer:
    """Says before a status object is created what workers and watchers must know of it. Thread-safe: each may announce the same."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._limits: set[Limit] = set()  # that this client has stored

    def announce(self, ref: StatusRef, limit: Limit | None) -> None:
        """Store the limit of an object's tasks, and note in the manifest that there are priorities or limits. Harmless to repeat.

        Store: nothing without them; 1 swap for the first of a session, and the requests of `SessionLimits.set` for each limit once.
        """
        manifest = self._session.manifest
        if limit is not None and limit not in self._limits:
            self._session.limits.set(*limit)
            self._limits.add(limit)

        def step(current: Manifest) -> Manifest | None:
            has_priorities = current.has_priorities or ref.priority != 0
            has_limits = current.has_limits or limit is not None
            if (has_priorities, has_limits) == (current.has_priorities, current.has_limits):
                return None
            return replace(current, has_priorities=has_priorities, has_limits=has_limits)

        if step(manifest.current) is not None:
            manifest.change(step)
