"""Digests of a call by content: equal calls have equal digests in every process, although their pickles may differ.

A pickle depends on the order of a set, which differs between processes, on whether two equal strings are one object, and on a random id of each
class of the main module. So values are digested by their contents, in a fixed order, and only what cannot say how it is rebuilt by its pickle.

    None, numbers, text, bytes        type and value: 1, 1.0 and True are three values
    tuples, lists                     item by item
    dicts, sets                       in the order of their items' digests
    objects of plain classes          class and attributes, if the class does not say how it is pickled; of dataclasses the fields, and
                                      what an object has beside them
    functions, classes, methods       module and qualified name; what a closure has captured, defaults, the object of a method
    objects with a method `CONTENT`   class and what that method returns
    other objects                     what they are rebuilt from: what `__reduce_ex__` returns, in the same way

The code of a function does not count: a script is mended and run again. A function in another module, or of another name, is another one.
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import hashlib
import struct
import weakref
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from starburst_executor.protocol import pickling
from starburst_executor.protocol.records.once import DIGEST_BYTES
from starburst_executor.texts import shortened

__all__ = ["CONTENT", "digest_of", "function_name", "short_text"]

# The method of a class whose objects are compared by what it returns, whatever else they carry.
CONTENT = "__starburst_content__"
# As multiprocessing names a main module in its children, and `starburst run` the script that it loads.
_MAIN = {"__mp_main__": "__main__"}
# Of `type.__flags__`: a class that was made by a class statement.
_HEAP_TYPE = 1 << 9
_POINTER = struct.calcsize("P")
# Of `__reduce_ex__`: the newest one without buffers.
_PROTOCOL = 4
_CHARACTERS = 60
_ITEMS = 4


def digest_of(*values: object, code: list[FunctionType | type] | None = None) -> bytes:
    """Return 16 bytes that only these values give.

    Args:
        code: Gets the functions and classes on the way, of which the digest has only the names.

    Raises: any exception that pickling raises; `code` has what came before.
    """
    try:
        encoded = _Encoder([] if code is None else code).of(values)
    except RecursionError:  # a very deep list
        encoded = b"p" + pickling.dumps(values)
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def function_name(function: Callable[..., Any]) -> str:
    """Return a function's module and qualified name; of a callable object, those of its class."""
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or ""
    return f"{_MAIN.get(module, module)}.{named.__qualname__}"


def short_text(value: object) -> str:
    """Return a value as a text of at most 60 characters, for messages; an object that is not of Python's own types by its type alone."""
    return shortened(_text(value), _CHARACTERS)


class _Encoder:
    """Encodes one value, part by part. A value that contains itself is encoded there by how deep it began."""

    def __init__(self, code: list[FunctionType | type]) -> None:
        self._code = code
        self._open: dict[int, int] = {}  # the values around the current one: by id, how deep they are

    def of(self, value: object) -> bytes:
        """Return bytes that only this value gives."""
        simple = _SIMPLE.get(type(value))
        if simple is not None:
            return simple(value)
        depth = self._open.get(id(value))
        if depth is not None:
            return b"^%d" % depth
        self._open[id(value)] = len(self._open)
        try:
            return self._compound(value)
        finally:
            del self._open[id(value)]

    def _compound(self, value: object) -> bytes:
        kind = type(value)
        if kind is tuple or kind is list:
            items = [self.of(item) for item in value]  # type: ignore[attr-defined]  # by its exact type
            return _joined(b"(" if kind is tuple else b"[", items)
        if kind is dict:
            pairs = sorted((self.of(key), self.of(item)) for key, item in value.items())  # type: ignore[attr-defined]
            return _joined(b"{", [part for pair in pairs for part in pair])
        if kind is set or kind is frozenset:
            return _joined(b"<" if kind is set else b">", sorted(self.of(item) for item in value))  # type: ignore[attr-defined]
        return self._object(value)

    def _object(self, value: object) -> bytes:
        if isinstance(value, (FunctionType, type)):
            self._code.append(value)
        if isinstance(value, FunctionType):
            captured = [self.of(_contents(cell, value)) for cell in value.__closure__ or ()]
            defaults = [self.of(value.__defaults__), self.of(value.__kwdefaults__)]
            return _joined(b"F", [self.of(function_name(value)), *defaults, *captured])
        if isinstance(value, MethodType):
            return _joined(b"M", [self.of(value.__func__), self.of(value.__self__)])
        if type(value) is functools.partial:
            return _joined(b"P", [self.of(value.func), self.of(value.args), self.of(value.keywords)])
        if isinstance(value, type):
            return _joined(b"C", [self.of(function_name(value))])
        if isinstance(value, BuiltinFunctionType) and getattr(value, "__self__", None) is None:
            return _joined(b"C", [self.of(function_name(value))])
        kind = type(value)
        if kind is weakref.WeakKeyDictionary:  # the cache in a function made by `singledispatch`
            return _joined(b"C", [self.of(function_name(kind))])
        if (said := getattr(kind, CONTENT, None)) is not None:
            self._code.append(kind)
            return _joined(b"S", [self.of(function_name(kind)), self.of(said(value))])
        is_plain = _is_plain_class(kind)  # type: ignore[arg-type]  # mypy doubts that every class has a hash
        attributes = _attributes(value) if is_plain else {}
        if is_plain:
            self._code.append(kind)
        if (
            is_plain
            and dataclasses.is_dataclass(value)
            and set(attributes) == {field.name for field in dataclasses.fields(value)}
        ):
            fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
            return _joined(b"D", [self.of(function_name(kind)), self.of(fields)])
        if is_plain:
            return _joined(b"O", [self.of(function_name(kind)), self.of(attributes)])
        return self._reduced(value)

    def _reduced(self, value: object) -> bytes:
        """Encode what an object says about how it is rebuilt: function, arguments, state, items."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced: Any = value.__reduce_ex__(_PROTOCOL) if reduce is None else reduce(value)
        except TypeError:
            return _joined(
                b"p", [pickling.dumps(value)]
            )  # modules, code and some more, which the pickler knows; or it refuses them
        if isinstance(reduced, str):
            return _joined(b"C", [self.of(function_name(type(value))), self.of(reduced)])
        function, arguments, *more = reduced
        parts = [list(part) if isinstance(part, Iterator) else part for part in more]
        return _joined(b"r", [self.of(function), self.of(arguments), self.of(parts)])


@functools.lru_cache(maxsize=1024)
def _is_plain_class(kind: type) -> bool:
    """Whether the attributes are all that there is to an object: only Python classes, none of which says how it is pickled."""
    own = [base for base in kind.__mro__ if base is not object]
    said = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    return all(
        base.__flags__ & _HEAP_TYPE and base.__module__ != "builtins" and not any(name in vars(base) for name in said)
        for base in own
    ) and kind.__basicsize__ <= object.__basicsize__ + _POINTER * (2 + sum(len(_slots(base)) for base in own))


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _attributes(value: object) -> dict[str, object]:
    named = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        for name in _slots(kind):
            mangled = (
                f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
            )
            if name not in ("__dict__", "__weakref__") and hasattr(value, mangled):
                named[f"{kind.__qualname__}.{name}"] = getattr(value, mangled)
    return named


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
