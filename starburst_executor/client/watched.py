"""The status objects that a collector watches, and the futures that wait for their tasks."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from starburst_executor.client.future import StarburstFuture
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans.record import Span

__all__ = ["Place", "Waiting", "Watched", "waiting_in"]


class Place(NamedTuple):
    """A status object, and the futures that wait for its tasks, by the task's position in the object."""

    key: str
    ref: StatusRef
    futures: dict[int, list[StarburstFuture[Any]]]


# Futures that wait for one task, and its position.
Waiting: TypeAlias = "tuple[int, list[StarburstFuture[Any]]]"


class Watched:
    """One status object and the futures that wait for its tasks."""

    __slots__ = ("claims", "etag", "futures", "is_unread", "key", "read_at", "ref", "spans", "version")

    def __init__(self, key: str, ref: StatusRef, etag: str, read_at: float) -> None:
        self.key = key
        self.ref = ref
        self.etag = etag  # empty: read the object at the next poll
        self.read_at = read_at  # when its bytes were last read or written; monotonic
        self.is_unread = False
        self.claims: frozenset[str] = frozenset()  # the claims in it when it was last read
        self.futures: dict[int, list[StarburstFuture[Any]]] = {}
        self.spans: frozenset[tuple[int, Span]] = frozenset()  # that were taken in, with their starts
        self.version = 0  # rises with each call of `watch`


def waiting_in(futures: dict[int, list[StarburstFuture[Any]]], start: int, span: Span) -> list[Waiting]:
    """Return the futures that wait for tasks of a span, as far as they are of its run.

    A retry is a later run: a task of an earlier run is not the outcome of its future.
    """
    waiting = []
    for position in range(start, start + span.n):
        of_task = futures.get(position)
        if of_task is not None:
            of_run = [future for future in of_task if span.run >= future.run]
            if of_run:
                waiting.append((position, of_run))
    return waiting
