"""Has a client that waits for no task of its own look after a session: it starts missing workers and takes back lost tasks.

A client does that while it waits for a task. So one unfinished task of the session is watched; once it has ended, the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.reading import Reading, Task
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

        Store: usually nothing; else 1 GET, 1 LIST an epoch up to that of an unfinished task, 1 GET for the task.
        """
        if self._watched is None or self._watched.done():
            task = next(self._unfinished(), None)
            self._watched = None if task is None else self._executor.future_of(task.ordinal, task.sequence)
        return self._watched is not None

    def _unfinished(self) -> Iterator[Task]:
        for block in self._reading.all(lambda listed: not listed.size_class.has_ended):
            yield from (task for task in block.tasks if not task.has_ended)
