"""Pickles of functions: made once for as long as they would come out the same.

A function of `__main__` is pickled by value, with the globals that it names, which takes longer than everything else in
a submit together. In `[executor.submit(function, item) for item in items]` it is the same pickle each time, unless
something that went into it has changed meanwhile: the function is pickled at each submit, and what it then refers to is
what its task gets.

A function that is made anew for each call, such as a bound method or a lambda with a default, would be another one each
time: one more object to store and to read. After a few of a kind such functions are taken apart: what they share is the
function, and what they do not share goes with the call. A `partial` is nothing but a function and arguments.

Guarantee: a remembered pickle is used only if the function and all that it names are the very objects that they were, and
none of these can change inside. Whatever is not known to be so is pickled anew.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from starburst_executor.protocol import calls
from starburst_executor.protocol.rebuilding import Assembled

__all__ = ["FunctionPickles", "Prepared", "without_partials"]

# What a function may name that never changes inside.
_CONSTANTS = frozenset({int, float, complex, bool, str, bytes, type(None)})
_NO_DIGEST = "0" * 32
# A function that names more than this is pickled anew each time: to look at all of it takes as long.
_MOST_PARTS = 100
# So many different functions of a kind are stored as they are; more are taken apart. Big ones that are used again and
# again are stored once and loaded once by each runner, if there are few.
_FEW = 3
_KINDS = 256  # kinds that are remembered
_PLACEHOLDER = getattr(functools, "Placeholder", object())


class Prepared(NamedTuple):
    """A function as its calls name it: its digest and its pickle, or what went wrong.

    Attributes:
        bound: What the function gets before a call's own arguments.
    """

    digest: str
    pickled: bytes
    error: BaseException | None
    bound: tuple[Any, ...] = ()


class _Apart(NamedTuple):
    """A function taken apart.

    Attributes:
        shared: What it has in common with others that are made by the same line of the program.
        bound: What it has of its own: the first arguments of what they share.
    """

    shared: Any  # a FunctionType, which type checkers take for a method here
    bound: tuple[Any, ...]
    is_assembled: bool


class _Remembered(NamedTuple):
    parts: list[object]
    n_modules: int  # importing a submodule of a package that a function names changes its pickle
    code: str
    prepared: Prepared


class FunctionPickles:
    """Remembers the pickle of the function that was submitted last. Thread-safe."""

    def __init__(self) -> None:
        self._last: _Remembered | None = None  # replaced as a whole, so no lock is needed
        self._shared: Assembled | None = None  # likewise
        self._lock = threading.Lock()  # guards: _kinds
        # The digests of functions of a kind, a few of each.
        self._kinds: OrderedDict[CodeType, set[str]] = OrderedDict()

    def prepare_for_one(self, function: Callable[..., Any], code: str = "") -> Prepared:
        """Pickle a function for a single call; taken apart if several of its kind have differed."""
        apart = _taken_apart(function)
        if apart is None:
            return self.prepare(function, code)
        kind = apart.shared.__code__
        if self._n_of(kind) < _FEW:
            whole = self.prepare(function, code)
            self._note(kind, whole.digest)
            return whole
        shared = self._assembled(apart.shared) if apart.is_assembled else apart.shared
        return self.prepare(shared, code)._replace(bound=apart.bound)

    def _assembled(self, shared: FunctionType) -> Assembled:
        """The same object as the last time, if it would be pickled the same: then its pickle is remembered."""
        last = self._shared
        if last is not None:
            is_same = last.shared.__code__ is shared.__code__ and last.shared.__globals__ is shared.__globals__
            if is_same:
                return last
        self._shared = Assembled(shared)
        return self._shared

    def _n_of(self, kind: CodeType) -> int:
        with self._lock:
            return len(self._kinds.get(kind, ()))

    def _note(self, kind: CodeType, digest: str) -> None:
        with self._lock:
            self._kinds.setdefault(kind, set()).add(digest)
            self._kinds.move_to_end(kind)
            if len(self._kinds) > _KINDS:
                self._kinds.popitem(last=False)

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


def without_partials(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The same call without any `functools.partial`."""
    while type(function) is functools.partial and not function.__dict__:
        if any(arg is _PLACEHOLDER for arg in function.args):
            break  # since Python 3.14: the call's arguments fill gaps
        args, kwargs, function = function.args + args, {**function.keywords, **kwargs}, function.func
    return function, args, kwargs


def _taken_apart(function: Callable[..., Any]) -> _Apart | None:
    """What a function shares with others of its kind; None if it has nothing of its own, or is none that is made so."""
    if isinstance(function, MethodType):
        shared = function.__func__
        return _Apart(shared, (function.__self__,), False) if isinstance(shared, FunctionType) else None
    if type(function) is FunctionType:
        return _without_its_own(function)
    if isinstance(function, type) or not isinstance(call := type(function).__call__, FunctionType):
        return None
    return _Apart(call, (function,), False)


def _without_its_own(function: FunctionType) -> _Apart | None:
    cells = function.__closure__ or ()
    if not (cells or function.__defaults__ or function.__kwdefaults__) or function.__dict__:
        return None
    if not ("<" in function.__qualname__ or any(cells)) or any(_holds(cell, function) for cell in cells):
        return None  # found by its name and so no other each time; or it calls itself
    shared = FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells and _empty(len(cells))
    )
    shared.__qualname__, shared.__module__, shared.__doc__ = (
        function.__qualname__,
        function.__module__,
        function.__doc__,
    )
    return _Apart(shared, ((function.__defaults__, function.__kwdefaults__, cells),), True)


def _holds(cell: CellType, function: FunctionType) -> bool:
    try:
        return cell.cell_contents is function
    except ValueError:  # it is empty
        return True


def _empty(n_cells: int) -> tuple[CellType, ...]:
    return tuple(CellType() for _ in range(n_cells))


def _are_same(parts: list[object], others: list[object]) -> bool:
    return len(parts) == len(others) and all(map(operator.is_, parts, others))


def _parts(function: Callable[..., Any]) -> list[object]:
    """All that goes into a function's pickle; nothing if that may change inside, or is not known."""
    if type(function) not in (FunctionType, Assembled) or calls.has_modules_by_value():
        return []
    parts: list[object] = [function] if isinstance(function, Assembled) else []
    todo: list[object] = [function.shared if isinstance(function, Assembled) else function]
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
