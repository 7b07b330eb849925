"""Reads the outcomes of ended tasks: each outcome object once, in one range, several objects at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from starburst_executor.errors import ObjectNotFound, PayloadError
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans.record import Located, OutcomeBlock
from starburst_executor.session.store import SessionStore

__all__ = ["Bodies", "Mapper"]

_A = TypeVar("_A")
_B = TypeVar("_B")


class Mapper(Protocol):
    """Calls a function for several items, several at once where that helps; results in order."""

    def __call__(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]: ...


class Bodies:
    """The sealed outcome blocks of one status object; each outcome object is read once, in one range."""

    def __init__(self, session: SessionStore, ref: StatusRef, parallel: Mapper, found: Iterable[OutcomeBlock]) -> None:
        self._session = session
        self._ref = ref
        ranges: dict[str, tuple[int, int]] = {}
        for block in found:
            place = block.place
            if isinstance(place, Located):
                start, end = ranges.get(place.part, (place.start, 0))
                ranges[place.part] = (min(start, place.start), max(end, place.start + place.length))
        self._read = dict(parallel(self._fetch, ranges.items())) if ranges else {}

    def get(self, block: OutcomeBlock) -> bytes | memoryview:
        """Raises: PayloadError if the object is missing."""
        place = block.place
        if not isinstance(place, Located):
            return place
        start, body = self._read[place.part]
        if isinstance(body, PayloadError):
            raise body
        return memoryview(body)[place.start - start : place.start - start + place.length]

    def _fetch(self, item: tuple[str, tuple[int, int]]) -> tuple[str, tuple[int, bytes | PayloadError]]:
        part, (start, end) = item
        key = self._session.keys.outcomes(self._ref.status_id, part)
        try:
            stored = self._session.store.get(key, start=start, length=end - start)
        except ObjectNotFound:
            return part, (start, PayloadError(f"a stored outcome is missing: key={key}; was the session cleaned up?"))
        return part, (start, stored.body)
