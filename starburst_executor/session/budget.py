"""Ends a session that has reached its budget. Workers use it as well as clients, because no client may be attached.

    manifest, read with each beat ─► upper estimate < budget ─► nothing
                                      └─► read the beats ─► better estimate < budget ─► look again in a minute
                                                             └─► swap the session to broken

The manifest alone does not show which workers have left. By its estimate, a session with one remaining worker of a hundred
would be ended for the cost of workers that ended long ago. So the beats are read before a session is ended.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from starburst_executor.protocol.money import BUDGET_EXCEEDED, budget_reason, spent
from starburst_executor.protocol.records import Manifest, SessionState
from starburst_executor.session.beats import Beats
from starburst_executor.session.store import SessionStore

__all__ = ["Budget"]

# Least interval between reads of the beats: a session may exceed its budget by this time once workers have begun to leave.
_STOCK_S = 60.0


class Budget:
    """One watcher of one session's budget. Not thread-safe."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._beats = Beats(session)
        self._next_stock = float("-inf")
        self._reached_at: float | None = None
        self._credit = 0.0  # by how much the manifest's estimate was too high at the last read

    def keep(self, *, watches: bool, patience_s: float = 0.0, dead: Collection[str] = ()) -> Manifest:
        """End the session if it has reached its budget; return the current manifest.

        Args:
            watches: Whether this process reads the beats at once; otherwise it does so only after `patience_s`.
            dead: Workers that are known to be dead.

        Store: usually nothing; each minute when the upper estimate has reached the budget 1 LIST and 1 GET for each worker that has
        beaten since, the first time for all.
        """
        session, now = self._session, self._session.clock.monotonic()
        manifest, at = session.manifest.current, session.clock.now()
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
            reason = budget_reason(current, usd)
            return replace(current, state=SessionState.BROKEN, reason=reason, error=BUDGET_EXCEEDED)

        return session.manifest.change(end)
