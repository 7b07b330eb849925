"""More slots than a worker was started with, while tasks wait for tasks of their own.

    lend ──► one more slot, with a thread of its own ──take_back──► it makes no further claims ──idle──► its runner and its thread end

So the tasks for which a task waits find a place although it occupies one. When it goes on, the additional slot ends its present task first: for
that time the worker runs one task more than it has slots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from starburst_executor.worker.slot import Slot

__all__ = ["MoreSlots", "Retirement"]

# Tasks of one worker that may wait at the same time. Each occupies a process: a recursion that goes deeper than this needs dependencies.
_MOST_LENT = 64


class Retirement(threading.Event):
    """Set when one additional slot should make no further claims, or its whole worker.

    Args:
        of_worker: Set when the worker drains.
    """

    def __init__(self, of_worker: threading.Event) -> None:
        super().__init__()
        self._of_worker = of_worker

    def is_set(self) -> bool:
        return super().is_set() or self._of_worker.is_set()


class _More(NamedTuple):
    slot: Slot
    retires: Retirement
    thread: threading.Thread


class MoreSlots:
    """The additional slots of one worker. Thread-safe.

    Args:
        first: The number of the first one.
        make: Makes a slot of this number, which drains when the event is set.
        work: Steps a slot until it is retired and idle.
        draining: Set when the worker drains.
    """

    def __init__(
        self,
        first: int,
        make: Callable[[int, threading.Event], Slot],
        work: Callable[[Slot, threading.Event], None],
        draining: threading.Event,
    ) -> None:
        self._first = first
        self._make = make
        self._work = work
        self._draining = draining
        self._lock = threading.Lock()  # guards: _all, _n_lent
        self._all: dict[int, _More] = {}  # by number
        self._n_lent = 0

    def slots(self) -> list[Slot]:
        """Return the slots that are there now, also those that end their last task."""
        return [more.slot for more in self._more()]

    def threads(self) -> list[tuple[threading.Thread, Slot]]:
        """Return them with their threads."""
        return [(more.thread, more.slot) for more in self._more()]

    def lend(self) -> bool:
        """Add a slot; return False if there are too many, or no thread can be started."""
        with self._lock:
            if self._n_lent >= _MOST_LENT:
                return False
            number = next(n for n in range(self._first, self._first + len(self._all) + 1) if n not in self._all)
            retires = Retirement(self._draining)
            slot = self._make(number, retires)
            thread = threading.Thread(target=self._run, args=(number,), name=f"slot-{number}", daemon=True)
            self._all[number] = _More(slot, retires, thread)
            self._n_lent += 1
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                del self._all[number]
                self._n_lent -= 1
            return False
        return True

    def take_back(self) -> None:
        """Have one of the slots end with its present task: an idle one, if there is any."""
        with self._lock:
            self._n_lent -= 1
            present = [more for more in self._all.values() if not more.retires.is_set()]
            present.sort(key=lambda more: more.slot.is_idle)
            if not present:
                return
            retired = present[-1]
            retired.retires.set()
        retired.slot.news.set()

    def _more(self) -> list[_More]:
        with self._lock:
            return list(self._all.values())

    def _run(self, number: int) -> None:
        with self._lock:
            slot, retires, _ = self._all[number]
        try:
            self._work(slot, retires)
        finally:
            slot.retire()
            with self._lock:
                del self._all[number]
