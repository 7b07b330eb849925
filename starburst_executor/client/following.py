"""Follows a session: yields outcomes of tasks as they end, each once, in rounds."""

from __future__ import annotations

from collections.abc import Iterator

from starburst_executor.client.reading import Reading, Task
from starburst_executor.client.results import Outcome
from starburst_executor.errors import PayloadError, RecordInvalid
from starburst_executor.protocol.spans.record import SizeClass
from starburst_executor.session.statuses import ListedStatus

__all__ = ["Following"]


class Following:
    """Yields the outcomes that are new since the last round. Not thread-safe.

    Memory: an ETag for each status object of open epochs, and a number for each ended task of those that have not all ended.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._etags: dict[str, str] = {}
        self._shown: dict[str, set[tuple[int, int]]] = {}
        self._closed: set[tuple[int, int]] = set()

    def fresh(self) -> Iterator[Outcome]:
        """Yield outcomes of tasks that have ended since the last round, in submission order.

        Raises: KeyNotFound.
        Store: 1 GET, 1 LIST for each epoch that was open at the last round, 1 GET for each changed status object; 1 GET for each outcome
        that is too big to be inline.
        """
        self._reading.check_key()
        manifest = self._reading.session.manifest.refresh()
        open_now = set(manifest.open_epochs())
        for epoch in self._reading.epochs(manifest):
            if epoch in self._closed and epoch not in open_now:
                continue
            for listed in self._reading.listing(epoch):
                if listed.size_class != SizeClass.ALL_PENDING and self._etags.get(listed.key) != listed.etag:
                    yield from self._of(listed)
            if epoch not in open_now:
                self._closed.add(epoch)

    def _of(self, listed: ListedStatus) -> Iterator[Outcome]:
        block = self._reading.block(listed)
        if block is None:
            return
        shown = self._shown.setdefault(listed.key, set())
        for task in block.tasks:
            if task.has_ended and (task.sequence, task.run) not in shown:
                shown.add((task.sequence, task.run))
                try:
                    yield Outcome(task, self._reading.outcome(block, task))
                except (RecordInvalid, PayloadError) as error:
                    yield Outcome(task, None, error)
        self._etags[listed.key] = block.listed.etag
        if all(map(_has_ended, block.tasks)) and listed.size_class == SizeClass.ALL_COMPLETED:
            del self._shown[listed.key]  # what has completed never runs again


def _has_ended(task: Task) -> bool:
    return task.has_ended
