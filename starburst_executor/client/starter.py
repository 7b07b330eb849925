"""Keeps up the number of workers: starts the missing ones, and breaks the session with the reason if it cannot.

    missing ─► intent in the manifest ─► step ─► handle in the manifest ─► step ─► … ─► settled ─► first beat
                                          └─► none can be started, or none beats in time ─► broken

Here the facts meet and lead to an action. Each kind of fact, and the decision, has a module:

    decisions.py    which action follows from the facts       launching.py      this client's launch, step by step
    launches.py     all launches: handles, live slots         first_beats.py    whether started workers beat
    trials.py       how workers ended, and what follows       warner.py         warnings, each once
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from starburst_executor.client.decisions import Begin, Break, Hearing, Seen, Step, Wait, decide
from starburst_executor.client.first_beats import FirstBeats, SilentWorkers
from starburst_executor.client.launches import Launches
from starburst_executor.client.launching import Launching, Stepped
from starburst_executor.client.trials import End, Trials, end_of
from starburst_executor.client.warner import Warner
from starburst_executor.errors import BudgetExceeded, LaunchError, NoCapacity
from starburst_executor.launch.base import Death, Launcher, Order
from starburst_executor.protocol.money import BUDGET_EXCEEDED
from starburst_executor.protocol.records import Manifest, SessionState, WorkerBeat
from starburst_executor.session.repair import Watcher, end_what_is_left
from starburst_executor.session.store import SessionStore

__all__ = ["Starter"]

_log = logging.getLogger(__name__)


class Starter:
    """Starts a session's workers. Owned by the thread of `ClientKeeper`; not thread-safe.

    Args:
        order: Returns the order for a launch's id and a number of slots.
        needs_workers: Returns whether any task is not done.
        watcher: Knows which workers have beaten.
        introduce: Writes this client's first beat, before an intent names it.

    Attributes:
        launches: The session's launches, as this client counts them.
        awaits_work: Whether no worker was started because there was no work.
    """

    def __init__(
        self,
        session: SessionStore,
        launcher: Launcher,
        client_id: str,
        *,
        order: Callable[[str, int], Order],
        needs_workers: Callable[[], bool],
        watcher: Watcher,
        introduce: Callable[[], None],
    ) -> None:
        self._session = session
        self._launcher = launcher
        self._needs_workers = needs_workers
        self._clock = session.clock
        self.launches = Launches(session, launcher, client_id, watcher)
        self._trials = Trials(self._clock, session.manifest.current.timings.launch_s)
        self._warner = Warner(session.session_id)
        self._first_beats = FirstBeats(session, watcher)
        self._launching = Launching(
            session,
            launcher,
            self.launches,
            client_id,
            order=order,
            introduce=introduce,
            expect=self._first_beats.expect,
        )
        self._silent = SilentWorkers(session, self.launches, watcher, self._warner)
        self._error: LaunchError | BudgetExceeded | None = None
        self.awaits_work = False

    def turn(self) -> None:
        """Do the next step of starting the missing workers, if there is work for them.

        Store: usually nothing; 1 swap for the intent, 1 for each step, 1 every five seconds between two steps. While another
        client is starting workers, each second 1 GET of the manifest, usually a 304, and 1 GET of its beat.
        """
        manifest, needs_workers = self._session.manifest.current, self._needs_workers()
        self.awaits_work = not needs_workers and not manifest.launches
        if manifest.state != SessionState.OPEN or not needs_workers:
            # No need to ask the launcher how many are alive.
            return
        manifest = self.launches.look_at_intents(manifest)
        match decide(manifest, self._see(manifest), self._clock.monotonic()):
            case Break(reason):
                self._error = LaunchError(self._trials.words)
                self._break(reason)
            case Begin():
                self._begin()
            case Step():
                self._step()
                self._listen(manifest)
            case Wait():
                self._listen(manifest)

    @property
    def is_starting(self) -> bool:
        """Whether this client has a launch to finish."""
        return self._launching.is_going

    def error(self) -> LaunchError | BudgetExceeded:
        """Return the reason why the session is broken, in the class of the error that kept workers from starting."""
        return type(self._error or LaunchError())(self._session.manifest.current.reason)

    def saw_death(self, death: Death, beat: WorkerBeat | None) -> None:
        """Take account of a worker's death. `beat` is its last beat; None if it never beat."""
        reported = "" if beat is None else beat.words
        words = death.words if reported in death.words else "; ".join(filter(None, [reported, death.words]))
        end = end_of(death, beat)
        level = logging.INFO if end in (End.WORKED, End.LEFT) else logging.WARNING
        _log.log(level, "a worker has ended: worker=%s, %s", death.worker_id, words or "no last words")
        self._trials.ended(end, words, was_heard=beat is not None)
        if end is End.TAKEN:
            self._error = NoCapacity(words)
        elif end in (End.FAILED, End.KILLED) and self._first_beats.has_started:
            self._error = LaunchError(words)

    def end_silent(self) -> None:
        """Stop each worker that did not beat in time; called after a look at the beats. If no worker has beaten at all, `turn`
        decides instead. Store and platform: see `SilentWorkers.end`.
        """
        self._silent.count_look()
        if self._first_beats.is_heard:
            self._silent.end()

    def hand_over(self) -> None:
        """Release the unfinished launch, so that other clients can finish it at once. Store: 1 swap if there is one."""
        self._launching.hand_over()

    # --- facts --------------------------------------------------------------------------------------------------------

    def _see(self, manifest: Manifest) -> Seen:
        n_alive, hopeless = self.launches.n_slots_alive(manifest), self._trials.hopeless()
        if hopeless and not n_alive and self._first_beats.others_work():
            hopeless = ""
        return Seen(
            needs_workers=True,
            is_starting=self.is_starting,
            n_alive=n_alive,
            next_start_at=self._trials.next_start_at,
            hopeless=hopeless,
        )

    # --- actions ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            is_ours = self._launching.begin()
        except BudgetExceeded as error:
            self._could_not_start(error)
            return
        if is_ours:
            self._step()

    def _step(self) -> None:
        stepped = self._launching.step()
        if stepped is None:
            return
        if stepped.is_over:
            self._settled(stepped)
        elif stepped.error is not None:
            self._error = _launch_error(stepped.error)
            self._warner.warn(f"workers cannot be started yet, trying again: {stepped.error}")

    def _settled(self, stepped: Stepped) -> None:
        if stepped.n_started >= stepped.n_asked:
            return
        error = stepped.error or LaunchError("the platform gives no reason")
        if stepped.n_started:
            self._warner.warn(
                f"fewer workers were started than asked for: slots={stepped.n_started}, asked={stepped.n_asked}: {error}"
            )
            self._trials.lacked_room()
        else:
            self._could_not_start(error)

    def _could_not_start(self, error: Exception) -> None:
        """Break the session, unless other workers are alive: then try again after a pause."""
        reason = f"no worker could be started: {error}"
        if self.launches.n_slots_alive(self._session.manifest.current) > 0:
            self._warner.warn(f"{reason}; the others go on")
            self._trials.lacked_room()
        else:
            self._error = error if isinstance(error, BudgetExceeded) else _launch_error(error)
            if isinstance(error, BudgetExceeded):
                self._break(str(error), BUDGET_EXCEEDED)
            else:
                self._break(reason)

    def _listen(self, manifest: Manifest) -> None:
        """Look for the first beat. If live workers do not beat within `launch_s`, break the session."""
        hearing = self._first_beats.listen(is_starting=self.is_starting)
        if hearing is Hearing.HEARD:
            self._trials.heard()
        elif hearing is Hearing.SILENT:
            self._break(self._silence(manifest))

    def _silence(self, manifest: Manifest) -> str:
        reasons = [str(self._error)] if self._error is not None else []
        reasons += [workers.describe() for workers in self.launches.workers(manifest)]
        words = "; ".join(filter(None, reasons))
        within = f"{manifest.timings.launch_s:g} s"
        return f"no worker of launcher {self._launcher.name!r} was heard of within {within}" + (
            f": {words}" if words else ""
        )

    def _break(self, reason: str, error: str = "") -> None:
        manifest = self._session.manifest.end(SessionState.BROKEN, reason, error=error)
        # Workers on their way would start, find the session over, and leave: they would cost money and do no work.
        for workers in self.launches.workers(manifest):
            workers.drain()
        end_what_is_left(self._session, manifest)


def _launch_error(error: Exception) -> LaunchError:
    return error if isinstance(error, LaunchError) else LaunchError(str(error))
