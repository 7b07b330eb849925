"""The key of a call in a cache: equal for calls that give the same result, as far as code and data decide.

    key = user's key ─HMAC─► Python's version
                             content of function, arguments      (`protocol/content.py`: as for `map_once`)
                             code of every own function and class that they contain or refer to, and the content of the globals
                             that this code uses                 (`client/code_words.py`: as for the stages of a study)

What has no content that another process would find equal is refused, with its name.
"""

from __future__ import annotations

import functools
import hmac
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any

from starburst_executor.client.code_words import CodeReader
from starburst_executor.client.future import StarburstFuture
from starburst_executor.modules import own_loaded
from starburst_executor.protocol.content import digest_of, function_name, short_text
from starburst_executor.protocol.references import SharedRef

__all__ = ["call_key"]

_CODE = (FunctionType, type, MethodType, functools.partial, ModuleType)
_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
_CONTAINERS = (tuple, list, set, frozenset, dict)


def call_key(key: bytes, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return 64 hexadecimal digits for a call.

    Raises: TypeError: function, arguments, or a value that the function refers to have no content that can be compared.
    """
    walk = _ExactReader(frozenset(own_loaded()))
    words = [f"{sys.version_info.major}.{sys.version_info.minor}", _content("the call", (function, args, dict(kwargs)))]
    words += walk.words(function)
    for value in (*args, *kwargs.values()):
        words += walk.words(value)
    # By names: in which order they were reached depends on the order of sets.
    words += [word for name in sorted(walk.parts) for word in (name, *walk.parts[name])]
    words += [f"{name}={value}" for name, value in sorted(walk.values.items())]
    mac = hmac.new(key, digestmod="sha256")
    for word in words:
        body = word.encode("utf-8", "surrogateescape")
        mac.update(b"%d;" % len(body) + body)
    return mac.hexdigest()


def _content(name: str, value: object, code: list[FunctionType | type] | None = None) -> str:
    try:
        return digest_of(value, code=code).hex()
    except Exception as error:  # user code runs here: __reduce__
        raise TypeError(
            f"a call cannot be cached: {name} has no content that can be compared: {short_text(value)}: {type(error).__name__}: {error}"
        ) from error


class _ExactReader(CodeReader):
    """A reader for which every value counts with its whole content, not only those of the program's own classes."""

    def __init__(self, own: frozenset[str]) -> None:
        super().__init__(own)
        self._numbers: dict[int, int] = {}
        self._is_in_class = False  # or among what a library or decorator adds to a function: what cannot be compared counts by its class

    def _again(self, value: Any) -> str:
        number = self._numbers.setdefault(id(value), len(self._numbers))
        if id(value) not in self._seen:
            raise TypeError("a call cannot be cached: its function refers to too many objects")
        return f"again {number}"

    def _of(self, value: Any) -> Iterator[str]:
        if isinstance(value, (SharedRef, StarburstFuture)):
            raise TypeError(
                f"a call cannot be cached: {type(value).__name__} belongs to one session: {value!r}; pass the value itself"
            )
        if (
            self._is_in_class
            or type(value) in _PLAIN
            or isinstance(value, _CODE)
            or (hasattr(value, "__wrapped__") and not self._is_own(type(value).__module__))
        ):
            yield from super()._of(value)
            return
        code: list[FunctionType | type] = []
        yield _content(f"a value of {type(value).__qualname__}", value, code)
        yield from self._codes(code)
        if isinstance(value, _CONTAINERS):
            if _has_more(value):
                yield from super()._of(value)
        elif self._is_own(type(value).__module__):
            yield from super()._of(value)

    def _object(self, value: Any) -> Iterator[str]:
        if self._is_in_class:
            # An attribute of a class: a table, or a lock or descriptor of which the class alone counts.
            code: list[FunctionType | type] = []
            with suppress(Exception):  # user code runs here: __reduce__
                yield digest_of(value, code=code).hex()
            yield from self._codes(code)
        yield from super()._object(value)

    def _codes(self, code: list[FunctionType | type]) -> Iterator[str]:
        """Yield what describes the functions and classes that were found in a value, such as a library's object around a function."""
        for part in sorted({id(part): part for part in code}.values(), key=function_name):
            yield from self._of(part)

    def _attribute(self, value: Any) -> Iterator[str]:
        before, self._is_in_class = self._is_in_class, True
        try:
            yield from super()._attribute(value)
        finally:
            self._is_in_class = before

    def _captured(self, function: FunctionType) -> Iterator[str]:
        before, self._is_in_class = self._is_in_class, self._is_in_class or not self._is_own(function.__module__)
        try:
            yield from super()._captured(function)
        finally:
            self._is_in_class = before

    def _class(self, kind: type) -> Iterator[str]:
        before, self._is_in_class = self._is_in_class, True
        try:
            yield from super()._class(kind)
        finally:
            self._is_in_class = before

    def _function(self, function: FunctionType) -> Iterator[str]:
        before, self._is_in_class = self._is_in_class, False
        try:
            yield f"name {function_name(function)}"
            yield from super()._function(function)
        finally:
            self._is_in_class = before


def _has_more(value: Any) -> bool:
    """Whether a container holds anything but plain values, so that code may be in it."""
    items = (*value, *value.values()) if isinstance(value, dict) else value
    return any(type(item) not in _PLAIN for item in items)
