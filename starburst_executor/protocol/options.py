"""The options of a task: what `executor.options(...)` takes, checked; and how they are stored with the tasks that have them.

    options(...) ──TaskOptions.of──► TaskOptions ──encode──► bytes in the table of a status object ──decoded──► worker

A status object holds each set of options once; its spans refer to it by number. The bytes are a msgpack map, sorted by name, of
the fields that differ from the defaults: equal options are equal bytes, and default options are no bytes at all. They are not
sealed and nothing in them is ever unpickled. See `docs/design/0016-options.md`.

To add an option: a field with the default None, and its check in `_CHECKS`, which takes what a user gives and what is stored, and
returns the field's value; `_packed` returns the stored form of values that msgpack does not know.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from starburst_executor.errors import ConfigError, RecordInvalid, VersionMismatch
from starburst_executor.protocol.keys import is_limit_name
from starburst_executor.protocol.resources import Amounts, resources_of, whole_number

__all__ = ["DEFAULT", "MOST_LABEL", "Backoff", "Limit", "TaskOptions", "class_names", "decoded", "label_of"]

# As the setting `retries` of a session.
_MOST_RETRIES = 100
_MOST_SECONDS = 31_622_400.0
_MOST_CLASSES = 32
_MOST_PRIORITY = 100
_MOST_AT_ONCE = 10_000
_MOST_NAME = 300
MOST_LABEL = 200


class Limit(NamedTuple):
    """At most `most` of the tasks with the limit `name` run at once, on all workers of the session, for all clients.

    Attributes:
        name: A letter, then up to 31 letters, digits and "_".
        most: The number, 1..10,000. For a name that the session has, the last one counts.
    """

    name: str
    most: int


class Backoff(NamedTuple):
    """The pauses before a task is tried again: `first` seconds, each `factor` times the one before, `most` at the most."""

    first: float
    factor: float = 2.0
    most: float = 3600.0

    def pause_s(self, n_failures: int) -> float:
        """Return the pause after this number of failures, at least 1."""
        if self.first >= self.most:
            return self.most
        try:
            return min(self.most, self.first * self.factor ** (n_failures - 1))
        except OverflowError:
            return self.most


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options of some tasks. None stands for what the session has.

    Attributes:
        timeout: Seconds after which a try is stopped; infinite for never.
        retries: The number of further tries of a task that fails.
        retry_on: Names of exception classes (`module.Class`): a task is only tried again if it fails with one of them or a subclass.
        backoff: The pauses before further tries.
        seed: What `current_task().rng()` is seeded with, together with the task's index.
        priority: Higher ones are claimed first; 0 if none is given. It is not stored with the options: the key of a status object has it.
        limit: How many of these tasks may run at once. Its name is in the key too.
        resources: What a task needs of its worker, sorted by name. They are in the key too.
        label: A text that the user calls the task by, or a function that makes it of the call's arguments. It is not part of what
            tasks have in common: labels are a column of their status object.
    """

    timeout: float | None = None
    retries: int | None = None
    retry_on: tuple[str, ...] | None = None
    backoff: Backoff | None = None
    seed: int | None = None
    priority: int | None = None
    limit: Limit | None = None
    resources: Amounts | None = None
    label: str | Callable[..., object] | None = None

    def but(self, **given: object) -> TaskOptions:
        """Return these options with others in their place, as a user gave them. Raises: ConfigError."""
        checked: dict[str, Any] = {}
        for name, value in given.items():
            check = _CHECKS.get(name)
            if check is None:
                raise ConfigError(f"unknown option {name!r}: tasks have {', '.join(_CHECKS)}")
            checked[name] = None if value is None else check(value)
        return replace(self, **checked)

    def given(self) -> dict[str, Any]:
        """Return the options that are not the defaults, by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}

    def encode(self) -> bytes:
        """Return the bytes to store, the same for equal options; empty if all are the defaults. Labels are not in it."""
        packed = {name: _packed(value) for name, value in sorted(self.given().items()) if name not in _COLUMNS}
        return bytes(msgpack.packb(packed)) if packed else b""

    def tries_again(self, names: Iterable[str]) -> bool:
        """Return whether a failure is one that `retry_on` names.

        Args:
            names: The names of the exception's class and of its base classes, as of `class_names`.
        """
        return self.retry_on is None or not set(self.retry_on).isdisjoint(names)


DEFAULT = TaskOptions()


@lru_cache(maxsize=4096)
def decoded(body: bytes) -> TaskOptions:
    """Return stored options.

    Raises: VersionMismatch: they have a field that this version does not know, so it must not run these tasks; RecordInvalid.
    """
    if not body:
        return DEFAULT
    try:
        stored = msgpack.unpackb(body, use_list=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"options that cannot be read: bytes={len(body)}") from error
    if type(stored) is not dict:
        raise RecordInvalid(f"options that cannot be read: bytes={len(body)}")
    unknown = sorted(str(name) for name in stored if name not in _CHECKS or name in _COLUMNS)
    if unknown:
        raise VersionMismatch(
            f"tasks with options that this version does not support: options={', '.join(unknown)}; use the version of "
            "starburst_executor that submitted them"
        )
    try:
        return DEFAULT.but(**stored)
    except ConfigError as error:
        raise RecordInvalid(f"options that cannot be read: {error}") from error


def class_names(kind: type) -> list[str]:
    """Return the names of an exception class and of its bases, as `retry_on` is stored."""
    return [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]


def label_of(options: TaskOptions, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the label of a call; empty if it has none. Raises: ConfigError, and what a function of the user's raises."""
    label = options.label
    if label is None:
        return ""
    return label if isinstance(label, str) else _label_text(label(*args, **kwargs))


