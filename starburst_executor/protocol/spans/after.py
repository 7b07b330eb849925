"""The tasks for which blocked ones wait: the field `after` in `more` of a status object.

    after = (keys, ((position, ((key, position), …)), …))      keys of status objects, without their prefix; `key` counts in them

It is written once, when the tasks are created, and never changes. Whether a task has what it waits for is not stored anywhere else: any worker
finds it out from the objects named here, so no crash can lose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.spans.record import Status

__all__ = ["AFTER", "Upstream", "encoded", "upstream_of"]

AFTER = "after"


class Upstream(NamedTuple):
    """A task for which another waits.

    Attributes:
        place: The key of its status object, without the prefix of all of them.
        position: Its position in it.
    """

    place: str
    position: int


def encoded(waits: Mapping[int, Sequence[Upstream]]) -> tuple[Any, ...]:
    """Return the field for tasks, by position, that wait for these."""
    numbers: dict[str, int] = {}
    number = numbers.setdefault
    rows = tuple(
        (position, tuple((number(place, len(numbers)), at) for place, at in upstream))
        for position, upstream in sorted(waits.items())
    )
    return tuple(numbers), rows


def upstream_of(status: Status) -> dict[int, tuple[Upstream, ...]]:
    """Return, by position, the tasks for which the tasks of an object wait, or have waited. Raises: RecordInvalid."""
    raw = None if status.more is None else status.more.get(AFTER)
    if raw is None:
        return {}
    try:
        places, rows = raw
        if not all(type(place) is str for place in places):
            raise ValueError(places)
        waits = {}
        for position, upstream in rows:
            waits[_count(position)] = tuple(Upstream(places[_count(k)], _count(at)) for k, at in upstream)
    except (ValueError, TypeError, IndexError) as error:
        raise RecordInvalid(f"a status object whose `{AFTER}` cannot be read: tasks={status.n_tasks}") from error
    return waits


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value
