"""Digests of a call by content: equal calls have equal digests in every process, although their pickles may differ.

A pickle depends on the order of a set, which differs between processes, and on whether two equal strings are one object. So values of
Python's own types are digested by their contents, in a fixed order, and only other objects by their pickles.

    None, numbers, text, bytes        type and value: 1, 1.0 and True are three values
    tuples, lists                     item by item
    dicts, sets                       in the order of their items' digests
    dataclasses                       class and fields
    functions, classes, methods       module and qualified name; what a closure has captured, defaults, the object of a method
    other objects                     pickle

The code of a function does not count: a script is mended and run again. A function in another module, or of another name, is another one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from starburst_executor.protocol import pickling
from starburst_executor.protocol.records.once import DIGEST_BYTES

__all__ = ["digest_of", "function_name", "short_text"]

# As multiprocessing names a main module in its children, and `starburst run` the script that it loads.
_MAIN = {"__mp_main__": "__main__"}
_CHARACTERS = 60
_ITEMS = 4


def digest_of(*values: object) -> bytes:
    """Return 16 bytes that only these values give. Raises: any exception that pickling raises."""
    try:
        encoded = _encoded(values)
    except RecursionError:  # a list that contains itself, or a very deep one
        encoded = b"p" + pickling.dumps(values)
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def function_name(function: Callable[..., Any]) -> str:
    """Return a function's module and qualified name; of a callable object, those of its class."""
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or ""
    return f"{_MAIN.get(module, module)}.{named.__qualname__}"


def short_text(value: object) -> str:
    """Return a value as a text of at most 60 characters, for messages; an object that is not of Python's own types by its type alone."""
    text = _text(value)
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"


def _encoded(value: object) -> bytes:
    kind = type(value)
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return simple(value)
    if kind is tuple or kind is list:
        items = [_encoded(item) for item in value]  # type: ignore[attr-defined]  # by its exact type
        return _joined(b"(" if kind is tuple else b"[", items)
    if kind is dict:
        pairs = sorted((_encoded(key), _encoded(item)) for key, item in value.items())  # type: ignore[attr-defined]
        return _joined(b"{", [part for pair in pairs for part in pair])
    if kind is set or kind is frozenset:
        return _joined(b"<", sorted(_encoded(item) for item in value))  # type: ignore[attr-defined]
    return _object(value)


def _object(value: object) -> bytes:
    if isinstance(value, FunctionType):
        captured = [_encoded(_contents(cell, value)) for cell in value.__closure__ or ()]
        defaults = [_encoded(value.__defaults__), _encoded(value.__kwdefaults__)]
        return _joined(b"F", [_encoded(function_name(value)), *defaults, *captured])
    if isinstance(value, MethodType):
        return _joined(b"M", [_encoded(value.__func__), _encoded(value.__self__)])
    if type(value) is functools.partial:
        return _joined(b"P", [_encoded(value.func), _encoded(value.args), _encoded(value.keywords)])
    if isinstance(value, type):
        return _joined(b"C", [_encoded(function_name(value))])
    if isinstance(value, BuiltinFunctionType) and getattr(value, "__self__", None) is None:
        return _joined(b"C", [_encoded(function_name(value))])
    kind = type(value)
    if dataclasses.is_dataclass(value) and kind.__reduce_ex__ is object.__reduce_ex__:
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return _joined(b"D", [_encoded(function_name(kind)), _encoded(fields)])
    return _joined(b"p", [pickling.dumps(value)])


def _contents(cell: Any, function: FunctionType) -> object:
    try:
        contents = cell.cell_contents
    except ValueError:  # the cell is empty
        return None
    return None if contents is function else contents


def _joined(mark: bytes, parts: list[bytes]) -> bytes:
    return b"".join([mark, b"%d;" % len(parts), *(b"%d;%s" % (len(part), part) for part in parts)])


_SIMPLE: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"T" if value else b"f",
    int: lambda value: b"i%x" % value if value >= 0 else b"i-%x" % -value,
    float: lambda value: b"d" + struct.pack(">d", value),
    complex: lambda value: b"z" + struct.pack(">dd", value.real, value.imag),
    str: lambda value: b"s" + value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: b"b" + value,
}


def _text(value: object) -> str:
    kind = type(value)
    if kind is str or kind is bytes:
        return repr(value[: _CHARACTERS + 1])  # type: ignore[index]  # by its exact type
    if kind in _SIMPLE:
        return repr(value)
    if kind in (tuple, list, set, frozenset):
        items = [short_text(item) for item, _ in zip(value, range(_ITEMS), strict=False)]  # type: ignore[call-overload]
        more = ", …" if len(value) > _ITEMS else ""  # type: ignore[arg-type]
        ends = {tuple: ("(", ")"), list: ("[", "]")}.get(kind, ("{", "}"))
        return f"{ends[0]}{', '.join(items)}{more}{ends[1]}"
    if kind is dict:
        pairs = list(value.items())[:_ITEMS]  # type: ignore[attr-defined]
        return "{" + ", ".join(f"{short_text(key)}: {short_text(item)}" for key, item in pairs) + "}"
    return f"<{function_name(value if callable(value) else kind)}>"
