"""What a function is, as words that can be compared: its code, and the code and the values to which it refers, recursively.

The words follow what a function does, not where it stands: byte code, constants, names, defaults, the values in its closure, and each of the
user's own functions, classes and constants that it refers to. A comment, another line number or another folder changes nothing. Installed
packages count by their names alone.
"""

from __future__ import annotations

import functools
import hashlib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from starburst_executor import source
from starburst_executor.protocol.content import digest_of

__all__ = ["CodeReader", "code_words", "digest_words"]

_DIGITS = 12
_MOST = 5_000  # objects of one function; what comes later is not looked at
_NUMBERS = (int, float, complex, bool, type(None))
_SCALARS = (str, bytes, *_NUMBERS)
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
# What Python itself writes into a class, some of it only when an instance is pickled or an abstract class is asked.
_OF_PYTHON = (
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__firstlineno__",
    "__static_attributes__",
    "__slotnames__",
    "_abc_impl",
)


def digest_words(words: Iterable[str], digits: int = _DIGITS) -> str:
    """Return the first hexadecimal digits of the SHA-256 of these words."""
    digest = hashlib.sha256()
    for word in words:
        digest.update(word.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()[:digits]


def code_words(code: CodeType, doc: str | None = None) -> Iterator[str]:
    """Yield what describes a code object, wherever its source stands; without the text that documents it."""
    yield code.co_code.hex()
    # Which of the names are parameters of which kind, and what is inside of a `try`, is not in the byte code.
    yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"
    yield getattr(code, "co_exceptiontable", b"").hex()  # from Python 3.11
    yield " ".join(code.co_names + code.co_varnames + code.co_freevars)
    for number, constant in enumerate(code.co_consts):
        if number == 0 and constant == doc:
            continue
        if isinstance(constant, CodeType):
            yield from code_words(constant)
        else:
            yield repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)


class CodeReader:
    """Goes through the objects that functions refer to. Each is described once.

    Attributes:
        parts: The words of each own function and class, by its name.
        values: The numbers among the program's constants, by name.
    """

    def __init__(self, own: frozenset[str]) -> None:
        self.parts: dict[str, list[str]] = {}
        self.values: dict[str, str] = {}
        self._seen: dict[int, Any] = {}  # keeps them, so that no other object gets their ids
        self._own = own

    def words(self, function: Any) -> Iterator[str]:
        """Yield what describes an object; what describes the functions and classes that it refers to is in `parts`."""
        yield from self._of(function)

    def _of(self, value: Any) -> Iterator[str]:
        if isinstance(value, _SCALARS):
            yield repr(value)
            return
        if id(value) in self._seen or len(self._seen) > _MOST:
            yield self._again(value)
            return
        self._seen[id(value)] = value
        if isinstance(value, functools.partial):
            yield from self._of(value.func)
            yield from self._of(value.args)
            yield from self._of(value.keywords)
        elif isinstance(value, MethodType):
            yield from self._of(value.__func__)
            yield from self._of(value.__self__)
        elif isinstance(value, (FunctionType, type)):
            yield from self._named(value)
        elif isinstance(value, ModuleType):
            yield from self._module(value)
        elif isinstance(value, (tuple, list)):
            for one in value:
                yield from self._of(one)
        elif isinstance(value, (set, frozenset)):
            for one in _in_order(value):
                yield from self._of(one)
        elif isinstance(value, _WEAK):  # what else the program holds decides what is in it
            yield type(value).__qualname__
        elif isinstance(value, Mapping):
            for key, one in sorted(value.items(), key=lambda item: repr(item[0])):
                yield repr(key)
                yield from self._of(one)
        elif (wrapped := getattr(value, "__wrapped__", None)) is not None:
            yield from self._of(wrapped)
            if self._is_own(type(value).__module__):
                yield from self._object(value)
        else:
            yield from self._object(value)

    def _again(self, value: Any) -> str:  # noqa: ARG002 - for classes that distinguish them
        """Return the word for an object that was described before."""
        return "again"

    def _named(self, value: FunctionType | type) -> Iterator[str]:
        name = value.__qualname__
        if not self._is_own(value.__module__):
            yield f"{value.__module__}.{name}"
            if isinstance(value, FunctionType) and value.__closure__:
                yield from self._captured(value)
            return
        yield name
        words = list(self._class(value) if isinstance(value, type) else self._function(value))
        # Of one name there may be several: all lambdas of a function, for example.
        self.parts.setdefault(name, []).extend(words)

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield from code_words(function.__code__, function.__doc__)
        yield from self._of(function.__defaults__)
        yield from self._of(function.__kwdefaults__)
        yield from self._captured(function)
        for name, attribute in sorted(vars(function).items()):
            yield name
            yield from self._attribute(attribute)
        namespace = function.__globals__
        for name in source.used_globals(function.__code__):
            if name not in namespace:
                continue
            yield name
            value = namespace[name]
            # Not of texts: they may be secrets, and people read these values.
            if isinstance(value, _NUMBERS) and self.values.setdefault(name, repr(value)) == repr(value):
                continue
            yield from self._of(value)

    def _attribute(self, value: Any) -> Iterator[str]:
        """Yield what describes an attribute of a function."""
        yield from self._of(value)

    def _captured(self, function: FunctionType) -> Iterator[str]:
        """Yield what describes the values in a function's closure: of a library's decorator, the program's functions among them."""
        for cell in function.__closure__ or ():
            try:
                yield from self._of(cell.cell_contents)
            except ValueError:  # the cell is empty
                yield "empty"

    def _class(self, kind: type) -> Iterator[str]:
        for base in (*kind.__bases__, *([] if type(kind) is type else [type(kind)])):
            yield from self._of(base)
        for name, attribute in sorted(vars(kind).items()):
            if name in _OF_PYTHON:
                continue
            yield name
            inner = attribute.__func__ if isinstance(attribute, (staticmethod, classmethod)) else attribute
            for part in (inner.fget, inner.fset, inner.fdel) if isinstance(inner, property) else (inner,):
                yield from self._of(part)

    def _module(self, module: ModuleType) -> Iterator[str]:
        yield module.__name__
        file = getattr(module, "__file__", None)
        if self._is_own(module.__name__) and isinstance(file, str) and file.endswith(".py"):
            try:
                yield hashlib.sha256(Path(file).read_bytes()).hexdigest()
            except OSError:
                yield "gone"

    def _object(self, value: Any) -> Iterator[str]:
        kind = type(value)
        yield kind.__qualname__ if self._is_own(kind.__module__) else f"{kind.__module__}.{kind.__qualname__}"
        # Of an object of a library, such as a logger or a lock, the class counts alone: its state is none of the program's.
        if self._is_own(kind.__module__):
            yield from self._of(kind)
            state = getattr(value, "__dict__", None)
            if isinstance(state, dict):
                yield from self._of(state)

    def _is_own(self, module: str | None) -> bool:
        top = (module or "").partition(".")[0]
        return top in ("__main__", "__mp_main__") or top in self._own


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Return the items of a set in an order that is the same in every process."""
    try:
        return sorted(values, key=digest_of)
    except Exception:  # user code runs here: __reduce__
        return sorted(values, key=repr)
