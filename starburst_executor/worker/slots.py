"""All slots of a worker: makes them with their runners' listeners, runs and wakes them, and ends their tasks with the worker.

One thread steps each slot (`work`). A thread whose slot finds no task sleeps until the finder has found some (`wake`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from starburst_executor.worker.leaving import Leaving
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.places import MoreSlots
from starburst_executor.worker.runner.spawn import Nursery
from starburst_executor.worker.runner.usage import RunningNow
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.slot import Slot

__all__ = ["Slots"]


class Slots:
    """The slots of one worker. Thread-safe.

    Args:
        broken: Called with the outcome of an initializer that raised.
        guard: Runs what a thread of a slot does; an error that ends the thread ends the worker.

    Attributes:
        lost_s: Seconds of work that were lost when running tasks were killed at the end of the grace time.
        threads: The threads that step the slots, in order; set before they start.
    """

    def __init__(
        self,
        n_slots: int,
        shared: Shared,
        nursery: Nursery,
        leaving: Leaving,
        *,
        broken: Callable[[bytes], None],
        guard: Callable[[Callable[[], object]], None],
    ) -> None:
        self._shared = shared
        self._nursery = nursery
        self._leaving = leaving
        self._broken = broken
        self._guard = guard
        self._more = threading.Condition()  # guards: _n_finds, _listeners
        self._n_finds = 0
        self._listeners: list[Listener] = []  # whose runners had not ended when the last of them was made
        self._slots = [self._make(number, leaving.draining) for number in range(n_slots)]
        self._more_slots = MoreSlots(n_slots, self._make, self._guarded, leaving.draining)
        self.lost_s = 0.0
        self.threads: list[threading.Thread] = []

    def are_idle(self) -> bool:
        """Return whether no slot holds a claim or runs a task."""
        return all(slot.is_idle for slot in self._all())

    def are_busy(self) -> bool:
        """Return whether no slot is idle."""
        return all(not slot.is_idle for slot in self._all())

    def running(self) -> list[RunningNow]:
        """Return the running tasks."""
        return [running for slot in self._all() if (running := slot.running())]

    def targets(self) -> list[Callable[[], None]]:
        """Return the target of each slot's thread."""
        return [partial(self._work, slot, self._leaving.draining) for slot in self._slots]

    def wake(self) -> None:
        """Wake the threads whose slots found no task: there may be some now."""
        with self._more:
            self._n_finds += 1
            self._more.notify_all()

    def wake_all(self) -> None:
        """Wake every slot's thread, because the worker leaves."""
        for slot in self._all():
            slot.news.set()
        with self._more:
            self._more.notify_all()

    def hurry(self) -> None:
        """Kill the running tasks at the end of the grace time; they start anew on another worker."""
        self.lost_s = sum(running.seconds for running in self.running())
        for slot in self._all():
            slot.hurry()

    def give_back(self, until: float) -> None:
        """Release the tasks that have not started, when this worker cannot go on.

        A slot whose thread has not ended at the time `until` is left alone: its thread may be in a request.
        """
        clock = self._shared.clock
        for thread, slot in [*zip(self.threads, self._slots, strict=True), *self._more_slots.threads()]:
            thread.join(max(0.0, until - clock.monotonic()))
            if not thread.is_alive():
                slot.give_back()

    def stop_listening(self) -> None:
        """End the threads that listen to runners. Call it when the runners have ended: what these threads use is released with the interpreter."""
        with self._more:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.stop()

    def lend(self, number: int) -> bool:
        """Let another task run while that of this slot waits for its own tasks; return False if too many wait. It does not wait."""
        if not self._more_slots.lend():
            return False
        # A task on its last try has the worker to itself: not while it waits for others.
        self._shared.solitude.give_up(number)
        self._shared.candidates.wanted.set()
        return True

    def take_back(self) -> None:
        """End what `lend` began. It does not wait."""
        self._more_slots.take_back()
        self.wake()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _all(self) -> list[Slot]:
        return [*self._slots, *self._more_slots.slots()]

    def _make(self, number: int, draining: threading.Event) -> Slot:
        news = threading.Event()
        return Slot(
            number,
            self._shared,
            spawn=partial(self._spawn, number, news.set),
            news=news,
            draining=draining,
            stopped=self._leaving.over,
            broken=self._broken,
        )

    def _spawn(
        self, number: int, heard: Callable[[], object], code: Sequence[str], gpus: Sequence[str] = ()
    ) -> Listener:
        runner = self._nursery.spawn(
            code,
            gpus=gpus,
            initializer=self._shared.functions.initializer,
            task_logs=self._shared.session.manifest.current.task_logs,
            is_leaving=lambda: self._leaving.is_asked,
            places=_Places(self, number),
        )
        task_timeout = self._shared.session.manifest.current.task_timeout
        listener = Listener(runner, self._shared.clock, task_timeout=task_timeout, heard=heard)
        listener.start(f"runner-{number}")
        with self._more:
            self._listeners = [*(one for one in self._listeners if not one.has_ended), listener]
        return listener

    def _guarded(self, slot: Slot, draining: threading.Event) -> None:
        self._guard(partial(self._work, slot, draining))

    def _work(self, slot: Slot, draining: threading.Event) -> None:
        leaving, beat_s = self._leaving, self._shared.session.manifest.current.timings.beat_s
        while not leaving.over.is_set():
            with self._more:
                n_finds = self._n_finds
            if slot.step():
                continue
            if draining.is_set():
                leaving.changed()
                return
            with self._more:
                if self._n_finds == n_finds and not leaving.is_leaving:
                    self._more.wait(beat_s)


class _Places(NamedTuple):
    """The places of a worker, as the runner of one slot sees them."""

    slots: Slots
    number: int

    def lend(self) -> bool:
        return self.slots.lend(self.number)

    def take_back(self) -> None:
        self.slots.take_back()
