"""Spaces of parameters: ranges and choices by name, and the points in them. Pure.

{"lr": {"low": 1e-5, "high": 1e-1, "log": True}, "depth": Range(2, 12), "kind": ["a", "b"]}
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starburst_executor.errors import ConfigError
from starburst_executor.study.plain import is_scalar, kind_of

__all__ = ["Choices", "Range", "Space", "space_of"]

_MOST_POINTS = 1_000_000
_FIELDS = ("low", "high", "log", "step")


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both are.

    Attributes:
        log: Whether their logarithms are spread evenly.
        step: The distance of two neighbours; for floats None for any value.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        return type(self.low) is int and type(self.high) is int

    def at(self, share: float) -> float:
        """Return the value at a share, 0 up to but not including 1, of the way."""
        low, high, step = self.low, self.high, self.step
        if self.is_whole:
            if self.log:
                value = math.exp(_mixed(math.log(low - 0.5), math.log(high + 0.5), share))
                return int(min(max(round(value), low), high))
            size = step or 1
            return int(low + size * int(share * ((high - low) // size + 1)))
        if step is not None:
            n_steps = int((high - low) / step + _SLACK) + 1
            return min(low + step * int(share * n_steps), high)
        if self.log:
            return min(max(math.exp(_mixed(math.log(low), math.log(high), share)), low), high)
        return _mixed(low, high, share)

    def has(self, value: Any) -> bool:
        """Return whether a value is one of these."""
        if type(value) is bool or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return (self.step is None and not self.is_whole) or abs(steps - round(steps)) <= _SLACK * max(1.0, abs(steps))

    def values(self, where: str) -> list[Any]:
        """Return all values, for a grid. Raises: ConfigError: they are not countable."""
        if self.log or not (self.is_whole or self.step is not None):
            raise ConfigError(f"{where}: a grid needs a list of values, or a range of whole numbers or with a step")
        step = self.step or 1
        return [self.low + step * number for number in range(int((self.high - self.low) / step + _SLACK) + 1)]


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several plain values."""

    choices: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """Return the value at a share, 0 up to but not including 1, of the list."""
        return self.choices[int(share * len(self.choices))]

    def has(self, value: Any) -> bool:
        """Return whether a value is one of these."""
        return any(value == one and type(value) is type(one) for one in self.choices)

    def values(self, where: str) -> list[Any]:  # noqa: ARG002 - as of a range
        """Return all values, for a grid."""
        return list(self.choices)


_SLACK = 1e-9  # of a quotient of floats that is meant to be whole


class Space:
    """Parameters by name. Immutable.

    Attributes:
        parts: A range or choices for each name, in the order in which they were written.
    """

    def __init__(self, parts: Mapping[str, Range | Choices]) -> None:
        self.parts = dict(parts)

    def __len__(self) -> int:
        return len(self.parts)

    def point(self, shares: Sequence[float]) -> dict[str, Any]:
        """Return the point at these shares, one a parameter."""
        return {name: part.at(share) for (name, part), share in zip(self.parts.items(), shares, strict=True)}

    def grid(self, where: str) -> list[dict[str, Any]]:
        """Return every combination; the last parameter changes fastest. Raises: ConfigError: too many, or not countable."""
        values = [part.values(f"{where}: {name}") for name, part in self.parts.items()]
        n_points = math.prod(map(len, values))
        if n_points > _MOST_POINTS:
            raise ConfigError(f"{where}: the grid has {n_points:,} points, at most {_MOST_POINTS:,} are possible")
        return [dict(zip(self.parts, combination, strict=True)) for combination in itertools.product(*values)]

    def described(self) -> dict[str, Any]:
        """Return the space as plain values, for fingerprints."""
        return {
            name: list(part.choices) if isinstance(part, Choices) else asdict(part) for name, part in self.parts.items()
        }


def space_of(given: object, where: str) -> Space:
    """Return the space that a user described. Raises: ConfigError."""
    if isinstance(given, Space):
        return given
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{where}={given!r}: must be a mapping of parameters to ranges or lists of choices")
    return Space({_name(name, where): _part(part, f"{where}: {name}") for name, part in given.items()})


def _name(name: object, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}: the name of a parameter must be text, not {name!r}")
    return name


def _part(given: object, where: str) -> Range | Choices:
    part: Range | Choices
    if isinstance(given, (Range, Choices)):
        part = given
    elif isinstance(given, Mapping):
        unknown = sorted(set(given) - set(_FIELDS))
        if unknown or not {"low", "high"} <= set(given):
            raise ConfigError(f"{where}={given!r}: a range has low and high, and perhaps log or step")
        part = Range(**given)
    elif isinstance(given, range) and given.step > 0 and len(given):
        part = Range(given[0], given[-1], step=given.step)
    elif isinstance(given, (list, tuple)):
        part = Choices(tuple(given))
    else:
        raise ConfigError(f"{where}={given!r}: must be a list of choices, or a range: a mapping of low and high")
    faults = list(_faults(part))
    if faults:
        raise ConfigError(f"{where}: {'; '.join(faults)}")
    return part


def _faults(part: Range | Choices) -> Iterator[str]:
    if isinstance(part, Choices):
        if not part.choices:
            yield "there is no choice"
        plain = (str, int, float, bool, type(None))
        wrong = [value for value in part.choices if type(value) not in plain or not is_scalar(value)]
        if wrong:
            yield f"choices are texts, numbers, booleans or null, not {kind_of(wrong[0])}; let the trial map a text to it"
        return
    numbers = [part.low, part.high] + ([] if part.step is None else [part.step])
    for one in numbers:
        if type(one) is int and not is_scalar(one):
            yield f"one of its numbers is {kind_of(one)}"
            return
    if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        yield f"low={part.low!r}, high={part.high!r}, step={part.step!r} must be numbers"
        return
    if part.low > part.high:
        yield f"low={part.low!r} is greater than high={part.high!r}"
    elif math.isinf(float(part.high) - float(part.low)):
        yield f"from low={part.low!r} to high={part.high!r} is more than a number can be"
    log: object = part.log
    if type(log) is not bool:
        yield f"log={log!r} must be true or false"
    if part.log and (part.low <= 0 or part.step is not None):
        yield "a range with log begins above 0, and has no step"
    if part.step is not None and (part.step <= 0 or (part.is_whole and type(part.step) is not int)):
        yield f"step={part.step!r} must be greater than 0, and a whole number between whole numbers"


def _mixed(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
