"""The replacement for the module `threading` in a simulation: the same names over strands, and clocks of processes.

It has only the names that the package uses. A strand is not interrupted between two waits, except that acquiring a lock
sometimes lets other strands run first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from greenlet import getcurrent

from starburst_executor.testing.simulation.lock_order import made_at
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.scheduler import Killed, Process, Strand, current_process, current_strand

__all__ = ["Condition", "Event", "Lock", "ProcessClock", "RLock", "Thread", "current_thread", "get_ident"]

_LEAST_S = 1e-6
_SET_S = 0.001
_START_AT = 1_700_000_000.0


class _Queue:
    """Strands that wait for one event."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[tuple[Strand, int]] = []

    def wait(self, timeout_s: float | None) -> bool:
        """Wait; return whether it was woken before the time ran out."""
        strand = current_strand()
        if not strand.process.is_alive:
            raise Killed
        token = strand.arm()
        place = (strand, token)
        self.waiting.append(place)
        if timeout_s is not None:
            strand.process.scheduler.at(max(timeout_s, 0.0), partial(strand.resume, token, False))
        try:
            is_woken: bool = strand.suspend()
        finally:
            if place in self.waiting:
                self.waiting.remove(place)
        return is_woken

    def wake(self, n: int | None = None) -> None:
        woken, self.waiting = (self.waiting, []) if n is None else (self.waiting[:n], self.waiting[n:])
        for strand, token in woken:
            strand.process.scheduler.at(0.0, partial(strand.resume, token, True))


class Event:
    """As `threading.Event`."""

    __slots__ = ("__weakref__", "_is_set", "_queue")

    def __init__(self) -> None:
        self._is_set = False
        self._queue = _Queue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._queue.wake()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._is_set:
            # Time passes in any case, so that a loop that waits on a set event does not stop virtual time.
            current_strand().sleep(_SET_S)
            return True
        return self._queue.wait(timeout) or self._is_set


class Lock:
    """As `threading.Lock`, and reentrant as `threading.RLock`."""

    __slots__ = ("_depth", "_made_at", "_owner", "_queue")

    def __init__(self, made: str = "") -> None:
        self._made_at = made or made_at(1)
        self._owner: object = None
        self._depth = 0
        self._queue = _Queue()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: ARG002 - as `threading.Lock` has it
        me = getcurrent()
        if isinstance(me, Strand) and self._owner is not me:
            scheduler = me.process.scheduler
            if scheduler.preempt_rate and scheduler.lots.random() < scheduler.preempt_rate:
                me.sleep(scheduler.lots.random() * 0.01)
            until = scheduler.now + timeout
            if me.held and (error := scheduler.lock_order.take(me.held, self._made_at)) is not None:
                scheduler.errors.append((f"{me.process.name}/{me.name}", error))
            while self._owner is not None:
                if timeout >= 0 and scheduler.now >= until:
                    return False
                self._queue.wait(None if timeout < 0 else until - scheduler.now)
            me.held.append(self._made_at)
        self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            if isinstance(self._owner, Strand):
                self._owner.held.remove(self._made_at)
            self._owner = None
            if self._queue.waiting:
                self._queue.wake(1)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


RLock = Lock


class Condition:
    """As `threading.Condition`."""

    __slots__ = ("_lock", "_queue")

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or Lock(made_at(1))
        self._queue = _Queue()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()

    @property
    def _waiters(self) -> list[object]:
        """Return the waiting strands, under the name that it has in `threading`."""
        return [*self._queue.waiting]

    def wait(self, timeout: float | None = None) -> bool:
        self._lock.release()
        try:
            return self._queue.wait(timeout)
        finally:
            if current_process().is_alive:
                self._lock.acquire()
            else:
                self._lock._depth += 1  # noqa: SLF001 - no thread waits for it any more, but `__exit__` is still to come

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        scheduler = current_process().scheduler
        until = None if timeout is None else scheduler.now + timeout
        found = predicate()
        while not found:
            left_s = None if until is None else until - scheduler.now
            if left_s is not None and left_s <= 0:
                break
            self.wait(None if left_s is None else max(left_s, _LEAST_S))
            found = predicate()
        return found

    def notify(self, n: int = 1) -> None:
        self._queue.wake(n)

    def notify_all(self) -> None:
        self._queue.wake()


class Thread:
    """As `threading.Thread`: a strand of the process that starts it."""

    def __init__(
        self,
        *,
        target: Callable[..., object] | None = None,
        name: str = "",
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        daemon: bool | None = None,
    ) -> None:
        self.name = name
        self.daemon = daemon
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs or {})
        self._ended = Event()

    def start(self) -> None:
        strand = current_process().spawn(self.name, self._run)
        strand.thread = self

    def join(self, timeout: float | None = None) -> None:
        if not self._ended.is_set():
            self._ended.wait(timeout)

    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def _run(self) -> None:
        try:
            if self._target is not None:
                self._target(*self._args, **self._kwargs)
        finally:
            self._ended.set()


def get_ident() -> int:
    """Return the id of the running strand, as `threading.get_ident`."""
    return id(getcurrent())


def current_thread() -> object:
    """Return the running thread; for a process's first strand, the strand itself."""
    strand = getcurrent()
    return strand.thread or strand if isinstance(strand, Strand) else strand


class ProcessClock:
    """The `Clock` of one process: it runs at the process's rate, with an error of the wall clock."""

    def __init__(self, process: Process, lots: Lots) -> None:
        self._process = process
        self._lots = lots

    def now(self) -> float:
        return _START_AT + self._process.ahead_s + self._process.scheduler.now * self._process.rate

    def monotonic(self) -> float:
        return self._process.scheduler.now * self._process.rate

    def wait(self, event: Any, timeout_s: float) -> bool:
        return bool(event.wait(max(timeout_s, _LEAST_S) / self._process.rate))

    def random(self) -> float:
        return self._lots.random()

    def new_id(self, n_bytes: int = 8) -> str:
        bits = 0
        for _ in range(-(-n_bytes // 8)):
            bits = bits << 64 | self._lots.bits()
        return f"{bits & (1 << 8 * n_bytes) - 1:0{2 * n_bytes}x}"
