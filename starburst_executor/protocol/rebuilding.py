"""The functions that pickles refer to by name to rebuild objects.

Assumes: the names and signatures of these functions are part of the stored format: stored pickles refer to them.

`pickle.loads` loads these pickles in any process. A runner uses this module's `Unpickler` instead: source lines from the
pickle then take precedence over a file of the same name on the runner's machine.

*Tokens* preserve an object's identity. An object of the client that several pickles contain is one object in a runner, as
a module's global is in a process pool; when it comes back, the client gets its original object.
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
# Context variables, which do not support weak references and live as long as their process.
_lasting: dict[str, ContextVar[Any]] = {}
_lasting_tokens: dict[ContextVar[Any], str] = {}
_made: WeakSet[type] = WeakSet()  # classes that this process has rebuilt


def token_of(value: Any) -> str:
    """Return an object's token: the one from the pickle that it came from, or a new one."""
    tokens, objects = _registers(value)
    token: str | None = tokens.get(value)
    if token is None:
        token = tokens.setdefault(value, os.urandom(8).hex())
        objects[token] = value
    return token


def _registers(value: Any) -> tuple[Any, Any]:
    return (_lasting_tokens, _lasting) if isinstance(value, ContextVar) else (_tokens, _objects)


def _known_as(token: str, value: Any) -> Any:
    """Register the object under this token, unless the token has one; return the token's object."""
    tokens, objects = _registers(value)
    value = objects.setdefault(token, value)
    tokens[value] = token
    return value


def fresh(token: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """Return a lock or similar object in its initial state; one for each process."""
    known = _objects.get(token, _lasting.get(token))
    return _known_as(token, make(*arguments)) if known is None else known


def variable(name: str, *default: Any) -> ContextVar[Any]:
    """Make a context variable, with its default if it has one."""
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def cached(token: str, function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Return a function with a cache, which is empty at first; one for each process."""
    known = _objects.get(token)
    if known is None:
        return _known_as(token, functools.lru_cache(maxsize, typed)(function))
    _renew(known.__wrapped__, function)
    return known


def dispatching(token: str, function: Callable[..., Any]) -> Any:
    """Return a function made by `singledispatch`; `register_all` completes it."""
    known = _objects.get(token)
    return _known_as(token, functools.singledispatch(function)) if known is None else known


def register_all(function: Any, implementations: list[tuple[type, Callable[..., Any]]]) -> None:
    """Register these implementations with a function made by `singledispatch`."""
    for kind, implementation in implementations:
        if function.registry.get(kind) is not implementation:
            function.register(kind, implementation)


def _renew(known: Any, function: Any) -> None:
    """Update the globals of a function that this process already has from the newly loaded copy."""
    if type(known) is type(function) is FunctionType and known is not function:
        known.__globals__.update(function.__globals__)


def main_class(token: str, qualname: str, is_enum: bool, make: Callable[..., type], *arguments: Any) -> type:
    """Return a class of `__main__`: the original one or, after reattaching, the one with its name; otherwise rebuild it."""
    known = _objects.get(token)
    if isinstance(known, type):
        return known
    named = _in_main(qualname)
    if isinstance(named, type) and named.__module__ == "__main__" and issubclass(named, Enum) == is_enum:
        return named
    made: type = _known_as(token, make(*arguments))
    _made.add(made)
    return made


def _in_main(qualname: str) -> object:
    """Return the object that this process's program has under a qualified name; None if there is none."""
    value: object = sys.modules.get("__main__")
    for name in qualname.split("."):
        # Read `__dict__`, to skip inherited attributes and not to trigger attributes that are loaded on access.
        value = getattr(value, "__dict__", {}).get(name)
    return value


def set_class_state(kind: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Complete a class that was rebuilt. A class that the program already had stays unchanged."""
    if kind in _made:
        complete, rest = state
        complete(kind, rest)


class Assembled:
    """The shared part of similar functions; a call makes one of them, with its own defaults and closure, and calls it."""

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
    """A mark before and after an object, from which the pickler knows that it is inside. It is rebuilt as 0."""

    def __init__(self, step: int) -> None:
        self.step = step


def set_inside(value: Any, state: tuple[object, Callable[[Any, Any], object], Any, object]) -> None:
    """Complete a function or class whose state is between two marks."""
    _, complete, rest, _ = state
    complete(value, rest)


def make_code(make: Callable[..., CodeType], fields: tuple[Any, ...], filename: str, lines: str) -> CodeType:
    """Make a code object with its file's name. Tracebacks show its source lines if the file is unknown in this process."""
    return _make_code(make, fields, filename, lines, is_believed=False)


def _make_code(
    make: Callable[..., CodeType], fields: tuple[Any, ...], filename: str, lines: str, *, is_believed: bool = True
) -> CodeType:
    code = make(*fields).replace(co_filename=filename)
    if lines:
        source.register(filename, code.co_firstlineno, lines, is_believed=is_believed)
    return code


class Unpickler(pickle.Unpickler):
    """Loads pickles from another machine for code that runs in this process."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the object that a pickle refers to by name."""
        if module == __name__:
            return _OVERRIDES.get(name) or super().find_class(module, name)
        return super().find_class(module, name)


_OVERRIDES: dict[str, Callable[..., Any]] = {"make_code": _make_code}
