"""The status objects that a collector watches, and what waits for their tasks.

What this client has submitted waits in rows, most often one for the whole object, with one byte for each task that has not ended.
Futures that came later, of a detached session or a retry, are in a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.rows import RowPart
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans.record import Span

__all__ = ["EndedSpan", "Place", "Waiting", "Watched", "waiting_in"]


class Place(NamedTuple):
    """A status object, and the futures that wait for its tasks, by the task's position in the object."""

    key: str
    ref: StatusRef
    futures: dict[int, list[StarburstFuture[Any]]]


# Futures that wait for one task, and its position.
Waiting: TypeAlias = "tuple[int, list[StarburstFuture[Any]]]"


class EndedSpan(NamedTuple):
    """A span of tasks that have ended, and what waits for them.

    Attributes:
        start: The position of its first task.
        waiting: Futures that came later.
        left: For each task 1 if its row waits for it, otherwise 0; empty if none does.
    """

    start: int
    span: Span
    waiting: list[Waiting]
    left: bytes


class Watched:
    """One status object and what waits for its tasks. Its collector's lock guards it.

    Attributes:
        futures: The futures that came later, by position.
        parts: The tasks that this client has submitted, in order.
    """

    __slots__ = (
        "_left",
        "claims",
        "etag",
        "futures",
        "is_unread",
        "key",
        "parts",
        "read_at",
        "ref",
        "spans",
        "version",
    )

    def __init__(self, key: str, ref: StatusRef, etag: str, read_at: float) -> None:
        self.key = key
        self.ref = ref
        self.etag = etag  # empty: read the object at the next poll
        self.read_at = read_at  # when its bytes were last read or written; monotonic
        self.is_unread = False
        self.claims: frozenset[str] = frozenset()  # the claims in it when it was last read
        self.futures: dict[int, list[StarburstFuture[Any]]] = {}
        self.parts: tuple[RowPart, ...] = ()
        self._left = bytearray()  # for each position 1 if its row waits for it; empty without rows
        self.spans: frozenset[tuple[int, Span]] = frozenset()  # that were taken in, with their starts
        self.version = 0  # rises with each call of `watch`

    def add_rows(self, parts: Sequence[RowPart]) -> int:
        """Wait for tasks of rows, which are all of the object's; return how many have not ended."""
        self.parts = tuple(parts)
        self._left = bytearray().join(part.row.are_open(part.start, part.n) for part in parts)
        return self._left.count(1)

    def is_done(self) -> bool:
        """Return whether nothing waits for its tasks."""
        return not self.futures and 1 not in self._left

    def left_in(self, start: int, n: int) -> bytes:
        """Return for each of `n` positions 1 if a row waits for it, otherwise 0; empty if none does."""
        return bytes(self._left[start : start + n]) if self._left.find(1, start, start + n) >= 0 else b""

    def waiting(self, *, known: bool = False) -> Iterator[Waiting]:
        """Yield the futures that wait, by position: one for each task for which something waits, or only those that are `known`."""
        yield from ((position, list(futures)) for position, futures in self.futures.items())
        for part in self.parts:
            future_at = part.known if known else part.future
            for position in range(part.position, part.position + part.n):
                if self._left[position] and (future := future_at(position)) is not None:
                    yield position, [future]

    def forget(self, ended: EndedSpan) -> int:
        """Forget what waited for the tasks of a span; return its number."""
        n_gone = 0
        for position, futures in ended.waiting:
            before = self.futures.get(position, [])
            after = [future for future in before if future not in futures]
            n_gone += len(before) - len(after)
            if after:
                self.futures[position] = after
            else:
                self.futures.pop(position, None)
        return n_gone + (self._forget_rows(ended.start, ended.left) if ended.left else 0)

    def _forget_rows(self, start: int, left: bytes) -> int:
        end = start + len(left)
        n_gone = self._left.count(1, start, end)
        if self._left[start:end] == left:
            self._left[start:end] = bytes(len(left))
        else:
            # Another thread has taken in some of them since.
            for position, was_left in enumerate(left, start):
                if was_left:
                    self._left[position] = 0
            n_gone -= self._left.count(1, start, end)
        for part in self.parts_within(start, end):
            if self._left.find(1, part.position, part.position + part.n) < 0:
                part.row.release(part.start, part.n)
        return n_gone

    def parts_within(self, start: int, end: int) -> list[RowPart]:
        """Return the tasks of rows with positions from `start` to before `end`."""
        return parts_within(self.parts, start, end)


def parts_within(parts: Sequence[RowPart], start: int, end: int) -> list[RowPart]:
    """Return the tasks of these parts with positions from `start` to before `end`."""
    return [within for part in parts if (within := part.within(start, end)) is not None]


def waiting_in(futures: dict[int, list[StarburstFuture[Any]]], start: int, span: Span) -> list[Waiting]:
    """Return the futures that wait for tasks of a span, as far as they are of its run.

    A retry is a later run: a task of an earlier run is not the outcome of its future.
    """
    if not futures:
        return []
    waiting = []
    for position in range(start, start + span.n):
        of_task = futures.get(position)
        if of_task is not None:
            of_run = [future for future in of_task if span.run >= future.run]
            if of_run:
                waiting.append((position, of_run))
    return waiting
