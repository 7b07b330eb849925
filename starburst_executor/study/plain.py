"""Plain values: what records, tables and parameters may hold. They are texts, numbers, bytes, lists and mappings with texts as keys. Pure.

Guarantee: what `check_params` lets through, `plain_copy` returns as it will be read from the store. A number of NumPy counts as Python's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgpack

from starburst_executor.errors import ConfigError

__all__ = ["check_params", "is_scalar", "kind_of", "own_copy", "plain_copy"]

_ENCODING = "utf-8", "surrogateescape"  # names of files may be any bytes
_MOST_BITS = 63  # msgpack's integers
_SCALARS = (str, int, float, bool, bytes, type(None))


def check_params(values: Mapping[Any, Any], where: str) -> None:
    """Check that these are plain values. Raises: ConfigError."""
    for name, value in values.items():
        if not isinstance(name, str):
            raise ConfigError(f"{where}: the name {name!r} must be text")
        if not (is_scalar(name) and _is_plain(value)):
            wrong = value if is_scalar(name) else name
            raise ConfigError(
                f"{where}: {name if name.isprintable() else ascii(name)} is {kind_of(wrong)}: a record holds plain values: texts, numbers, lists, mappings"
            )


def plain_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values as they will be read from the store: tuples become lists. Raises: TypeError for others."""
    packed = msgpack.packb(dict(values), default=_number, unicode_errors=_ENCODING[1])
    copied: dict[str, Any] = msgpack.unpackb(packed, unicode_errors=_ENCODING[1])
    return copied


def own_copy(value: Any) -> Any:
    """Return a copy that shares nothing that can be changed; the value itself if it cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:  # of the user's classes
        return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_scalar(key) and _is_plain(one) for key, one in value.items())
    return is_scalar(value)


def is_scalar(value: Any) -> bool:
    """Return whether a value is a text, a number, bytes, a boolean or None, as a record can hold it."""
    if type(value) is int:
        return value.bit_length() <= _MOST_BITS
    if type(value) is str:
        try:
            return value.isascii() or bool(value.encode(*_ENCODING))
        except UnicodeEncodeError:
            return False
    return type(value) in _SCALARS or _is_of_numpy(value)


def _is_of_numpy(value: Any) -> bool:
    """Whether a value is a number of NumPy that has a counterpart in Python."""
    is_number = type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item")
    return is_number and type(value.item()) in (int, float, bool)


def _number(value: Any) -> Any:
    if _is_of_numpy(value):
        return value.item()
    raise TypeError(f"{kind_of(value)} is no plain value")


def kind_of(value: Any) -> str:
    """Return what a value is that is not plain, for messages: of a list or a mapping, what the first wrong one in it is."""
    if type(value) is int:
        return f"a whole number of more than {_MOST_BITS} bits"
    if isinstance(value, Mapping):
        key = next((one for one in value if not isinstance(one, str)), None)
        if key is not None:
            return f"a mapping with the key {key!r}, which is no text"
        inside = [*value, *value.values()]
    else:
        inside = list(value) if isinstance(value, (list, tuple)) else []
    wrong = [one for one in inside if not _is_plain(one)]
    if wrong:
        return f"a {type(value).__name__} with {kind_of(wrong[0])}"
    return "text with a lone surrogate" if type(value) is str else f"a {type(value).__name__}"