# --- checks -----------------------------------------------------------------------------------------------------------


def _timeout(value: Any) -> float:
    seconds = _number(value)
    if seconds is None or not (0 < seconds <= _MOST_SECONDS or seconds == math.inf):
        raise ConfigError(
            f"timeout={value!r}: must be a number of seconds, greater than 0 and at most {_MOST_SECONDS:,.0f}, or math.inf for no limit"
        )
    return seconds


def _retries(value: object) -> int:
    retries = whole_number(value)
    if retries is None or not 0 <= retries <= _MOST_RETRIES:
        raise ConfigError(f"retries={value!r}: must be a whole number, 0..{_MOST_RETRIES}")
    return retries


def _retry_on(value: object) -> tuple[str, ...]:
    given: tuple[object, ...] = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    names = []
    for one in given:
        if isinstance(one, type) and issubclass(one, BaseException):
            names.append(class_names(one)[0])
        elif isinstance(one, str) and 0 < len(one) <= _MOST_NAME and "." in one:
            names.append(one)
        else:
            raise ConfigError(f"retry_on={value!r}: must be an exception class or a tuple of them; {one!r} is none")
    if not 0 < len(names) <= _MOST_CLASSES:
        raise ConfigError(f"retry_on={value!r}: must be 1..{_MOST_CLASSES} exception classes")
    return tuple(sorted(set(names)))


def _backoff(value: object) -> Backoff:
    numbers = [_number(one) for one in (value if isinstance(value, list | tuple) else (value,))]
    given = [one for one in numbers if one is not None]
    if not 1 <= len(given) == len(numbers) <= len(Backoff._fields):
        raise ConfigError(f"backoff={value!r}: must be a number of seconds, or (first, factor, most)")
    # A plain number is the same pause each time.
    backoff = Backoff(given[0], 1.0) if len(given) == 1 else Backoff(*given)
    if not (0 <= backoff.first <= _MOST_SECONDS and 0 <= backoff.most <= _MOST_SECONDS):
        raise ConfigError(f"backoff={value!r}: pauses must be 0..{_MOST_SECONDS:,.0f} seconds")
    if not 1 <= backoff.factor <= 100:  # noqa: PLR2004 - a pause that shrinks is no backoff
        raise ConfigError(f"backoff={value!r}: the factor must be 1..100")
    return backoff._replace(most=backoff.first) if len(given) == 1 else backoff


def _seed(value: object) -> int:
    seed = whole_number(value)
    if seed is None or not 0 <= seed < 2**64:
        raise ConfigError(f"seed={value!r}: must be a whole number, 0..2**64 - 1")
    return seed


def _priority(value: object) -> int | None:
    priority = whole_number(value)
    if priority is None or abs(priority) > _MOST_PRIORITY:
        raise ConfigError(f"priority={value!r}: must be a whole number, -{_MOST_PRIORITY}..{_MOST_PRIORITY}")
    return priority or None


def _limit(value: object) -> Limit:
    given = tuple(value) if isinstance(value, tuple) else ()
    most = whole_number(given[1]) if len(given) == 2 and is_limit_name(given[0]) else None  # noqa: PLR2004 - name and number
    if most is None or not 1 <= most <= _MOST_AT_ONCE:
        raise ConfigError(
            f"limit={value!r}: must be Limit(name, most), with a name of a letter and up to 31 letters, digits and '_', and 1..{_MOST_AT_ONCE:,}"
        )
    return Limit(str(given[0]), most)


def _resources(value: Any) -> Amounts | None:
    if not isinstance(value, Mapping | tuple):
        raise ConfigError(f"resources={value!r}: must be a mapping of names to amounts, such as {{'gpu': 1}}")
    return resources_of(value) or None


def _label(value: object) -> str | Callable[..., object]:
    return value if callable(value) else _label_text(value)


def _label_text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MOST_LABEL or not value.isprintable():
        raise ConfigError(
            f"label={reprlib.repr(value)}: must be a text of 1..{MOST_LABEL} printable characters, or a function that returns one"
        )
    return str(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "timeout": _timeout,
    "retries": _retries,
    "retry_on": _retry_on,
    "backoff": _backoff,
    "seed": _seed,
    "priority": _priority,
    "limit": _limit,
    "resources": _resources,
    "label": _label,
}
# Options that are no part of a set of options: columns of a status object, and what its key has.
_COLUMNS = frozenset({"label", "priority", "limit", "resources"})


def _number(value: Any) -> float | None:
    """Return a number of any kind, NumPy's too, as Python's; None for what is none."""
    if isinstance(value, bool | str | bytes) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _packed(value: object) -> object:
    """Return the form in which msgpack stores a value."""
    return list(value) if isinstance(value, tuple) else value
