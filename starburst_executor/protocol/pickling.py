"""Pickling, for all who need it: loads the pickler, and cloudpickle with it, at its first use.

The package is imported fast because nothing that is imported with it needs `pickler.py`.
"""

from __future__ import annotations

import io
from functools import lru_cache
from types import ModuleType
from typing import IO, Any

__all__ = ["PLAIN", "PROTOCOL", "dump", "dumps", "has_modules_by_value", "pickler"]

PROTOCOL = 5
# Values of these exact types hold no class or function of the user's, so the fast pickler of the standard library
# makes the same bytes as ours, at a tenth of its cost.
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})


@lru_cache(maxsize=1)
def _loaded() -> ModuleType:
    from starburst_executor.protocol import pickler

    return pickler


def pickler(stream: Any) -> Any:
    """A pickler that writes to this stream."""
    return _loaded().Pickler(stream)


def dump(value: object, stream: IO[bytes]) -> None:
    """Pickle a value into a stream. Raises: whatever pickling raises."""
    pickler(stream).dump(value)


def dumps(value: object) -> bytes:
    """A value's pickle. Raises: whatever pickling raises."""
    stream = io.BytesIO()
    dump(value, stream)
    return stream.getvalue()


def has_modules_by_value() -> bool:
    """Whether modules are registered with cloudpickle to travel by value, so that a name alone says nothing."""
    return bool(_loaded().has_modules_by_value())
