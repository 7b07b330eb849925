"""A worker's duties for its session: watch the other workers and the clients, repair, enforce the limits.

    rank: one of the three oldest? ──no──► nothing, until the next ranking
              │ yes
              ▼
    own beat acknowledged since the last look? ──no──► no look: it would not count
              │ yes
              ▼
    look ─► every fourth: repair, messages ─► clients ─► failures ─► budget

This runs in its own thread: a repair among a thousand workers takes long, and a request may wait for a store that does not
answer. The worker's own beats wait for neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starburst_executor.protocol.records import DETACHED, SessionState
from starburst_executor.session.beats import Sign, list_workers
from starburst_executor.session.budget import Budget
from starburst_executor.session.failures import FailedTasks
from starburst_executor.session.repair import Watcher
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.messages import Messages
from starburst_executor.worker.rank import Rank

__all__ = ["Heard", "Watching"]

_log = logging.getLogger(__name__)

# Three watchers: two may be lost at once, and the cost of watching does not grow with the number of workers.
_N_WATCHERS = 3


class Heard(NamedTuple):
    """The numbers of this worker's beats that the store has acknowledged, and that failed."""

    n_acknowledged: int
    n_failed: int


class Watching:
    """One worker's watch. Not thread-safe.

    Args:
        heard: Returns the counts of this worker's own beats.
        bound: Whether this worker ends with the client that started it, through a pipe; it then need not watch client beats.
        rank: Learns this worker's place among the living ones.
        publish: Sends title and body of a message to the stack's topic; None if it has none.
    """

    def __init__(
        self,
        session: SessionStore,
        worker_id: str,
        heard: Callable[[], Heard],
        *,
        bound: bool,
        rank: Rank | None = None,
        publish: Callable[[str, str], None] | None = None,
    ) -> None:
        self._rank = rank
        self._session = session
        self._worker_id = worker_id
        self._heard = heard
        self._clock = session.clock
        self._timings = session.manifest.current.timings
        self._watcher = Watcher(session, self._timings.looks_until_lost)
        self._budget = Budget(session)
        self._failed = FailedTasks(session)
        self._watches = False
        self._n_looks = 0
        self._next_look = 0.0
        self._next_rank = 0.0
        self._ranked: dict[str, str] = {}  # the older workers' beats at the last ranking
        self._at_last_look = Heard(0, 0)
        self._clients = _ClientWatch(session, bound=bound)
        self.messages = Messages(session, publish)

    @property
    def n_failed(self) -> int:
        """The number of tasks that this watcher has failed, because their workers were lost."""
        return self._watcher.n_failed

    def turn(self) -> None:
        """Do the work of one beat interval.

        Store: usually nothing; 1 LIST per 1,000 workers at each ranking. A watcher: 1 LIST, in an attached session 2, and a
        repair each fourth look.
        """
        if self._session.manifest.current.state.is_over:
            return
        heard = self._heard()
        if heard.n_failed != self._at_last_look.n_failed:
            # This worker itself may be cut off.
            self._watcher.watch.failed()
            self._at_last_look = self._at_last_look._replace(n_failed=heard.n_failed)
        self._learn_rank()
        if self._watches:
            self._look(heard)
            self._clients.turn()
            self._failed.keep()
        # The watchers look at the beats; the other workers do so only after the watchers would have been replaced.
        self._budget.keep(watches=self._watches, patience_s=self._timings.rank_s)

    def knows_place(self) -> bool:
        """List the workers, and return whether all workers of the session were listed; that is then its first ranking.

        Store: 1 LIST per 1,000 workers.
        """
        living = self._living()
        if self._rank is not None and not self._rank.is_whole(self._session.manifest.current.slots):
            return False
        self._rank_among(living)
        return True

    def _learn_rank(self) -> None:
        """Find out whether this is one of the three oldest living workers. Store: 1 LIST per 1,000 workers, at each ranking."""
        if self._clock.monotonic() >= self._next_rank:
            self._rank_among(self._living())

    def _rank_among(self, living: Sequence[Sign]) -> None:
        self._next_rank = self._clock.monotonic() + self._timings.rank_s
        # Ids sort by creation time. No clock needs to be right: all workers only have to choose about the same three.
        older = [sign for sign in living if sign.owner < self._worker_id]
        # A worker that has not beaten since the last ranking does not watch, for whatever reason.
        n_older = sum(self._ranked.get(sign.owner) != sign.etag for sign in older)
        self._ranked = {sign.owner: sign.etag for sign in older}
        self._watches = n_older < _N_WATCHERS

    def _living(self) -> list[Sign]:
        living = [sign for sign in list_workers(self._session) if not sign.has_left]
        if self._rank is not None:
            self._rank.learn(self._worker_id, [sign.owner for sign in living])
        return living

    def _look(self, heard: Heard) -> None:
        now = self._clock.monotonic()
        if now < self._next_look or heard.n_acknowledged == self._at_last_look.n_acknowledged:
            return
        self._next_look = now + self._timings.look_s * 0.9
        self._at_last_look = heard
        self._watcher.look()
        self._n_looks += 1
        if self._n_looks % self._timings.looks_until_lost == 0:
            n_tasks = self._watcher.repair()
            if n_tasks:
                _log.warning("took back tasks of lost workers: tasks=%d", n_tasks)
            self.messages.turn()


class _ClientWatch:
    """Ends an attached session whose client has been silent for too long: its results would not be collected, at a cost."""

    def __init__(self, session: SessionStore, *, bound: bool) -> None:
        self._session = session
        self._bound = bound
        self._etags: frozenset[str] = frozenset()  # of the clients' beats at the last turn
        self._looked_at = session.clock.monotonic()
        self._silent_s = 0.0

    def turn(self) -> None:
        """Look at the clients' beats. Store: 1 LIST; 1 GET, 1 swap to end the session."""
        session = self._session
        manifest = session.manifest.current
        if self._bound or manifest.kind == DETACHED:
            return
        timings = manifest.timings
        etags = frozenset(line.etag for line in session.store.list(session.keys.clients))
        now = session.clock.monotonic()
        # While the store was away, no client could beat: a longer pause between two looks does not count in full.
        silent_s = min(now - self._looked_at, 2 * timings.beat_s)
        self._looked_at = now
        self._silent_s = 0.0 if etags != self._etags else self._silent_s + silent_s
        self._etags = etags
        if self._silent_s >= timings.client_gone_s + timings.unheard_s:
            session.manifest.end(SessionState.TERMINATED, "its client has been silent for too long")
