"""Explain why a value cannot be pickled: which object is at fault, and the path to it, in the user's names.

Pickling only reports "cannot pickle 'sqlite3.Connection' object". The path is found afterwards: this module pickles each
part of the failed value, then each part of the failing part, and so on. It costs nothing unless pickling fails.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from starburst_executor import source
from starburst_executor.protocol.pickling import PROTOCOL
from starburst_executor.texts import shortened

__all__ = ["explained"]

_MOST_STEPS = 20
_MOST_PARTS = 1_000  # of one value; later parts are not examined
_KEY_CHARACTERS = 38
_HINT = "create it in an `initializer`"

Fails = Callable[[Any], bool]


class _Step(NamedTuple):
    """A part of a value: its name in that value, the part itself, and the name of the function that uses it, if any."""

    name: str
    value: Any
    user: str = ""


def explained(error: BaseException, parts: Sequence[tuple[str, Any]], fails: Fails) -> BaseException:
    """Return the error with the path to the object that cannot be pickled; unchanged if the object is a whole argument.

    Args:
        parts: The pickled values, by name.
        fails: Return whether a value cannot be pickled by itself. Never raises.
    """
    if type(error) not in (TypeError, pickle.PicklingError):
        return error  # user code raised it: its own message stays
    described = _words(_path([_Step(name, value) for name, value in parts], fails))
    if not described:
        return error
    return type(error)(f"{error}: {described}").with_traceback(error.__traceback__)


def _path(parts: Sequence[_Step], fails: Fails) -> list[_Step]:
    """Return the parts that cannot be pickled, from the outermost to the innermost."""
    path: list[_Step] = []
    visited: set[int] = set()
    candidates: Iterator[_Step] = iter(parts)
    while len(path) < _MOST_STEPS:
        failing = next((step for step in candidates if id(step.value) not in visited and fails(step.value)), None)
        if failing is None:
            return path
        path.append(failing)
        visited.add(id(failing.value))
        candidates = _parts(failing.value)
    return path


def _words(path: Sequence[_Step]) -> str:
    if not path:
        return ""
    users = [i for i, step in enumerate(path) if step.user]
    within = path[users[-1] :] if users else path
    if len(within) == 1 and not users:
        return ""  # the argument itself: the original message suffices
    named = " of ".join(
        step.name if i else f"{step.name} ({_type_name(step.value)})" for i, step in enumerate(reversed(within))
    )
    return f"{named}, used by `{within[0].user}`: {_HINT}" if users else named


def _type_name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _parts(value: Any) -> Iterator[_Step]:
    for i, step in enumerate(_all_parts(value)):
        if i >= _MOST_PARTS:
            return
        yield step


def _all_parts(value: Any) -> Iterator[_Step]:
    if isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, MethodType):
        yield _Step("`self`", value.__self__)
        yield _Step(f"`{value.__func__.__qualname__}`", value.__func__)
    elif isinstance(value, functools.partial):
        yield _Step("its function", value.func)
        yield from (_Step(f"argument {i}", arg) for i, arg in enumerate(value.args))
        yield from (_Step(f"argument `{name}`", arg) for name, arg in value.keywords.items())
    elif isinstance(value, type):
        attributes = [(name, part) for name, part in vars(value).items() if name not in ("__dict__", "__weakref__")]
        yield from (_Step(f"attribute `{name}` of class `{value.__qualname__}`", part) for name, part in attributes)
    elif isinstance(value, Mapping):
        yield from (_Step(f"key {_short(key)}", key) for key in value)
        yield from (_Step(f"item {_short(key)}", item) for key, item in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from (_Step(f"item {i}", item) for i, item in enumerate(value))
    elif not _refuses(value):
        yield from _parts_of_object(value)


def _refuses(value: Any) -> bool:
    """Whether an object itself says that it cannot be pickled, so that its parts are not to blame."""
    try:
        value.__reduce_ex__(PROTOCOL)
    except Exception:  # user code runs here: __reduce__
        return True
    return False


def _parts_of_function(function: FunctionType) -> Iterator[_Step]:
    user = function.__name__
    names, namespace = source.used_globals(function.__code__), function.__globals__
    yield from (_Step(f"global `{name}`", namespace[name], user) for name in names if name in namespace)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield _Step(f"`{name}`", cell.cell_contents, user)
        except ValueError:  # the cell is empty
            continue
    defaults = zip(reversed(list(_positional(function))), reversed(function.__defaults__ or ()), strict=False)
    yield from (_Step(f"the default of `{name}`", value, user) for name, value in defaults)
    yield from (
        _Step(f"the default of `{name}`", value, user) for name, value in (function.__kwdefaults__ or {}).items()
    )
    yield from (_Step(f"attribute `{name}`", value, user) for name, value in function.__dict__.items())


def _positional(function: FunctionType) -> Iterator[str]:
    parameters = signature(function, follow_wrapped=False).parameters.values()
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    yield from (parameter.name for parameter in parameters if parameter.kind in positional)


def _parts_of_object(value: Any) -> Iterator[_Step]:
    if (wrapped := getattr(value, "__wrapped__", None)) is not None:
        yield _Step(f"`{getattr(wrapped, '__name__', '?')}`", wrapped)
    state = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        state |= {
            name: getattr(value, name)
            for name in ([slots] if isinstance(slots, str) else slots)
            if hasattr(value, name)
        }
    yield from (_Step(f"attribute `{name}`", part) for name, part in state.items())
    if not isinstance(value, type) and type(value).__module__ == "__main__":
        yield _Step(f"class `{type(value).__qualname__}`", type(value))


def _short(key: object) -> str:
    return shortened(repr(key), _KEY_CHARACTERS)
