"""One worker: its threads, its life from the first beat to the last.

    main thread     finds work for idle slots; leaves when idle, drains on SIGTERM, stops when the session is over
    keeper          beats, looks, keeps the deadline                                       (`worker/keeper.py`)
    slot-N          claims, runs, commits                                                  (`worker/slot.py`)
    life            waits for the end of the client that started this worker, if it is bound to one

The nursery that forks the runners is forked itself before any of these threads exists.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO

from starburst_executor.clock import Clock
from starburst_executor.errors import (
    ObjectNotFound,
    SessionNotFound,
    StarburstError,
    StoreError,
    StoreUnavailable,
)
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
from starburst_executor.worker.runner.handle import Nursery
from starburst_executor.worker.slot import Slot
from starburst_executor.worker.solitude import Solitude

__all__ = ["LEAVE_QUIETLY", "Agent", "Stop"]

_log = logging.getLogger(__name__)

# What a client that ends in good order writes before it lets go: it cleans up itself.
LEAVE_QUIETLY = b"q"
# How long a worker that cannot go on tries to say so.
_FAREWELL_S = 5.0
# How soon a signal is acted on: its handler only sets a flag, since it must not touch a lock.
_SIGNAL_S = 0.25


class Stop(enum.Enum):
    """Why a worker ends."""

    IDLE = "nothing to do"
    DRAINED = "told to stop"
    SESSION_OVER = "the session is over"
    CLIENT_LEFT = "its client has ended"
    CLIENT_DIED = "its client died"
    BROKEN = "the session is broken"
    FAILED = "it cannot go on"


class Agent:
    """A worker process. `run` is called once, by the main thread.

    Args:
        life: Ends when the client does to which this worker is bound; None for a worker bound to none.
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
        *,
        n_slots: int,
        life: IO[bytes] | None = None,
        grace_s: float | None = None,
        size: tuple[float, float, int] = (0.0, 0.0, 0),
    ) -> None:
        self._session = session
        self._store = store
        self._clock = clock
        self._nursery = nursery
        self._life = life
        self._timings = session.manifest.timings
        self._grace_s = self._timings.grace_s if grace_s is None else grace_s
        self._draining = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()  # guards: _why, _words
        self._why: Stop | None = None
        self.words = ""
        self._term = False
        self._lost_s = 0.0
        self._more = threading.Condition()  # guards: _n_finds
        self._n_finds = 0
        claims = Claims(session, worker_id, clock)
        self._has_worked = claims.has_worked
        self._finder = Finder(session, clock, n_slots)
        self._code = Code(session, nursery.root_name)
        functions, arguments = Functions(session, self._code), Arguments(session)
        durations, solitude = Durations(), Solitude()
        self._slots = [
            Slot(
                number,
                session,
                claims,
                self._finder,
                functions,
                arguments,
                durations,
                solitude,
                clock,
                spawn=partial(nursery.spawn, initializer=functions.initializer, is_leaving=self._is_leaving),
                draining=self._draining,
                stopped=self._over,
                broken=self._break_session,
            )
            for number in range(n_slots)
        ]
        self._keeper = Keeper(
            session,
            worker_id,
            claims,
            clock,
            n_slots=n_slots,
            bound=life is not None,
            is_idle=self._is_idle,
            running=lambda: [running for slot in self._slots if (running := slot.running())],
            requests=store.requests.snapshot,
            size=size,
            lost_s=lambda: self._lost_s,
        )

    def _is_leaving(self) -> bool:
        return self._term or self._draining.is_set() or self._over.is_set()

    def on_sigterm(self, *_: object) -> None:
        """Signal handler: drain. Only sets a flag."""
        self._term = True

    def run(self) -> Stop:
        """Work until there is a reason to stop; the reason. Never raises what the session's state explains."""
        try:
            # A worker beats before its first claim, so that nobody ever sees a claim of a worker without a beat.
            self._keeper.say(WorkerState.IDLE)
        except StarburstError as error:
            self._stop(Stop.FAILED, str(error))
        threads = [self._thread("keeper", self._keep)]
        threads += [self._thread(f"slot-{i}", partial(self._work, slot)) for i, slot in enumerate(self._slots)]
        if self._life is not None:
            threads.append(self._thread("life", self._wait_for_client))
        for thread in threads:
            thread.start()
        self._guard(self._find)
        return self._end(threads[1 : 1 + len(self._slots)])

    # --- main thread --------------------------------------------------------------------------------------------------

    def _find(self) -> None:
        idle_since = self._clock.monotonic()
        while not self._over.is_set() and not self._draining.is_set():
            if all(not slot.is_idle for slot in self._slots):
                pause_s = self._timings.commit_s
            else:
                pause_s = self._finder.step()
                self._wake_slots()
            if not self._is_idle():
                idle_since = self._clock.monotonic()
            elif self._clock.monotonic() - idle_since >= self._timings.idle_exit_s:
                idle_since = self._clock.monotonic()
                if self._session.manifest.idle_exit and self._keeper.may_leave(self._over):
                    self._stop(Stop.IDLE)
            if self._session.manifest.state.is_over:
                self._stop(Stop.SESSION_OVER)
            # What slots and keeper released since the last ring, which may come only so often.
            ring_s = self._session.ring_due()
            self._pause(pause_s if ring_s is None else min(pause_s, ring_s))

    def _pause(self, pause_s: float) -> None:
        until = self._clock.monotonic() + pause_s
        while not self._over.is_set():
            if self._term:
                self._stop(Stop.DRAINED)
            left_s = until - self._clock.monotonic()
            if left_s <= 0 or self._clock.wait(self._finder.wanted, min(left_s, _SIGNAL_S)):
                return

    def _wake_slots(self) -> None:
        if self._finder.has_candidates():
            with self._more:
                self._n_finds += 1
                self._more.notify_all()

    def _is_idle(self) -> bool:
        return all(slot.is_idle for slot in self._slots)

    def _end(self, slot_threads: list[threading.Thread]) -> Stop:
        why = self._why or Stop.FAILED
        if why == Stop.DRAINED:
            self._drain(slot_threads)
        self._over.set()
        self._nursery.close()
        self._code.close()
        if why == Stop.CLIENT_DIED:
            self._guard(partial(self._session.end, SessionState.TERMINATED, "its client died"))
        if why == Stop.FAILED:
            self._guard(partial(self._give_up, slot_threads))
        else:
            self._guard(self._keeper.left)
        _log.info("worker ends: %s %s", why.value, self.words)
        return why

    def _give_up(self, slot_threads: list[threading.Thread]) -> None:
        """It cannot go on: what has not started goes back without a loss, and the last beat says why."""
        # What cannot be said now is found out by those who look.
        self._store.patience_s = min(self._store.patience_s, _FAREWELL_S)
        until = self._clock.monotonic() + 2 * _FAREWELL_S
        for thread, slot in zip(slot_threads, self._slots, strict=True):
            left_s = until - self._clock.monotonic()
            thread.join(max(0.0, left_s))
            if left_s > 0 and not thread.is_alive():
                slot.give_back()
        self._keeper.left(self.words or Stop.FAILED.value)
        end_what_is_left(self._session, self._keeper.break_if_hopeless())

    def _drain(self, slot_threads: list[threading.Thread]) -> None:
        """Let what runs end within the grace time, then release it."""
        deadline = self._clock.monotonic() + self._grace_s
        # In a thread of its own: what runs must not wait for a store that does not answer.
        self._thread("leaving", self._say_leaving).start()
        for thread in slot_threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))
        # What runs now is killed, and begun anew elsewhere.
        self._lost_s = sum(running[1] for slot in self._slots if (running := slot.running()))
        for slot in self._slots:
            slot.hurry.set()
        for thread in slot_threads:
            thread.join(self._grace_s)
        if (ring_s := self._session.ring_due()) is not None:
            self._clock.wait(self._over, ring_s)
            self._session.ring_due()

    def _say_leaving(self) -> None:
        """A client that is about to leave work behind must not count on this worker."""
        with suppress(StoreError):
            self._keeper.say(WorkerState.LEAVING)

    # --- the other threads --------------------------------------------------------------------------------------------

    def _work(self, slot: Slot) -> None:
        while not self._over.is_set():
            with self._more:
                n_finds = self._n_finds
            if slot.step():
                continue
            if self._draining.is_set():
                return
            with self._more:
                if self._n_finds == n_finds and not self._draining.is_set() and not self._over.is_set():
                    self._more.wait(self._timings.beat_s)

    def _keep(self) -> None:
        is_known = False
        while True:
            # Its first outcome is told at once: one that ends without any is a sign that others will do no better.
            is_known = self._clock.wait(self._over if is_known else self._has_worked, self._timings.beat_s) or is_known
            if self._over.is_set():
                return
            try:
                manifest = self._keeper.turn()
            except StoreUnavailable as error:
                _log.warning("the store cannot be reached; going on: %s", error)
                continue
            if manifest.state.is_over:
                end_what_is_left(self._session, manifest)
                self._stop(Stop.SESSION_OVER)

    def _wait_for_client(self) -> None:
        assert self._life is not None  # this thread is started for one  # noqa: S101
        said = self._life.read(1)
        self._stop(Stop.CLIENT_LEFT if said == LEAVE_QUIETLY else Stop.CLIENT_DIED)

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        # Daemons: a thread that hangs in a request must not keep a worker alive that was told to go.
        return threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)

    def _guard(self, target: Callable[[], object]) -> None:
        """Run a thread's target; what ends it ends the worker, for a reason that is told."""
        try:
            target()
        except (SessionNotFound, ObjectNotFound) as error:
            self._stop(Stop.SESSION_OVER, str(error))
        except StoreUnavailable as error:
            if not self._over.is_set():
                self._stop(Stop.FAILED, str(error))
        except StarburstError as error:
            self._stop(Stop.FAILED, str(error))
        except Exception as error:
            # After the end a slot may find its runner closed.
            if not self._over.is_set():
                _log.exception("a worker's thread failed")
            self._stop(Stop.FAILED, f"{type(error).__name__}: {error}")

    def _stop(self, why: Stop, words: str = "") -> None:
        with self._lock:
            if self._why is None:
                self._why, self.words = why, words
        (self._draining if why == Stop.DRAINED else self._over).set()
        self._has_worked.set()  # it may be waited for
        self._finder.wanted.set()
        with self._more:
            self._more.notify_all()

    # --- initializer --------------------------------------------------------------------------------------------------

    def _break_session(self, outcome: bytes) -> None:
        """The initializer failed here: the session cannot go on anywhere."""
        failure = describe_outcome(outcome)
        what = f"{failure.type_name}: {failure.message}\n{failure.traceback}" if failure is not None else ""
        manifest = self._session.end(SessionState.BROKEN, f"no task can be run: the initializer failed: {what}")
        end_what_is_left(self._session, manifest)
        self._stop(Stop.BROKEN, what)
