"""The periodic work of an attached client: it beats, watches workers and repairs; `starter.py` replaces missing workers.

Owned by one thread of the engine, which calls `turn` often; `turn` does the parts that are due.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from starburst_executor.client.deaths import Deaths
from starburst_executor.client.starter import Starter
from starburst_executor.client.staying import Staying
from starburst_executor.errors import BudgetExceeded, LaunchError, ObjectNotFound, StoreUnavailable
from starburst_executor.launch.base import Launcher, Order
from starburst_executor.launch.local.processes import identity
from starburst_executor.protocol.records import ClientBeat, SessionState
from starburst_executor.session.beats import read_beat
from starburst_executor.session.budget import Budget
from starburst_executor.session.epochs import return_of
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.own import OwnObject
from starburst_executor.session.repair import Watcher, end_what_is_left
from starburst_executor.session.store import SessionStore

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
        claims: Returns the ids of the claims in the status objects that the client watches, as it last read them.

    Attributes:
        may_leave: After `ask_to_leave`, set once the client may leave its work to the workers, or `leave_error` is set.
        leave_error: The reason why no worker will do that work.
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
    ) -> None:
        self._session = session
        self._client_id = client_id
        self._launcher = launcher
        self._clock = session.clock
        self._timings = session.manifest.timings
        self._watcher = Watcher(session, self._timings.looks_until_lost)
        self._budget = Budget(session)
        self._beat = ClientBeat(client_id, 0, self._clock.now(), process=identity())
        self._own = OwnObject(session.store, session.keys.client(client_id), session.clock)
        self._next_beat = self._next_deaths = float("-inf")
        self._n_looks = 0
        self._deaths = Deaths(session, launcher)
        self._buried: set[str] = set()
        self._is_renumbered = False
        self._needs_workers = needs_workers
        self._claims = claims
        self._is_to_leave = False
        self._staying: Staying | None = None
        self.may_leave = threading.Event()
        self.leave_error: LaunchError | BudgetExceeded | None = None
        self._starter = None
        if launcher is not None:
            self._starter = Starter(
                session,
                launcher,
                client_id,
                order=order,
                needs_workers=needs_workers,
                watcher=self._watcher,
                introduce=self._introduce,
            )

    def turn(self) -> float:
        """Do the work that is due; return the seconds until more is due.

        Raises: SessionNotFound if the session was deleted.
        Store: usually nothing; per beat interval 1 swap, 1 LIST, 1 GET; in every fourth interval a repair.
        """
        now = self._clock.monotonic()
        if self._is_to_leave and self._staying is None and self._launcher is not None:
            # Before any worker is started, so that the first beats of those that are started now count.
            self._staying = Staying(self._session, self._watcher, self._claims, self._launcher)
        if now >= self._next_beat:
            self._next_beat = now + self._timings.beat_s
            self._beat_and_look()
        sees_deaths = self._deaths.are_seen
        if sees_deaths and (now >= self._next_deaths or self.awaits_work):
            self._next_deaths = now + _DEATHS_S
            self._bury()
            self._start_missing()
        if self._is_to_leave and not self.may_leave.is_set() and self._is_sure_to_be_left():
            self.may_leave.set()
        ring_s = self._session.ring_due()
        waits = [self._next_beat - now, _DEATHS_S if sees_deaths else self._timings.beat_s]
        if self._is_to_leave:
            waits.append(_DEATHS_S / 2)
        return max(0.0, min(waits + ([] if ring_s is None else [ring_s])))

    def _start_missing(self) -> None:
        if self._starter is None:
            return
        if self._is_renumbered:
            self._is_renumbered = False
            self._starter.drain_surplus()
        self._starter.turn()

    @property
    def awaits_work(self) -> bool:
        """Whether no worker was started because there was no work: after a submit, `turn` should be called at once."""
        return self._starter is not None and self._starter.awaits_work

    @property
    def buried(self) -> frozenset[str]:
        """The workers whose death the launcher has seen, including those that the manifest no longer names."""
        return frozenset(self._buried)

    def ask_to_leave(self) -> None:
        """Make sure at the next turns that a worker stays; `may_leave` is set then. Thread-safe."""
        self._is_to_leave = True

    def _is_sure_to_be_left(self) -> bool:
        """Whether the work continues without this client; missing workers are started meanwhile.

        Store: see `Staying`.
        """
        starter, staying, state = self._starter, self._staying, self._session.manifest.state
        if starter is None or not self._needs_workers():
            return True
        if state != SessionState.OPEN:
            self.leave_error = starter.error() if state == SessionState.BROKEN else None
            return True
        # None if `ask_to_leave` was called during this turn: the next turn makes it.
        return staying is not None and staying.is_sure(is_starting=starter.is_starting)

    def renumber(self) -> None:
        """Drain surplus workers at the next turn, after the number of workers was changed. Thread-safe."""
        self._is_renumbered = True

    def leave(self) -> None:
        """Hand unfinished launches over to other clients, and write the last beat.

        Store: nothing if this client never beat; else 1 swap, and 1 more for an unfinished launch.
        """
        if not self._own.is_written:
            return
        if self._starter is not None:
            self._starter.hand_over()
        with suppress(ObjectNotFound):
            # Another client may have deleted the session: then no last beat is needed.
            self._write(left=True)

    def beat(self) -> None:
        """Write a beat, which shows that this client is attached. Store: 1 create or 1 swap."""
        self._write(left=False)

    def _introduce(self) -> None:
        """Write a first beat before an intent names this client, so that others can judge whether it is alive."""
        if not self._own.is_written:
            self.beat()

    # --- beats and looks ----------------------------------------------------------------------------------------------

    def _beat_and_look(self) -> None:
        try:
            self.beat()
            self._watcher.look()
        except StoreUnavailable:
            self._watcher.watch.failed()
            raise
        if self._starter is not None:
            self._starter.end_silent()
        self._n_looks += 1
        if self._n_looks % self._timings.looks_until_lost == 0:
            self._repair()
        self._session.refresh()
        return_of(self._session, self._client_id)
        self._session.expire_if_due()
        manifest = self._budget.keep(watches=True, dead=self._buried)
        if manifest.state.is_over:
            end_what_is_left(self._session, manifest)

    def _repair(self) -> None:
        n_tasks = self._watcher.repair(self._beat_if_due)
        if n_tasks:
            _log.warning("took back tasks of lost workers: tasks=%d, session=%s", n_tasks, self._session.session_id)

    def _beat_if_due(self) -> None:
        """Between two requests of a long repair: those who watch this client hear of it all the same."""
        now = self._clock.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._timings.beat_s
            try:
                self.beat()
            except StoreUnavailable:
                self._watcher.watch.failed()
                raise

    def _write(self, *, left: bool) -> None:
        self._beat = replace(self._beat, number=self._beat.number + 1, at=self._clock.now(), left=left)
        self._own.write(self._beat)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _count_interruptions(self) -> None:
        """Record in the manifest how many workers the platform has taken back. Store: 1 swap if there are more than recorded."""
        starter = self._starter
        if starter is not None and starter.counted(self._session.manifest) != self._session.manifest:
            manifest = self._session.change(starter.recounted)
            _log.info("workers taken back: %d, session=%s", manifest.n_interruptions, self._session.session_id)

    def _bury(self) -> None:
        """Take back at once the tasks of workers whose death the launcher has seen."""
        deaths = [pair for pair in self._deaths.seen() if pair[0].worker_id not in self._buried]
        self._count_interruptions()
        if not deaths:
            return
        mine = [death for death, is_mine in deaths if is_mine] if self._starter is not None else []
        keys = [self._session.keys.worker(death.worker_id) for death in mine]
        beats = fan_out(self._session.store, partial(read_beat, self._session), keys)
        for death, _ in deaths:
            self._buried.add(death.worker_id)
            self._watcher.watch.dead.add(death.worker_id)
            if death.words:
                self._watcher.words[death.worker_id] = death.words
        for death, found in zip(mine, beats, strict=True):
            if self._starter is not None:
                self._starter.saw_death(death, None if found is None else found[0])
        # First decide whether the session breaks: if no worker can do any work, the last worker's task is not to blame.
        self._start_missing()
        self._repair()
        manifest = self._session.refresh()
        if manifest.state.is_over:
            end_what_is_left(self._session, manifest)
