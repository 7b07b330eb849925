"""One worker: its threads, and its course from the first beat to the last.

    main            listens: to signals and for the end; ends the runners, and the worker       (`worker/leaving.py`)
    life            listens: for the end of the client that started this worker, if it is bound to one
    runner-N        listens: to one runner                                                      (`worker/listener.py`)
    slot-N          stores: claims, commits, releases                                           (`worker/slots.py`)
    finder          stores: finds work for idle slots, leaves when there is none                (`worker/finder.py`)
    keeper          stores: beats, keeps the deadline, says goodbye                             (`worker/keeper.py`)
    watcher         stores: looks at the others' beats, repairs, keeps the budget               (`worker/watching.py`)

Guarantee: a thread that listens never calls the store, so its duties never wait for a reply. When the worker must leave,
the threads that use the store get a limited time. After that no thread waits for them: the worker
logs what they could not write, and watchers take its tasks back once it is lost.

The nursery that forks the runners is forked itself before any of these threads exists.
Source: docs/design/0008-listening.md
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, SessionNotFound, StarburstError, StoreError, StoreUnavailable
from starburst_executor.protocol.outcomes import describe_outcome
from starburst_executor.protocol.records import SessionState, WorkerState
from starburst_executor.session.repair import end_what_is_left
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.worker.busy import Busy
from starburst_executor.worker.call_reader import CallReader
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.code import Code
from starburst_executor.worker.doubts import Doubts
from starburst_executor.worker.durations import Durations
from starburst_executor.worker.finder import Finder
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.keeper import Keeper
from starburst_executor.worker.leaving import Leaving, Stop
from starburst_executor.worker.nudge import Nudge
from starburst_executor.worker.results import Results
from starburst_executor.worker.runner.spawn import Nursery
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.shared_values import SharedValues
from starburst_executor.worker.slots import Slots
from starburst_executor.worker.solitude import Solitude
from starburst_executor.worker.stock import Stock

__all__ = ["Agent"]

_log = logging.getLogger(__name__)

# How long a leaving worker tries to write its last beat: after that it must end, and a little later it counts as lost.
_FAREWELL_S = 2.0
# The same for a worker that cannot go on: it also releases tasks that have not started, and no platform stops it meanwhile.
_GIVE_UP_S = 5.0
# How much longer than the store's limit to wait, so that a request can end in an error; one that hangs is abandoned.
_REQUEST_S = 1.0
# This share of the grace time, but at most this time, is reserved for releasing tasks and for the last beat, since a
# platform kills the worker when the grace time is over. A release and a last beat take about a fifth of a second.
_RESERVE_SHARE = 0.2
_RESERVE_S = 2.0
# The pause before a worker lists the others again, of which it has not seen all.
_PLACE_S = 1.0


class Agent:
    """A worker process. Any thread may make it, since that reads the initializer; the main thread calls `run` once.

    Args:
        leaving: The record of requests to leave, by signals and the client.
        bound: Whether this worker ends with the client that started it, through a pipe that `leaving` watches.
        grace_s: How long running tasks may continue after a request to stop; the session's value if None.
        size: vCPUs, GB and GPUs of this worker, if its launcher passed them.
        launcher_id: What its launcher calls it; empty for its process id.
        publish: Sends title and body of a message to the stack's topic; None if it has none.
        stock: What this worker has of each resource.
        nudge: The signal of a client on this machine; None if this process does not receive it.
    """

    def __init__(
        self,
        session: SessionStore,
        store: PatientStore,
        worker_id: str,
        nursery: Nursery,
        clock: Clock,
        leaving: Leaving,
        *,
        n_slots: int,
        bound: bool = False,
        grace_s: float | None = None,
        size: tuple[float, float, int] = (0.0, 0.0, 0),
        launcher_id: str = "",
        publish: Callable[[str, str], None] | None = None,
        nudge: Nudge | None = None,
        stock: Stock | None = None,
    ) -> None:
        self._session = session
        self._store = store
        self._clock = clock
        self._nursery = nursery
        self._leaving = leaving
        self._timings = session.manifest.current.timings
        self._grace_s = self._timings.grace_s if grace_s is None else grace_s
        self._nudge = nudge or Nudge()
        self._heard = threading.Event()  # the first beat is acknowledged
        self._parted = threading.Event()  # no runner is left
        self._said_goodbye = threading.Event()
        self._code = Code(session, nursery.root_name)
        stock = stock or Stock()
        claims = Claims(session, worker_id, clock)
        self._shared = Shared(
            session=session,
            claims=claims,
            finder=Finder(session, clock, n_slots, stock),
            functions=Functions(session, self._code),
            call_reader=CallReader(session),
            values=SharedValues(session, self._code.folder_of_worker),
            results=Results(session),
            durations=Durations(),
            solitude=Solitude(),
            busy=Busy(clock, self._timings.commit_s),
            doubts=Doubts(claims, clock, self._timings.commit_s, self._timings.beat_s),
            clock=clock,
            stock=stock,
        )
        self._slots = Slots(n_slots, self._shared, nursery, leaving, broken=self._break_session, guard=self._guard)
        self._keeper = Keeper(
            session,
            worker_id,
            self._shared.claims,
            clock,
            n_slots=n_slots,
            bound=bound,
            is_idle=self._slots.are_idle,
            running=self._slots.running,
            requests=store.requests.snapshot,
            trouble=lambda: store.trouble,
            size=size,
            launcher_id=launcher_id,
            lost_s=lambda: self._slots.lost_s,
            n_failed_waiting=lambda: self._shared.finder.dependencies.n_failed,
            rank=self._shared.candidates.rank,
            publish=publish,
            stock=stock,
        )

    # --- main thread: listens ------------------------------------------------------------------------------------------

    def run(self) -> Stop:
        """Work until there is a reason to stop, and return it. Never raises an error that the session's state explains."""
        leaving = self._leaving
        leaving.wakes(self._wake_all)
        self._slots.threads = [
            self._thread(f"slot-{i}", partial(self._work, target)) for i, target in enumerate(self._slots.targets())
        ]
        keeper = threading.Thread(target=self._keep_to_the_end, name="keeper", daemon=True)
        others = (self._thread("watcher", self._watch), self._thread("finder", self._find))
        for thread in (keeper, *others, *self._slots.threads):
            thread.start()
        leaving.wait(lambda: leaving.is_leaving)
        if leaving.why == Stop.DRAINED:
            self._drain()
        why, farewell_s = leaving.why or Stop.FAILED, _FAREWELL_S
        if why == Stop.FAILED:
            farewell_s = _GIVE_UP_S
        elif why == Stop.DRAINED:
            farewell_s = min(_FAREWELL_S, self._reserve_s / 2)
        self._store.limit(farewell_s)
        leaving.over.set()
        self._wake_all()
        # First stop the runners: this worker can no longer commit their tasks.
        self._nursery.close()
        self._parted.set()
        leaving.wait(self._said_goodbye.is_set, farewell_s + _REQUEST_S)
        self._slots.stop_listening()
        self._code.close()
        if why == Stop.DRAINED and (held := self._shared.claims.held()):
            _log.warning("left without releasing some tasks, which count as lost: claims=%s", held)
        _log.info("worker ends: %s %s", why.value, leaving.words)
        return why

    @property
    def _reserve_s(self) -> float:
        return min(_RESERVE_S, _RESERVE_SHARE * self._grace_s)

    def _drain(self) -> None:
        """Let running tasks end within the grace time, then kill and release them."""
        leaving, claims = self._leaving, self._shared.claims
        claims.close()
        self._thread("leaving", self._say_leaving).start()
        left_s = self._grace_s - self._reserve_s
        # Store requests may wait until then. A claim that is being written is in `held`; no other claim will be made.
        self._store.limit(left_s + self._reserve_s / 2)

        def is_done() -> bool:
            return leaving.over.is_set() or (self._slots.are_idle() and not claims.held())

        if leaving.wait(is_done, left_s):
            return
        # Tasks that still run are killed, and start anew on another worker.
        self._slots.hurry()
        leaving.wait(is_done, self._reserve_s / 2)

    def _wake_all(self) -> None:
        self._shared.claims.has_worked.set()  # the keeper may be waiting for it
        self._shared.candidates.wanted.set()
        self._heard.set()
        self._slots.wake_all()

    # --- finder -------------------------------------------------------------------------------------------------------

    def _find(self) -> None:
        leaving, finder, session = self._leaving, self._shared.finder, self._session
        self._wait_heard()
        idle_since = self._clock.monotonic()
        while not leaving.is_leaving:
            if self._nudge.take():
                self._heed(session.manifest.refresh().stops, again=True)
            elif self._shared.doubts.wants_news(self._slots.running(), self._shared.durations.latest):
                self._heed(session.manifest.refresh().stops)
            if self._slots.are_busy():
                pause_s = finder.step_busy()
            else:
                pause_s = finder.step()
                if self._shared.candidates.has_any():
                    self._slots.wake()
            if not self._slots.are_idle():
                idle_since = self._clock.monotonic()
            elif self._clock.monotonic() - idle_since >= self._timings.idle_exit_s:
                idle_since = self._clock.monotonic()
                if session.manifest.current.idle_exit and self._keeper.may_leave(leaving.over):
                    leaving.stop(Stop.IDLE)
            if session.manifest.current.state.is_over:
                leaving.stop(Stop.SESSION_OVER)
            finder.answered()
            # Ring for tasks that slots and keeper released since the last ring; rings are limited in rate.
            ring_s = session.bell.ring_due()
            if not leaving.is_leaving:
                self._clock.wait(finder.candidates.wanted, pause_s if ring_s is None else min(pause_s, ring_s))

    def _heed(self, stops: Sequence[str], *, again: bool = False) -> None:
        """Have the slots read the objects of claims of which tasks may have been cancelled."""
        if self._shared.doubts.heard(stops, again=again):
            self._slots.wake_all()

    # --- slots --------------------------------------------------------------------------------------------------------

    def _work(self, target: Callable[[], None]) -> None:
        self._wait_heard()
        target()

    def _break_session(self, outcome: bytes) -> None:
        """End the session: the initializer failed, and would fail on every worker."""
        failure = describe_outcome(outcome)
        text = f"{failure.type_name}: {failure.message}\n{failure.traceback}" if failure is not None else ""
        manifest = self._session.manifest.end(
            SessionState.BROKEN, f"no task can be run: the initializer failed: {text}"
        )
        end_what_is_left(self._session, manifest)
        self._leaving.stop(Stop.BROKEN, text)

    # --- keeper -------------------------------------------------------------------------------------------------------

    def _keep_to_the_end(self) -> None:
        self._guard(self._keep)
        # The last beat of a drained or stopped worker is written after its last runner has ended.
        self._parted.wait()
        self._guard(self._say_goodbye)
        self._store.close()
        self._said_goodbye.set()
        self._leaving.changed()

    def _keep(self) -> None:
        # Guarantee: a worker beats before its first claim, so a claim in the store always has a worker with a beat.
        self._keeper.say(WorkerState.IDLE)
        self._heard.set()
        over, is_known = self._leaving.over, False
        while True:
            # Beat at once after the first outcome: a worker that ends without any is a sign that other workers will fail too.
            has_worked = self._shared.claims.has_worked
            is_known = self._clock.wait(over if is_known else has_worked, self._timings.beat_s) or is_known
            if over.is_set():
                return
            try:
                manifest = self._keeper.turn()
            except StoreUnavailable as error:
                _log.warning("the store cannot be reached; going on: %s", error)
                continue
            self._heed(manifest.stops)
            if manifest.state.is_over:
                end_what_is_left(self._session, manifest)
                self._leaving.stop(Stop.SESSION_OVER)

    def _watch(self) -> None:
        self._learn_place()
        while not self._clock.wait(self._leaving.over, self._timings.beat_s):
            try:
                self._keeper.watching.turn()
            except StoreUnavailable as error:
                _log.warning("the store cannot be reached; going on: %s", error)

    def _learn_place(self) -> None:
        """List the workers until all have beaten, at intervals that double up to a beat's: those of a fleet start together."""
        self._wait_heard()
        pause_s = _PLACE_S
        with suppress(StoreUnavailable):
            while pause_s < self._timings.beat_s and not self._keeper.watching.knows_place():
                self._clock.wait(self._leaving.over, pause_s)
                pause_s *= 2

    def _say_goodbye(self) -> None:
        """Make the last requests. The store has a time limit for them."""
        session, leaving = self._session, self._leaving
        if leaving.why == Stop.FAILED:
            self._give_up()
            return
        if leaving.why == Stop.CLIENT_DIED:
            session.manifest.end(SessionState.TERMINATED, "its client died")
        if (ring_s := session.bell.ring_due()) is not None:
            self._clock.wait(threading.Event(), min(ring_s, _REQUEST_S))
            session.bell.ring_due()
        self._keeper.left()
        # The last worker that leaves knows last whether all is done.
        with suppress(StarburstError):
            self._keeper.watching.messages.turn()

    def _give_up(self) -> None:
        """Release the tasks that have not started, without a loss, and write the reason into the last beat."""
        self._slots.give_back(until=self._clock.monotonic() + _GIVE_UP_S)
        self._keeper.left(self._leaving.words or Stop.FAILED.value)
        end_what_is_left(self._session, self._keeper.break_if_hopeless())

    def _say_leaving(self) -> None:
        """Beat `leaving`, so that a client that is about to detach does not rely on this worker.

        It has a thread of its own because the keeper may be in a long turn.
        """
        with suppress(StoreError):
            self._keeper.say(WorkerState.LEAVING)

    # --- all threads --------------------------------------------------------------------------------------------------

    def _wait_heard(self) -> None:
        while not self._heard.is_set():
            self._clock.wait(self._heard, self._timings.beat_s)

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        # Daemons: a thread that hangs in a request must not keep a worker alive that was asked to leave.
        return threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)

    def _guard(self, target: Callable[[], object]) -> None:
        """Run a thread's target; an error that ends the thread ends the worker, with the error as the reason."""
        leaving = self._leaving
        try:
            target()
        except (SessionNotFound, ObjectNotFound) as error:
            leaving.stop(Stop.SESSION_OVER, str(error))
        except StoreUnavailable as error:
            if leaving.is_leaving:
                _log.warning("the store cannot be reached; leaving without it: %s", error)
            else:
                leaving.stop(Stop.FAILED, str(error))
        except StarburstError as error:
            leaving.stop(Stop.FAILED, str(error))
        except Exception as error:
            # After the end a slot may raise because its runner is closed.
            if not leaving.over.is_set():
                _log.exception("a worker's thread failed")
            leaving.stop(Stop.FAILED, f"{type(error).__name__}: {error}")
