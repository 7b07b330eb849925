"""Functions that pickle: they load the pickler, and cloudpickle with it, at the first use.

Importing the package is fast because no module that is imported with it needs `pickler.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from types import ModuleType
from typing import IO, Any, NoReturn, cast

__all__ = ["PLAIN", "PROTOCOL", "dump", "dumps", "modules_by_value", "pickler", "raise_explained"]

PROTOCOL = 5
# Upper bound of the bytes that are pickled to find out why a value cannot be pickled.
_MOST_BYTES = 64 * 2**20
# Values of these exact types contain no class or function of the user's, so the standard library's fast pickler makes
# the same bytes as this library's, at a tenth of the cost.
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})


@lru_cache(maxsize=1)
def _loaded() -> ModuleType:
    from starburst_executor.protocol import pickler

    return pickler


def pickler(stream: Any, *, is_program: bool = False, buffer_callback: Any = None, all_buffers: bool = False) -> Any:
    """Return a pickler that writes to this stream.

    Args:
        is_program: Whether it pickles a function with everything that it refers to, rather than data.
        buffer_callback: As for the standard library's pickler.
        all_buffers: Whether the memory of every array goes there, also of those that NumPy would copy into the pickle.
    """
    return _loaded().Pickler(stream, is_program=is_program, buffer_callback=buffer_callback, all_buffers=all_buffers)


def dump(value: object, stream: IO[bytes], *, is_program: bool = False) -> None:
    """Pickle a value into a stream. Raises: any exception that pickling raises."""
    pickler(stream, is_program=is_program).dump(value)


def dumps(value: object) -> bytes:
    """Return a value's pickle. Raises: any exception that pickling raises."""
    stream = io.BytesIO()
    dump(value, stream)
    return stream.getvalue()


def modules_by_value() -> Callable[[], Collection[str]]:
    """Return what returns the modules that are registered with cloudpickle for pickling by value, so that a name does not identify them."""
    return cast("Callable[[], Collection[str]]", _loaded().modules_by_value)


def raise_explained(error: BaseException, parts: Sequence[tuple[str, Any]], *, is_program: bool = False) -> NoReturn:
    """Raise a pickling error again, with the path to the object that cannot be pickled.

    Args:
        parts: The pickled values, by name.
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

    explained = culprit.explained(error, parts, fails)
    if explained is error:
        raise error
    raise explained from None


class _TooBigError(Exception):
    pass


class _Nowhere:
    """A stream that discards its input and stops a pickle that becomes too large."""

    def __init__(self) -> None:
        self._n_bytes = 0

    def write(self, data: Any) -> int:
        n_bytes = memoryview(data).nbytes
        self._n_bytes += n_bytes
        if self._n_bytes > _MOST_BYTES:
            raise _TooBigError
        return n_bytes
