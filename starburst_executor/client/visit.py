"""A visit of a client that has attached again, as `returning.py` uses it."""

from __future__ import annotations

from typing import Any

from starburst_executor.client.ending import Ending
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.parts import Parts
from starburst_executor.client.watched import Place

__all__ = ["Visit"]


class Visit:
    """Serves the futures of a client that has left, with the parts of an engine; a `returning.Returned`. Thread-safe."""

    def __init__(self, parts: Parts, ending: Ending) -> None:
        self._parts = parts
        self._ending = ending

    def watch(self, place: Place) -> None:
        """Watch one status object, to complete its futures."""
        waiting = [(position, future) for position, futures in place.futures.items() for future in futures]
        self._parts.collector.watch(place.key, place.ref, "", waiting)
        if (error := self._parts.state.error) is not None:
            self._parts.collector.give_up_all(error)

    def find(self, futures: list[StarburstFuture[Any]]) -> list[StarburstFuture[Any]]:
        """Find the tasks of these futures in the store, and watch them; return the futures without a stored task."""
        missing = {(future.ordinal, future.index): future for future in futures}
        for listed in self._parts.opened.session.statuses.all():
            ref = listed.ref
            tasks = [(position, (ref.ordinal, ref.first + position)) for position in range(ref.n_tasks)]
            waiting = {position: [missing.pop(task)] for position, task in tasks if task in missing}
            if waiting:
                self.watch(Place(listed.key, ref, waiting))
        return list(missing.values())

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        """Cancel the tasks that no worker has claimed, or with `running` all; return their number."""
        return self._parts.futures.cancel(futures, running=running)

    def has_failed(self) -> bool:
        """Whether the engine cannot continue, or has ended."""
        return self._parts.state.error is not None or self._parts.state.ended.is_set()

    def leave(self) -> None:
        """Leave without waiting for a worker. A second call is harmless."""
        self._ending.leave()
