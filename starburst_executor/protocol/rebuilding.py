"""What pickles refer to by name, to be rebuilt from: functions of this module are part of what is stored.

`pickle.loads` rebuilds anywhere. In a runner an `Unpickler` of its own does: there, source that was sent is believed rather
than what lies on that machine.

*Tokens* keep the identity of what has one. An object of the client that goes into several pickles is one object in a
runner, as a module's global is in a process pool; and what comes back to the client is the object that it was.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from starburst_executor import source

__all__ = [
    "Assembled",
    "Mark",
    "Unpickler",
    "cached",
    "dispatching",
    "fresh",
    "main_class",
    "make_code",
    "register_all",
    "set_class_state",
    "set_inside",
    "token_of",
    "variable",
]

_objects: WeakValueDictionary[str, Any] = WeakValueDictionary()
_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
# Context variables, which cannot be referred to weakly, and live as long as their process.
_lasting: dict[str, ContextVar[Any]] = {}
_lasting_tokens: dict[ContextVar[Any], str] = {}
_made: WeakSet[type] = WeakSet()  # classes that were rebuilt here


def token_of(value: Any) -> str:
    """The token of an object: the one that it came with, or a new one."""
    tokens, objects = _registers(value)
    token: str | None = tokens.get(value)
    if token is None:
        token = tokens.setdefault(value, os.urandom(8).hex())
        objects[token] = value
    return token


def _registers(value: Any) -> tuple[Any, Any]:
    return (_lasting_tokens, _lasting) if isinstance(value, ContextVar) else (_tokens, _objects)


def _known_as(token: str, value: Any) -> Any:
    """Let this object be the one of that token, unless there is one."""
    tokens, objects = _registers(value)
    value = objects.setdefault(token, value)
    tokens[value] = token
    return value


def fresh(token: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """A lock or the like: as it was made, not as it is; one for each process."""
    known = _objects.get(token, _lasting.get(token))
    return _known_as(token, make(*arguments)) if known is None else known


def variable(name: str, *default: Any) -> ContextVar[Any]:
    """A context variable, with its default if it has one."""
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def cached(token: str, function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """A function with a cache, which is empty at first; one for each process."""
    known = _objects.get(token)
    if known is None:
        return _known_as(token, functools.lru_cache(maxsize, typed)(function))
    _renew(known.__wrapped__, function)
    return known


def dispatching(token: str, function: Callable[..., Any]) -> Any:
    """A function made by `singledispatch`; `register_all` completes it."""
    known = _objects.get(token)
    return _known_as(token, functools.singledispatch(function)) if known is None else known


def register_all(function: Any, implementations: list[tuple[type, Callable[..., Any]]]) -> None:
    """Let a function made by `singledispatch` have these implementations."""
    for kind, implementation in implementations:
        if function.registry.get(kind) is not implementation:
            function.register(kind, implementation)


def _renew(known: Any, function: Any) -> None:
    """Let a function that is there already see the globals that came with it this time."""
    if type(known) is type(function) is FunctionType and known is not function:
        known.__globals__.update(function.__globals__)


def main_class(token: str, qualname: str, is_enum: bool, make: Callable[..., type], *arguments: Any) -> type:
    """A class of `__main__`: the one that it was or, after reattaching, the one of that name; else it is rebuilt."""
    known = _objects.get(token)
    if isinstance(known, type):
        return known
    found = _in_main(qualname)
    if isinstance(found, type) and found.__module__ == "__main__" and issubclass(found, Enum) == is_enum:
        return found
    made: type = _known_as(token, make(*arguments))
    _made.add(made)
    return made


def _in_main(qualname: str) -> object:
    """What this process's program has under a qualified name; None if nothing."""
    found: object = sys.modules.get("__main__")
    for name in qualname.split("."):
        # Of a class its own, and nothing that loads itself when it is looked at.
        found = getattr(found, "__dict__", {}).get(name)
    return found


def set_class_state(kind: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Complete a class that was rebuilt. One that was there already stays as it is."""
    if kind in _made:
        complete, rest = state
        complete(kind, rest)


class Assembled:
    """What functions of a kind share, made one of them at each call: with its defaults and what it closes over."""

    def __init__(self, shared: FunctionType) -> None:
        self.shared = shared

    def __call__(self, own: tuple[Any, Any, Any], /, *args: Any, **kwargs: Any) -> Any:
        shared, (defaults, keyword_defaults, cells) = self.shared, own
        function = FunctionType(shared.__code__, shared.__globals__, shared.__name__, defaults, cells or None)
        function.__kwdefaults__ = keyword_defaults
        function.__qualname__, function.__module__, function.__doc__ = (
            shared.__qualname__,
            shared.__module__,
            shared.__doc__,
        )
        return function(*args, **kwargs)


class Mark:
    """Written before and after something, so that the pickler knows when it is within. It is rebuilt as 0."""

    def __init__(self, step: int) -> None:
        self.step = step


def set_inside(value: Any, state: tuple[object, Callable[[Any, Any], object], Any, object]) -> None:
    """Complete a function or class whose state stands between two marks."""
    _, complete, rest, _ = state
    complete(value, rest)


def make_code(make: Callable[..., CodeType], fields: tuple[Any, ...], filename: str, lines: str) -> CodeType:
    """A code object with its file's name. Its lines are shown by tracebacks where the file is not known."""
    return _make_code(make, fields, filename, lines, is_believed=False)


def _make_code(
    make: Callable[..., CodeType], fields: tuple[Any, ...], filename: str, lines: str, *, is_believed: bool = True
) -> CodeType:
    code = make(*fields).replace(co_filename=filename)
    if lines:
        source.register(filename, code.co_firstlineno, lines, is_believed=is_believed)
    return code


class Unpickler(pickle.Unpickler):
    """Rebuilds what runs here and was made elsewhere."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names."""
        if module == __name__:
            return _HERE.get(name) or super().find_class(module, name)
        return super().find_class(module, name)


_HERE: dict[str, Callable[..., Any]] = {"make_code": _make_code}
