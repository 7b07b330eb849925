"""Pickles of functions: made once for as long as they would come out the same.

A function of `__main__` is pickled by value, with the globals that it names, which takes longer than everything else in
a submit together. In `[executor.submit(function, item) for item in items]` it is the same pickle each time, unless
something that went into it has changed meanwhile: the function is pickled at each submit, and what it then refers to is
what its task gets.

Guarantee: a remembered pickle is used only if the function and all that it names are the very objects that they were, and
none of these can change inside. Whatever is not known to be so is pickled anew.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from starburst_executor.protocol import calls

__all__ = ["FunctionPickles", "Prepared"]

# What a function may name that never changes inside.
_CONSTANTS = frozenset({int, float, complex, bool, str, bytes, type(None)})
_NO_DIGEST = "0" * 32
# A function that names more than this is pickled anew each time: to look at all of it takes as long.
_MOST_PARTS = 100


class Prepared(NamedTuple):
    """A function as its calls name it: its digest and its pickle, or what went wrong."""

    digest: str
    pickled: bytes
    error: BaseException | None


class _Remembered(NamedTuple):
    parts: list[object]
    n_modules: int  # importing a submodule of a package that a function names changes its pickle
    code: str
    prepared: Prepared


class FunctionPickles:
    """Remembers the pickle of the function that was submitted last. Thread-safe."""

    def __init__(self) -> None:
        self._last: _Remembered | None = None  # replaced as a whole, so no lock is needed

    def prepare(self, function: Callable[..., Any], code: str = "") -> Prepared:
        """Pickle a function, unless it is known to give the same bytes as the last time.

        Args:
            code: As for `calls.dump_function`.
        """
        last, n_modules = self._last, len(sys.modules)
        # Another function cannot be the same, and need not be looked at.
        is_again = last is not None and last.parts[0] is function and last.code == code
        parts = _parts(function)
        if is_again and last is not None and parts and last.n_modules == n_modules and _are_same(parts, last.parts):
            return last.prepared
        try:
            pickled = calls.dump_function(function, code)
        except BaseException as error:  # user code runs here: __reduce__
            return Prepared(_NO_DIGEST, b"", error)
        prepared = Prepared(calls.digest(pickled), pickled, None)
        # Looked at before and after: another thread may have changed something while it was pickled.
        is_settled = parts and len(sys.modules) == n_modules and _are_same(parts, _parts(function))
        self._last = _Remembered(parts, n_modules, code, prepared) if is_settled else None
        return prepared


def _are_same(parts: list[object], others: list[object]) -> bool:
    return len(parts) == len(others) and all(map(operator.is_, parts, others))


def _parts(function: Callable[..., Any]) -> list[object]:
    """All that goes into a function's pickle; nothing if that may change inside, or is not known."""
    if type(function) is not FunctionType or calls.has_modules_by_value():
        return []
    parts: list[object] = []
    todo: list[object] = [function]
    while todo:
        part = todo.pop()
        parts.append(part)
        if len(parts) > _MOST_PARTS:
            return []
        if type(part) is FunctionType:
            if any(part is known for known in parts[:-1]):
                continue
            if part.__closure__ or part.__kwdefaults__ or part.__dict__:
                return []
            parts += (part.__code__, part.__module__, part.__name__)
            todo += part.__defaults__ or ()
            todo += part.__annotations__.values()
            todo += _named(part)
        elif not (type(part) in _CONSTANTS or _is_by_name(part)):
            return []
    return parts


def _is_by_name(part: object) -> bool:
    """Whether something is pickled as nothing but a name: modules, and what is built in."""
    if isinstance(part, ModuleType):
        return sys.modules.get(part.__name__) is part
    return type(part) in (type, BuiltinFunctionType) and part.__module__ == "builtins"


def _named(function: FunctionType) -> list[object]:
    """The globals that a function's code may refer to, and perhaps some more."""
    namespace, codes, named = function.__globals__, [function.__code__], []
    while codes:
        code = codes.pop()
        named += [namespace[name] for name in code.co_names if name in namespace]
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return named
