"""Ends a session that has reached its budget. Used by workers, which may be alone, and by clients alike.

    manifest, read with each beat ─► upper estimate < budget ─► nothing
                                      └─► read the beats ─► better estimate < budget ─► look again in a minute
                                                             └─► swap the session to broken

The manifest alone does not tell who has left: a straggler among a hundred workers that have long gone would be ended
for money that nobody spends. So the beats are read before a session is ended.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from starburst_executor.protocol.money import budget_reason, spent
from starburst_executor.protocol.records import Manifest, SessionState
from starburst_executor.session.beats import Beats
from starburst_executor.session.store import SessionStore

__all__ = ["Budget"]

# How often the beats are read at most: by so much a session can outlive its budget once its workers began to leave.
_STOCK_S = 60.0


class Budget:
    """One watcher of one session's budget. Not thread-safe."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._beats = Beats(session)
        self._next_stock = float("-inf")
        self._reached_at: float | None = None
        self._credit = 0.0  # by so much the manifest alone said too much, the last time

    def keep(self, *, watches: bool, patience_s: float = 0.0, dead: Collection[str] = ()) -> Manifest:
        """End the session if it has reached its budget; the manifest as it then is.

        Args:
            watches: Whether it is for this process to look at the beats; others do it if nobody has for `patience_s`.
            dead: Workers that are known to be dead.

        Store: nothing mostly; each minute when the upper estimate has reached the budget 1 LIST and 1 GET for each worker that has
        beaten since, the first time for all.
        """
        session, now = self._session, self._session.clock.monotonic()
        manifest, at = session.manifest, session.clock.now()
        if manifest.budget_usd is None or manifest.state.is_over:
            return manifest
        upper = spent(manifest, at)
        if upper - self._credit < manifest.budget_usd:
            self._reached_at = None
            return manifest
        if self._reached_at is None:
            self._reached_at = now
        if now < self._next_stock or (not watches and now < self._reached_at + patience_s):
            return manifest
        self._next_stock = now + _STOCK_S
        usd = spent(manifest, at, self._beats.read(), dead)
        if usd < manifest.budget_usd:
            self._credit = upper - usd
            return manifest

        def end(current: Manifest) -> Manifest | None:
            # End or raise the budget: the first to land wins, since both are swaps of the same object.
            if current.state.is_over or current.budget_usd is None or usd < current.budget_usd:
                return None
            return replace(current, state=SessionState.BROKEN, reason=budget_reason(current, usd))

        return session.change(end)
