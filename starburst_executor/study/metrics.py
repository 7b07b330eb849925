"""Metrics: the numbers of a trial, their directions and units, and how each is taken from what the trial returned or printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starburst_executor.errors import ConfigError

__all__ = ["DIRECTIONS", "Metric", "Output", "metric_of", "number", "taken"]

DIRECTIONS = ("max", "min")
_MOST_BITS = 63  # of a whole number; a longer one is stored as a float
_FIELDS = ("direction", "unit", "key", "function", "regex", "file")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a stage.

    Attributes:
        direction: `max` or `min`: which values are better.
        unit: For people.
        key: Its key in the mapping that the trial returns, or in a JSON file.
        function: Called with the value that the trial returned, or with the `Output` of its command; returns a number.
        regex: A pattern whose first parentheses, or whole match, is the number; the last match in the text counts.
        file: A file in the trial's folder to look into, instead of the output.
    """

    direction: str = "max"
    unit: str = ""
    key: str | None = None
    function: Callable[[Any], Any] | None = None
    regex: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left: its standard output and error as one text, and its folder, which exists until the trial ends."""

    text: str
    folder: Path


def metric_of(given: object, where: str) -> Metric:
    """Return the metric that a user described: `"min"`, `("min", "ns")`, a function, or a mapping. Raises: ConfigError."""
    if isinstance(given, Metric):
        metric = given
    elif isinstance(given, str):
        metric = Metric(given)
    elif isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(part, str) for part in given):  # noqa: PLR2004 - a pair
        metric = Metric(*given)
    elif callable(given):
        metric = Metric(function=given)
    elif isinstance(given, Mapping):
        unknown = sorted(set(given) - set(_FIELDS))
        if unknown:
            raise ConfigError(f"{where}: unknown {', '.join(map(str, unknown))}; a metric has {', '.join(_FIELDS)}")
        metric = Metric(**given)
    else:
        raise ConfigError(f"{where}: a metric is 'max' or 'min', a pair of direction and unit, a function or a mapping")
    for name in ("unit", "key", "regex", "file"):
        text = getattr(metric, name)
        if not isinstance(text, (str, type(None))) or (name == "unit" and text is None):
            raise ConfigError(f"{where}: {name}={text!r}: must be text")
    if metric.function is not None and not callable(metric.function):
        raise ConfigError(f"{where}: function={metric.function!r}: must be a function")
    if metric.direction not in DIRECTIONS:
        raise ConfigError(f"{where}: direction={metric.direction!r}: must be 'max' or 'min'")
    if metric.regex is not None:
        try:
            re.compile(metric.regex)
        except re.error as error:
            raise ConfigError(f"{where}: regex={metric.regex!r}: {error}") from error
    ways = [name for name in ("key", "function", "regex") if getattr(metric, name) is not None]
    if len(ways) > 1:
        raise ConfigError(f"{where}: {' and '.join(ways)} are two ways to take one metric; name one of them")
    return metric


def taken(value: Any, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return the metrics of a trial: those of the mapping that it returned, and each declared one.

    Args:
        value: What the trial returned: a mapping, text, None, or the `Output` of its command.
    Raises: TypeError, ValueError, LookupError: a declared metric is missing, or one is not a number.
    """
    found: dict[str, float] = {}
    if isinstance(value, Mapping):
        declared_keys = {metric.key or name for name, metric in metrics.items() if not metric.function}
        found = {str(name): number(name, one) for name, one in value.items() if name not in declared_keys}
    elif not metrics and not (value is None or isinstance(value, Output)):
        raise TypeError(f"a trial returns a mapping of metrics, not a {type(value).__name__}")
    for name, metric in metrics.items():
        found[name] = number(name, _taken(value, name, metric))
    return found


def _taken(value: Any, name: str, metric: Metric) -> Any:
    if metric.function is not None:
        return metric.function(value)
    if metric.regex is not None:
        return _matched(_text(value, name, metric), name, metric.regex)
    key = metric.key or name
    if metric.file is not None:
        import json

        value = json.loads(_text(value, name, metric))
    elif isinstance(value, Output):
        raise ValueError(
            f"no way to take the metric {name!r} from a command: give it a regex, a function or a JSON file"
        )
    if not isinstance(value, Mapping):
        raise TypeError(f"the metric {name!r} is missing: the trial returned a {type(value).__name__}, not a mapping")
    if key not in value:
        raise LookupError(f"the metric {name!r} is missing: there are {', '.join(map(str, value)) or 'none'}")
    return value[key]


def _text(value: Any, name: str, metric: Metric) -> str:
    if metric.file is not None:
        folder = value.folder if isinstance(value, Output) else Path.cwd()
        return (folder / metric.file).read_text(encoding="utf-8", errors="replace")
    if isinstance(value, Output):
        return value.text
    if isinstance(value, str):
        return value
    raise TypeError(f"the metric {name!r} is taken from text: the trial returned a {type(value).__name__}")


def _matched(text: str, name: str, regex: str) -> str:
    matches = list(re.finditer(regex, text, re.MULTILINE))
    if not matches:
        raise LookupError(f"the metric {name!r} is missing: nothing matches {regex!r}")
    last = matches[-1]
    return last[1 if last.lastindex else 0]


def number(name: object, value: Any) -> float:
    """Return a metric's value as an int or a float. Raises: TypeError, ValueError."""
    if isinstance(value, bool):
        return int(value)
    if type(value) is float or (type(value) is int and value.bit_length() <= _MOST_BITS):
        return value
    if isinstance(value, (str, int)) or hasattr(value, "__float__"):  # also numbers of NumPy
        try:
            return float(value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"the metric {str(name)!r} is no number: {error}") from error
    raise TypeError(f"the metric {str(name)!r} is a {type(value).__name__}: metrics are numbers")
