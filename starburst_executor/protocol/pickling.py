"""Pickling, for all who need it: loads the pickler, and cloudpickle with it, at its first use.

The package is imported fast because nothing that is imported with it needs `pickler.py`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import IO, Any, NoReturn

__all__ = ["PLAIN", "PROTOCOL", "dump", "dumps", "has_modules_by_value", "pickler", "raise_explained"]

PROTOCOL = 5
# What is looked through for the reason why it cannot be pickled, at the most.
_MOST_BYTES = 64 * 2**20
# Values of these exact types hold no class or function of the user's, so the fast pickler of the standard library
# makes the same bytes as ours, at a tenth of its cost.
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})


@lru_cache(maxsize=1)
def _loaded() -> ModuleType:
    from starburst_executor.protocol import pickler

    return pickler


def pickler(stream: Any, *, is_program: bool = False) -> Any:
    """A pickler that writes to this stream.

    Args:
        is_program: Whether it is for a function with all that it names, rather than for data.
    """
    return _loaded().Pickler(stream, is_program=is_program)


def dump(value: object, stream: IO[bytes], *, is_program: bool = False) -> None:
    """Pickle a value into a stream. Raises: whatever pickling raises."""
    pickler(stream, is_program=is_program).dump(value)


def dumps(value: object) -> bytes:
    """A value's pickle. Raises: whatever pickling raises."""
    stream = io.BytesIO()
    dump(value, stream)
    return stream.getvalue()


def has_modules_by_value() -> bool:
    """Whether modules are registered with cloudpickle to travel by value, so that a name alone says nothing."""
    return bool(_loaded().has_modules_by_value())


def raise_explained(error: BaseException, parts: Sequence[tuple[str, Any]], *, is_program: bool = False) -> NoReturn:
    """Raise an error of pickling again, with a sentence that names what cannot be pickled.

    Args:
        parts: What was pickled, by name.
    """
    from starburst_executor.protocol import culprit

    def fails(value: Any) -> bool:
        try:
            pickler(_Nowhere(), is_program=is_program).dump(value)
        except _TooBigError:
            return False
        except BaseException:  # user code runs here: __reduce__
            return True
        return False

    named = culprit.explained(error, parts, fails)
    if named is error:
        raise error
    raise named from None


class _TooBigError(Exception):
    pass


class _Nowhere:
    """A stream that keeps nothing, and ends what takes long."""

    def __init__(self) -> None:
        self._n_bytes = 0

    def write(self, data: Any) -> int:
        n_bytes = memoryview(data).nbytes
        self._n_bytes += n_bytes
        if self._n_bytes > _MOST_BYTES:
            raise _TooBigError
        return n_bytes
