"""One worker: its threads, its life from the first beat to the last.

    main            listens: to signals and for the end; ends the runners, and the worker       (`worker/leaving.py`)
    life            listens: for the end of the client that started this worker, if it is bound to one
    runner-N        listens: to one runner                                                      (`worker/listener.py`)
    slot-N          stores: claims, commits, releases                                           (`worker/slot.py`)
    finder          stores: finds work for idle slots, leaves when there is none                (`worker/finder.py`)
    keeper          stores: beats, keeps the deadline, says goodbye                             (`worker/keeper.py`)
    watcher         stores: looks at the others' beats, repairs, keeps the budget               (`worker/watching.py`)

# Guarantee: a thread that listens never calls the store, so none of what it must do waits for an answer. When the worker
is to leave, the threads that store are given a time, and nothing waits for them any longer: what they could not write is
left to the lease, and logged.

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
from starburst_executor.worker.arguments import Arguments
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.code import Code
from starburst_executor.worker.durations import Durations
from starburst_executor.worker.finder import Finder
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.keeper import Keeper
from starburst_executor.worker.leaving import Leaving, Stop
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.runner.handle import Nursery
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.slot import Slot
from starburst_executor.worker.solitude import Solitude

__all__ = ["Agent"]

_log = logging.getLogger(__name__)

# How long a worker that leaves tries to say so: it must go, and its lease says the same a little later.
_FAREWELL_S = 2.0
# One that cannot go on gives back what has not started, and has not been asked to hurry.
_GIVE_UP_S = 5.0
# A request that hangs is not waited for; a moment more than it is given, so that it can end in an error.
_REQUEST_S = 1.0
# Of the grace time this share, but not more than this, is kept for releasing and for saying goodbye, since an engine kills
# when it is over. A release and a last beat take a fifth of a second.
_RESERVE_SHARE = 0.2
_RESERVE_S = 2.0


class Agent:
    """A worker process. Made by any thread, since it reads the initializer; `run` is called once, by the main thread.

    Its attributes are more than fifteen: it makes every part of a worker and joins them.

    Args:
        leaving: Where signals and the client say that it should leave.
        bound: This worker ends with the client that started it, by a pipe that `leaving` watches.
        grace_s: How long what runs may go on once it is told to stop; as the session has it unless given.
        size: vCPUs, GB and GPUs of this worker, where its launcher has told.
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
    ) -> None:
        self._session = session
        self._store = store
        self._clock = clock
        self._nursery = nursery
        self._leaving = leaving
        self._timings = session.manifest.timings
        self._grace_s = self._timings.grace_s if grace_s is None else grace_s
        self._lost_s = 0.0  # of work that was thrown away at the end of the grace time
        self._heard = threading.Event()  # the first beat is acknowledged
        self._parted = threading.Event()  # no runner is left
        self._said_goodbye = threading.Event()
        self._more = threading.Condition()  # guards: _n_finds
        self._n_finds = 0
        self._code = Code(session, nursery.root_name)
        self._shared = Shared(
            session=session,
            claims=Claims(session, worker_id, clock),
            finder=Finder(session, clock, n_slots),
            functions=Functions(session, self._code),
            arguments=Arguments(session),
            durations=Durations(),
            solitude=Solitude(),
            clock=clock,
        )
        self._slots = [self._make_slot(number) for number in range(n_slots)]
        self._slot_threads: list[threading.Thread] = []
        self._keeper = Keeper(
            session,
            worker_id,
            self._shared.claims,
            clock,
            n_slots=n_slots,
            bound=bound,
            is_idle=self._is_idle,
            running=lambda: [running for slot in self._slots if (running := slot.running())],
            requests=store.requests.snapshot,
            size=size,
            lost_s=lambda: self._lost_s,
        )

    def _make_slot(self, number: int) -> Slot:
        news = threading.Event()
        return Slot(
            number,
            self._shared,
            spawn=partial(self._spawn, number, news.set),
            news=news,
            draining=self._leaving.draining,
            stopped=self._leaving.over,
            broken=self._break_session,
        )

    def _spawn(self, number: int, heard: Callable[[], object], code: Sequence[str]) -> Listener:
        runner = self._nursery.spawn(
            code, initializer=self._shared.functions.initializer, is_leaving=lambda: self._leaving.is_asked
        )
        listener = Listener(runner, self._clock, task_timeout=self._session.manifest.task_timeout, heard=heard)
        listener.start(f"runner-{number}")
        return listener

    # --- main thread: listens ------------------------------------------------------------------------------------------

    def run(self) -> Stop:
        """Work until there is a reason to stop; the reason. Never raises what the session's state explains."""
        leaving = self._leaving
        leaving.wakes(self._wake_all)
        self._slot_threads = [
            self._thread(f"slot-{i}", partial(self._work, slot)) for i, slot in enumerate(self._slots)
        ]
        keeper = threading.Thread(target=self._keep_to_the_end, name="keeper", daemon=True)
        others = (self._thread("watcher", self._watch), self._thread("finder", self._find))
        for thread in (keeper, *others, *self._slot_threads):
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
        # First of all: what it runs is nobody's any more.
        self._nursery.close()
        self._parted.set()
        leaving.wait(self._said_goodbye.is_set, farewell_s + _REQUEST_S)
        self._code.close()
        if why == Stop.DRAINED and (held := self._shared.claims.held()):
            _log.warning("left with tasks that could not be given back and are lost with it: claims=%s", held)
        _log.info("worker ends: %s %s", why.value, leaving.words)
        return why

    @property
    def _reserve_s(self) -> float:
        return min(_RESERVE_S, _RESERVE_SHARE * self._grace_s)

    def _drain(self) -> None:
        """Let what runs end within the grace time, then have it killed and released."""
        leaving, claims = self._leaving, self._shared.claims
        claims.close()
        self._thread("leaving", self._say_leaving).start()
        left_s = self._grace_s - self._reserve_s
        # Who waits for the store waits until then. A claim on its way is in `held`, and one that is not yet will not be made.
        self._store.limit(left_s + self._reserve_s / 2)

        def is_done() -> bool:
            return leaving.over.is_set() or (self._is_idle() and not claims.held())

        if leaving.wait(is_done, left_s):
            return
        # What runs now is killed, and begun anew elsewhere.
        self._lost_s = sum(running[1] for slot in self._slots if (running := slot.running()))
        for slot in self._slots:
            slot.hurry()
        leaving.wait(is_done, self._reserve_s / 2)

    def _wake_all(self) -> None:
        self._shared.claims.has_worked.set()  # it may be waited for
        self._shared.finder.wanted.set()
        self._heard.set()
        for slot in self._slots:
            slot.news.set()
        with self._more:
            self._more.notify_all()

    def _is_idle(self) -> bool:
        return all(slot.is_idle for slot in self._slots)

    # --- finder -------------------------------------------------------------------------------------------------------

    def _find(self) -> None:
        leaving, finder, session = self._leaving, self._shared.finder, self._session
        self._wait_heard()
        idle_since = self._clock.monotonic()
        while not leaving.is_leaving:
            if all(not slot.is_idle for slot in self._slots):
                pause_s = self._timings.commit_s
            else:
                pause_s = finder.step()
                self._wake_slots()
            if not self._is_idle():
                idle_since = self._clock.monotonic()
            elif self._clock.monotonic() - idle_since >= self._timings.idle_exit_s:
                idle_since = self._clock.monotonic()
                if session.manifest.idle_exit and self._keeper.may_leave(leaving.over):
                    leaving.stop(Stop.IDLE)
            if session.manifest.state.is_over:
                leaving.stop(Stop.SESSION_OVER)
            # What slots and keeper released since the last ring, which may come only so often.
            ring_s = session.ring_due()
            if not leaving.is_leaving:
                self._clock.wait(finder.wanted, pause_s if ring_s is None else min(pause_s, ring_s))

    def _wake_slots(self) -> None:
        if self._shared.finder.has_candidates():
            with self._more:
                self._n_finds += 1
                self._more.notify_all()

    # --- slots --------------------------------------------------------------------------------------------------------

    def _work(self, slot: Slot) -> None:
        leaving = self._leaving
        self._wait_heard()
        while not leaving.over.is_set():
            with self._more:
                n_finds = self._n_finds
            if slot.step():
                continue
            if leaving.draining.is_set():
                leaving.changed()
                return
            with self._more:
                if self._n_finds == n_finds and not leaving.is_leaving:
                    self._more.wait(self._timings.beat_s)

    def _break_session(self, outcome: bytes) -> None:
        """The initializer failed here: the session cannot go on anywhere."""
        failure = describe_outcome(outcome)
        what = f"{failure.type_name}: {failure.message}\n{failure.traceback}" if failure is not None else ""
        manifest = self._session.end(SessionState.BROKEN, f"no task can be run: the initializer failed: {what}")
        end_what_is_left(self._session, manifest)
        self._leaving.stop(Stop.BROKEN, what)

    # --- keeper -------------------------------------------------------------------------------------------------------

    def _keep_to_the_end(self) -> None:
        self._guard(self._keep)
        # What a drained or stopped worker still has to say comes when it has nothing more to do.
        self._parted.wait()
        self._guard(self._say_goodbye)
        self._store.close()
        self._said_goodbye.set()
        self._leaving.changed()

    def _keep(self) -> None:
        # A worker beats before its first claim, so that no claim of a worker without a beat is ever seen.
        self._keeper.say(WorkerState.IDLE)
        self._heard.set()
        over, is_known = self._leaving.over, False
        while True:
            # Its first outcome is told at once: one that ends without any is a sign that others will do no better.
            has_worked = self._shared.claims.has_worked
            is_known = self._clock.wait(over if is_known else has_worked, self._timings.beat_s) or is_known
            if over.is_set():
                return
            try:
                manifest = self._keeper.turn()
            except StoreUnavailable as error:
                _log.warning("the store cannot be reached; going on: %s", error)
                continue
            if manifest.state.is_over:
                end_what_is_left(self._session, manifest)
                self._leaving.stop(Stop.SESSION_OVER)

    def _watch(self) -> None:
        while not self._clock.wait(self._leaving.over, self._timings.beat_s):
            try:
                self._keeper.watching.turn()
            except StoreUnavailable as error:
                _log.warning("the store cannot be reached; going on: %s", error)

    def _say_goodbye(self) -> None:
        """The last requests. The store was given a time for them."""
        session, leaving = self._session, self._leaving
        if leaving.why == Stop.FAILED:
            self._give_up()
            return
        if leaving.why == Stop.CLIENT_DIED:
            session.end(SessionState.TERMINATED, "its client died")
        if (ring_s := session.ring_due()) is not None:
            self._clock.wait(threading.Event(), min(ring_s, _REQUEST_S))
            session.ring_due()
        self._keeper.left()

    def _give_up(self) -> None:
        """It cannot go on: what has not started goes back without a loss, and the last beat says why."""
        until = self._clock.monotonic() + _GIVE_UP_S
        for thread, slot in zip(self._slot_threads, self._slots, strict=True):
            thread.join(max(0.0, until - self._clock.monotonic()))
            if not thread.is_alive():
                slot.give_back()
        self._keeper.left(self._leaving.words or Stop.FAILED.value)
        end_what_is_left(self._session, self._keeper.break_if_hopeless())

    def _say_leaving(self) -> None:
        """A client that is about to leave work behind must not count on this worker. In a thread of its own: a keeper may
        be in the middle of a long turn.
        """
        with suppress(StoreError):
            self._keeper.say(WorkerState.LEAVING)

    # --- all threads --------------------------------------------------------------------------------------------------

    def _wait_heard(self) -> None:
        while not self._heard.is_set():
            self._clock.wait(self._heard, self._timings.beat_s)

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        # Daemons: a thread that hangs in a request must not keep a worker alive that was told to go.
        return threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)

    def _guard(self, target: Callable[[], object]) -> None:
        """Run a thread's target; what ends it ends the worker, for a reason that is told."""
        leaving = self._leaving
        try:
            target()
        except (SessionNotFound, ObjectNotFound) as error:
            leaving.stop(Stop.SESSION_OVER, str(error))
        except StoreUnavailable as error:
            if leaving.is_leaving:
                _log.warning("the store cannot be reached; leaving without: %s", error)
            else:
                leaving.stop(Stop.FAILED, str(error))
        except StarburstError as error:
            leaving.stop(Stop.FAILED, str(error))
        except Exception as error:
            # After the end a slot may find its runner closed.
            if not leaving.over.is_set():
                _log.exception("a worker's thread failed")
            leaving.stop(Stop.FAILED, f"{type(error).__name__}: {error}")
