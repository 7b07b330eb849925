"""The periodic work of an attached client: it beats, watches workers and repairs; `starter.py` replaces missing workers.

Owned by one thread of the engine, which calls `turn` often; `turn` does the parts that are due.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from starburst_executor.client.deaths import Deaths
from starburst_executor.client.departure import Departure
from starburst_executor.client.presence import Presence
from starburst_executor.client.starter import Starter
from starburst_executor.errors import BudgetExceeded, LaunchError, StoreUnavailable, TooManyFailures
from starburst_executor.launch.base import Launcher, Order
from starburst_executor.session.beats import read_beat
from starburst_executor.session.budget import Budget
from starburst_executor.session.epochs import return_of
from starburst_executor.session.failures import FailedTasks, Seen
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.repair import Watcher, end_what_is_left
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import Urgency

if TYPE_CHECKING:
    from starburst_executor.client.shortage import Shortage

__all__ = ["ClientKeeper"]

_log = logging.getLogger(__name__)

# How often to ask the launcher for dead workers; for local workers this is one `waitpid` each.
_DEATHS_S = 0.1


class ClientKeeper:
    """Keeps a session going while its client is attached. Not thread-safe.

    Args:
        launcher: Starts workers; None if this client starts none.
        order: Returns the order for a launch's id and a number of slots.
        needs_workers: Returns whether any task is not done.
        needs: Returns the watched objects with resources, as `Shortage` has it.
        claims: Returns the ids of the claims in the status objects that the client watches, as it last read them.
        seen: Returns what the client has read of the tasks' outcomes.

    Attributes:
        n_workers: Workers that were not lost at the last look at their beats.
    """

    def __init__(
        self,
        session: SessionStore,
        client_id: str,
        launcher: Launcher | None,
        *,
        order: Callable[[str, int], Order],
        needs_workers: Callable[[], bool],
        claims: Callable[[], frozenset[str]],
        needs: Callable[[], Mapping[str, Sequence[str]]] = dict,
        seen: Callable[[], Seen] = Seen,
    ) -> None:
        self._session = session
        self._client_id = client_id
        self._clock = session.clock
        self._timings = session.manifest.current.timings
        self._watcher = Watcher(session, self._timings.looks_until_lost)
        self._budget = Budget(session)
        self._failed = FailedTasks(session, lambda: self._watcher.n_failed, seen)
        self._presence = Presence(session, client_id)
        self._departure = Departure(session, launcher, self._watcher, claims)
        self._needs = needs
        self._shortage: Shortage | None = None
        self._deaths = Deaths(session, launcher)
        self.n_workers = 0
        self._buried: set[str] = set()
        self._next_deaths = float("-inf")
        self._n_looks = 0
        self._is_renumbered = False
        self._needs_workers = needs_workers
        self._starter = None
        if launcher is not None:
            self._starter = Starter(
                session,
                launcher,
                client_id,
                order=order,
                needs_workers=needs_workers,
                watcher=self._watcher,
                introduce=self._presence.introduce,
            )
            self._starter.launches.buried = self._buried

    def turn(self) -> float:
        """Do the work that is due; return the seconds until more is due.

        Raises: SessionNotFound if the session was deleted.
        Store: usually nothing; per beat interval 1 swap, 1 LIST, 1 GET; in every fourth interval a repair.
        """
        now = self._clock.monotonic()
        self._departure.prepare()
        if self._presence.due_in_s() <= 0:
            self._presence.postpone()
            self._beat_and_look()
        if self._failed.keep_seen():
            end_what_is_left(self._session, self._session.manifest.current)
        sees_deaths = self._deaths.are_seen
        if sees_deaths and (now >= self._next_deaths or self.awaits_work()):
            self._next_deaths = now + _DEATHS_S
            self._bury()
            self._start_missing()
        # Which workers stay is decided once the surplus ones were asked to leave.
        if self._starter is None or not self._is_renumbered:
            self._departure.look(self._starter, needs_workers=self._needs_workers)
        ring_s = self._session.bell.ring_due(Urgency.VITAL)
        waits = [self._presence.due_in_s(), _DEATHS_S if sees_deaths else self._timings.beat_s]
        if self._departure.is_asked:
            waits.append(_DEATHS_S / 2)
        return max(0.0, min(waits + ([] if ring_s is None else [ring_s])))

    def _start_missing(self) -> None:
        if self._starter is None:
            return
        if self._is_renumbered:
            self._is_renumbered = False
            self._starter.launches.drain_surplus()
        self._starter.turn()

    def awaits_work(self) -> bool:
        """Whether no worker was started because there was no work: after a submit, `turn` should be called at once."""
        return self._starter is not None and self._starter.awaits_work

    @property
    def buried(self) -> frozenset[str]:
        """The workers whose death the launcher has seen, including those that the manifest no longer names."""
        return frozenset(self._buried)

    def renumber(self) -> None:
        """Drain surplus workers at the next turn, after the number of workers was changed. Thread-safe."""
        self._is_renumbered = True

    # --- leaving ------------------------------------------------------------------------------------------------------

    def ask_to_leave(self) -> None:
        """Make sure at the next turns that a worker stays; `may_leave` is set then. Thread-safe."""
        self._departure.ask()

    @property
    def may_leave(self) -> threading.Event:
        """After `ask_to_leave`, set once the client may leave its work to the workers, or `leave_error` is set."""
        return self._departure.may_leave

    @property
    def leave_error(self) -> LaunchError | BudgetExceeded | TooManyFailures | None:
        """The reason why no worker will do that work."""
        return self._departure.error

    def leave(self) -> None:
        """Hand unfinished launches over to other clients, and write the last beat.

        Store: nothing if this client never beat; else 1 swap, and 1 more for an unfinished launch.
        """
        if not self._presence.is_shown:
            return
        if self._starter is not None:
            self._starter.hand_over()
        self._presence.leave()

    def beat(self) -> None:
        """Write a beat, which shows that this client is attached. Store: 1 create or 1 swap."""
        self._presence.beat()

    # --- beats and looks ----------------------------------------------------------------------------------------------

    def _beat_and_look(self) -> None:
        try:
            self._presence.beat()
            self._watcher.look()
        except StoreUnavailable:
            self._watcher.watch.failed()
            raise
        self.n_workers = len(self._watcher.watch.living())
        if self._starter is not None:
            self._starter.end_silent()
        self._n_looks += 1
        if self._n_looks % self._timings.looks_until_lost == 0:
            self._repair()
        self._session.manifest.refresh()
        return_of(self._session, self._client_id)
        self._session.manifest.expire_if_due()
        self._failed.keep()
        if self._shortage is not None or self._needs():
            self._look_for_shortage()
        manifest = self._budget.keep(watches=True, dead=self._buried)
        if manifest.state.is_over:
            end_what_is_left(self._session, manifest)

    def _look_for_shortage(self) -> None:
        from starburst_executor.client.shortage import Shortage  # of use to tasks with resources only

        if self._shortage is None:
            self._shortage = Shortage(self._session, self._needs, self._watcher.watch.living)
        self._shortage.look()

    def _repair(self) -> None:
        n_tasks = self._watcher.repair(self._beat_if_due)
        if n_tasks:
            _log.warning("took back tasks of lost workers: tasks=%d, session=%s", n_tasks, self._session.session_id)

    def _beat_if_due(self) -> None:
        """Beat between two requests of a long repair, so that the processes that watch this client still hear of it."""
        if self._presence.due_in_s() <= 0:
            self._presence.postpone()
            try:
                self._presence.beat()
            except StoreUnavailable:
                self._watcher.watch.failed()
                raise

    # --- workers ------------------------------------------------------------------------------------------------------

    def _count_interruptions(self) -> None:
        """Record in the manifest how many workers the platform has taken back. Store: 1 swap if there are more than recorded."""
        starter = self._starter
        if (
            starter is not None
            and starter.launches.counted(self._session.manifest.current) != self._session.manifest.current
        ):
            manifest = self._session.manifest.change(starter.launches.recounted)
            _log.info("workers taken back: %d, session=%s", manifest.n_interruptions, self._session.session_id)

    def _bury(self) -> None:
        """Take back at once the tasks of workers whose death the launcher has seen."""
        deaths = [pair for pair in self._deaths.seen() if pair[0].worker_id not in self._buried]
        self._count_interruptions()
        if not deaths:
            return
        # A client that ends the session ends its workers with it: then nothing was wrong with them.
        is_over = self._session.manifest.refresh().state.is_over
        ours = [] if self._starter is None or is_over else [death for death, is_ours in deaths if is_ours]
        keys = [self._session.keys.worker(death.worker_id) for death in ours]
        beats = fan_out(self._session.store, partial(read_beat, self._session), keys)
        for death, _ in deaths:
            self._buried.add(death.worker_id)
            self._watcher.watch.dead.add(death.worker_id)
            if death.words:
                self._watcher.words[death.worker_id] = death.words
        for death, stored in zip(ours, beats, strict=True):
            if self._starter is not None:
                self._starter.saw_death(death, None if stored is None else stored[0])
        # First decide whether the session breaks: if no worker can do any work, the last worker's task is not to blame.
        self._start_missing()
        self._repair()
        manifest = self._session.manifest.refresh()
        if manifest.state.is_over:
            end_what_is_left(self._session, manifest)
