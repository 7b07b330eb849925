"""Has a client that waits for no task of its own look after a session: it starts missing workers and takes back lost tasks.

A client does that while it waits for a task. So one unfinished task of the session is watched; once it has ended, another one. It is
one that waits, if any does: workers that are asked to leave may still end the tasks that they hold, and then the others need new workers.
"""

from __future__ import annotations

from typing import Any

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.reading import Reading, Task
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.store import SessionStore

__all__ = ["Tending"]


class Tending:
    """Looks after a session with an executor that is attached to it, until the executor detaches. Not thread-safe.

    Args:
        session: The same session, for reading.
    """

    def __init__(self, executor: DetachedExecutor, session: SessionStore) -> None:
        self._executor = executor
        self._reading = Reading(session)
        self._watched: StarburstFuture[Any] | None = None

    def go_on(self) -> bool:
        """Watch another task if the last one has ended; return whether any is unfinished.

        Store: usually nothing; else 1 GET, 1 LIST an epoch down to the last with a waiting task, 1 GET for each object with an
        unfinished one down to that task's.
        """
        if self._watched is None or self._watched.done():
            task = self._unfinished()
            self._watched = None if task is None else self._executor.future_of(task.ordinal, task.sequence)
        return self._watched is not None

    def _unfinished(self) -> Task | None:
        """Return the last task that waits, which probably ends last; one that a worker holds if none waits; None if all have ended."""
        held: Task | None = None
        for epoch in reversed(self._reading.epochs()):
            listing = self._reading.listing(epoch)
            for block in self._reading.blocks(
                listed for listed in reversed(listing) if not listed.size_class.has_ended
            ):
                unfinished = [task for task in block.tasks if not task.has_ended]
                waiting = [task for task in unfinished if task.state == State.PENDING]
                if waiting:
                    return waiting[-1]
                held = held or next(iter(unfinished), None)
        return held
