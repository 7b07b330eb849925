"""Pickles functions, and reuses a pickle while it would come out the same.

A function of `__main__` is pickled by value, with the globals that it names, which takes longer than all
other steps of a submit together. In `[executor.submit(function, item) for item in items]` the pickle is the same each
time, unless an object in it has changed: each submit sends the function as it is at that moment.

A function that is created anew for each call, such as a bound method or a lambda with a default, would be another function
each time: one more object to store and to read. After a few of a kind, such functions are split: the shared part is sent
as the function, and the rest goes with the call. A `partial` is always sent as its function and arguments.

Guarantee: a remembered pickle is used only if the function and all objects that it names are identical (`is`) to those
that were pickled, and none of them is mutable. In all other cases the function is pickled again.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

from starburst_executor.client.unchanged import Facts, facts_of
from starburst_executor.protocol import calls
from starburst_executor.protocol.rebuilding import Assembled

__all__ = ["FunctionPickles", "Prepared", "without_partials"]

_NO_DIGEST = "0" * 32
# This number of different functions of a kind are stored as they are; further ones are split. So a few big functions that
# are used again and again are stored once, and each runner loads them once.
_FEW = 3
_KINDS = 256  # the number of kinds that are remembered
_PLACEHOLDER = getattr(functools, "Placeholder", object())


class Prepared(NamedTuple):
    """A pickled function: its digest and its pickle, or the error of pickling it.

    Attributes:
        bound: Arguments that the function gets before a call's own.
    """

    digest: str
    pickled: bytes
    error: BaseException | None
    bound: tuple[Any, ...] = ()


class _Split(NamedTuple):
    """A function split into a shared and an own part.

    Attributes:
        shared: The part that all functions created by the same line of the program share.
        bound: The own part: the first arguments of `shared`.
    """

    shared: Any  # a FunctionType, which type checkers would treat as a method
    bound: tuple[Any, ...]
    is_assembled: bool


class _Remembered(NamedTuple):
    facts: Facts
    code: str
    prepared: Prepared


class FunctionPickles:
    """Remembers the pickle of the last submitted function. Thread-safe."""

    def __init__(self) -> None:
        self._last: _Remembered | None = None  # replaced as a whole, so no lock is needed
        self._shared: Assembled | None = None  # likewise
        self._lock = threading.Lock()  # guards: _kinds
        # By kind, the digests of its first few functions.
        self._kinds: OrderedDict[CodeType, set[str]] = OrderedDict()

    def prepare_for_one(self, function: Callable[..., Any], code: str = "") -> Prepared:
        """Pickle a function for a single call; split it if several different ones of its kind were submitted."""
        if (again := self._again(function, code)) is not None:
            return again
        split = _split(function)
        if split is None:
            return self.prepare(function, code)
        kind = split.shared.__code__
        if self._n_of(kind) < _FEW:
            whole = self.prepare(function, code)
            self._note(kind, whole.digest)
            return whole
        shared = self._assembled(split.shared) if split.is_assembled else split.shared
        return self.prepare(shared, code)._replace(bound=split.bound)

    def _again(self, function: Callable[..., Any], code: str) -> Prepared | None:
        """Return the last pickle if it is of this function, and would be the same; otherwise None."""
        last = self._last
        if last is not None and last.facts.function is function and last.code == code and last.facts.hold():
            return last.prepared
        return None

    def _assembled(self, shared: FunctionType) -> Assembled:
        """Return the same object as the last time if it would give the same pickle, so that `prepare` finds that pickle."""
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
        """Pickle a function, or return the last pickle if it would be the same.

        Args:
            code: As for `calls.dump_function`.
        """
        if (again := self._again(function, code)) is not None:
            return again
        if (refusal := _refusal_of(function)) is not None:
            return Prepared(_NO_DIGEST, b"", refusal)
        facts = facts_of(function)
        try:
            pickled = calls.dump_function(function, code)
        except KeyboardInterrupt:
            raise  # for the caller, who waits
        except BaseException as error:  # user code runs here: __reduce__
            return Prepared(_NO_DIGEST, b"", error)
        prepared = Prepared(calls.digest(pickled), pickled, None)
        # Compared afterwards: another thread may have changed a part while the function was pickled.
        self._last = _Remembered(facts, code, prepared) if facts is not None and facts.hold() else None
        return prepared


def _refusal_of(function: object) -> TypeError | None:
    """Return the error of a function that cannot be called, with what to pass instead; None if it can."""
    if callable(function) or isinstance(function, Assembled):
        return None
    advice = (
        "to have its result, pass it as an argument: submit(function, future)"
        if isinstance(function, Future)
        else "a function and its arguments are passed, submit(function, x), not what it returns, submit(function(x))"
    )
    return TypeError(f"'{type(function).__name__}' object is not callable; {advice}")


def without_partials(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the same call without any `functools.partial`."""
    while type(function) is functools.partial and not function.__dict__:
        if any(arg is _PLACEHOLDER for arg in function.args):
            break  # since Python 3.14 the call's arguments may fill gaps between those of the partial
        args, kwargs, function = function.args + args, {**function.keywords, **kwargs}, function.func
    return function, args, kwargs


def _split(function: Callable[..., Any]) -> _Split | None:
    """Split a function; return None if it has no own part, or cannot be split."""
    if isinstance(function, MethodType):
        shared = function.__func__
        return _Split(shared, (function.__self__,), False) if isinstance(shared, FunctionType) else None
    if type(function) is FunctionType:
        return _split_plain(function)
    if isinstance(function, type) or not isinstance(call := type(function).__call__, FunctionType):
        return None
    return _Split(call, (function,), False)


def _split_plain(function: FunctionType) -> _Split | None:
    cells = function.__closure__ or ()
    if not (cells or function.__defaults__ or function.__kwdefaults__) or function.__dict__:
        return None
    if not ("<" in function.__qualname__ or any(cells)) or any(_holds(cell, function) for cell in cells):
        return None  # it is pickled by name and so the same each time, or it calls itself
    shared = FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells and _empty(len(cells))
    )
    shared.__qualname__, shared.__module__, shared.__doc__ = (
        function.__qualname__,
        function.__module__,
        function.__doc__,
    )
    return _Split(shared, ((function.__defaults__, function.__kwdefaults__, cells),), True)


def _holds(cell: CellType, function: FunctionType) -> bool:
    try:
        return cell.cell_contents is function
    except ValueError:  # the cell is empty: the function may be stored in it later
        return True


def _empty(n_cells: int) -> tuple[CellType, ...]:
    return tuple(CellType() for _ in range(n_cells))
