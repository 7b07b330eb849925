"""Refs: the names of shared values, which `put` stores once for all calls of a session, and of results that a call gets from other tasks.

    client: put ──► SharedRef ──pickled──► call or function ──► runner: the value
                       │                         └── its record lists the ref (`pieces.py`), so the agent has read the value before
                       └── unpickled in another process that has not been given the value: the ref again

A value is stored as one byte string, in parts. In front are its pickle and the lengths of its buffers (arrays), behind them the buffers
themselves, each at a multiple of 64 bytes: a runner maps them from a file, and copies none. This holds for the smallest, too: an array that
were loaded from the pickle could be written to, and so change for the other tasks of its process alone.

A future that is an argument of a call is pickled as a `ResultRef`. The agent reads the result before it sends the call, so in a runner it is the
result, loaded anew for each call.

Assumes: the names and the signatures of `rebuilt` and `result_of` are part of the stored format: stored pickles refer to them.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol import pickling

__all__ = [
    "PART_BYTES",
    "Opened",
    "ResultRef",
    "SharedRef",
    "StoredValue",
    "lay",
    "open_laid",
    "rebuilt",
    "result_of",
    "results_come_from",
    "values_come_from",
    "values_from",
]

# As many bytes as a worker reads of pieces at once. A store takes and gives several parts at the same time.
PART_BYTES = 16 * 2**20
# NumPy's own arrays begin at multiples of 64 bytes or fewer.
_ALIGNED = 64
_COUNT = struct.Struct("<QI")  # bytes of the pickle, number of buffers
_LENGTH = struct.Struct("<Q")


class SharedRef:
    """A value that was stored once for all tasks of a session, by `executor.put`.

    Wherever a call contains it, as an argument, inside of other objects or in what a function refers to, the task finds the value. Each worker
    reads the value once. Arrays are mapped read-only; every other value is loaded once for each worker process, whose tasks share it, so a
    task must not change it.

    Attributes:
        session_id: The session whose calls may contain it.
        name: 64 hexadecimal digits: equal values have the same name within a session.
        n_bytes: The stored bytes.

    Immutable and thread-safe. Refs with the same session and name are equal.
    """

    __slots__ = ("__weakref__", "_delete", "_is_deleted", "n_bytes", "name", "part_bytes", "session_id")

    def __init__(
        self,
        session_id: str,
        name: str,
        n_bytes: int,
        part_bytes: int,
        delete: Callable[[SharedRef], None] | None = None,
    ) -> None:
        self.session_id = session_id
        self.name = name
        self.n_bytes = n_bytes
        self.part_bytes = part_bytes
        self._delete = delete
        self._is_deleted = False

    def delete(self) -> None:
        """Delete the stored value. The session's end does the same, so this is for long sessions. A second call is harmless.

        Call it when the tasks that contain the ref have ended: a task that starts later on a worker that has not read the value fails
        with `PayloadError`. Further submits of the ref raise ValueError. Equal values that were put have the same name, and are deleted too.

        Raises: RuntimeError: this ref came out of a pickle; delete the one that `put` returned.
        Store: 1 delete for up to 1,000 parts of 16 MB.
        """
        if self._delete is None:
            raise RuntimeError("only the ref that `put` returned can delete its value: this one came out of a pickle")
        self._is_deleted = True
        self._delete(self)

    @property
    def n_parts(self) -> int:
        """The number of parts in which the value is stored."""
        return max(1, -(-self.n_bytes // self.part_bytes))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SharedRef):
            return NotImplemented
        return (self.session_id, self.name) == (other.session_id, other.name)

    def __hash__(self) -> int:
        return hash((self.session_id, self.name))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name[:12]} bytes={self.n_bytes:,} session={self.session_id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._is_deleted:
            raise ValueError(f"the shared value was deleted by `ref.delete()`: {self!r}; put it again")
        return rebuilt, (self.session_id, self.name, self.n_bytes, self.part_bytes)


class ResultRef:
    """The result of another task of the session, which a call gets as an argument. Immutable."""

    __slots__ = ("ordinal", "sequence")

    def __init__(self, ordinal: int, sequence: int) -> None:
        self.ordinal = ordinal
        self.sequence = sequence

    def __repr__(self) -> str:
        return f"<result of task {self.ordinal}-{self.sequence}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return result_of, (self.ordinal, self.sequence)


# Returns the result of a task in this process; KeyError if it has not been given it. Set in a runner.
_result_of: Callable[[int, int], Any] | None = None


def results_come_from(result_of: Callable[[int, int], Any]) -> None:
    """Called by the runner once, with what returns the result of a task by ordinal and sequence, or raises KeyError."""
    global _result_of  # noqa: PLW0603 - one runner per process
    _result_of = result_of


def result_of(ordinal: int, sequence: int) -> Any:
    """Return the result of a task in a process that was given it; a `ResultRef` in any other."""
    if _result_of is not None:
        try:
            return _result_of(ordinal, sequence)
        except KeyError:
            pass
    return ResultRef(ordinal, sequence)


# Returns the value of a name in this process; KeyError if it has not been given one. Set in a runner.
_value_of: Callable[[str], Any] | None = None


def values_come_from(value_of: Callable[[str], Any]) -> None:
    """Called by the runner once, with what returns a shared value by its name, or raises KeyError."""
    global _value_of  # noqa: PLW0603 - one runner per process
    _value_of = value_of


@contextmanager
def values_from(value_of: Callable[[str], Any]) -> Iterator[None]:
    """Take values from there within a `with` block, for tasks that run in the client's process."""
    global _value_of  # noqa: PLW0603 - restored below
    before, _value_of = _value_of, value_of
    try:
        yield
    finally:
        _value_of = before


def rebuilt(session_id: str, name: str, n_bytes: int, part_bytes: int) -> Any:
    """Return the shared value in a process that was given it; the ref in any other."""
    if _value_of is not None:
        try:
            return _value_of(name)
        except KeyError:
            pass
    return SharedRef(session_id, name, n_bytes, part_bytes)


# --- the bytes of a value ---------------------------------------------------------------------------------------------


class StoredValue:
    """The stored bytes of a value, in the order of their views; nothing is copied.

    Attributes:
        views: Flat views of the user's memory, valid while the user does not change it.
    """

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.views = views
        self.n_bytes = sum(view.nbytes for view in views)

    def part(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` up to but not including `end`."""
        at = 0
        for view in self.views:
            low, high = max(start - at, 0), min(end - at, view.nbytes)
            if low < high:
                yield view[low:high]
            at += view.nbytes
            if at >= end:
                return


def lay(value: object) -> StoredValue:
    """Return the bytes to store for a value. Raises: any exception of pickling; ValueError: it contains a ref."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        flat = buffer.raw()
        if not flat.nbytes:
            return True
        buffers.append(flat)
        return False

    stream = io.BytesIO()
    pickler = pickling.pickler(stream, buffer_callback=keep, all_buffers=True)
    try:
        pickler.dump(value)
    except Exception as error:
        pickling.raise_explained(error, [("the value", value)])
    if pickler.refs:
        raise ValueError("a value to share contains the ref of another: put both, and pass both to the tasks")
    return _laid(stream.getvalue(), buffers)


def _laid(pickled: bytes, buffers: Sequence[memoryview]) -> StoredValue:
    head = _COUNT.pack(len(pickled), len(buffers)) + b"".join(_LENGTH.pack(buffer.nbytes) for buffer in buffers)
    views = [memoryview(head), memoryview(pickled)]
    at = len(head) + len(pickled)
    for buffer in buffers:
        gap = -at % _ALIGNED
        if gap:
            views.append(memoryview(bytes(gap)))
        views.append(buffer)
        at += gap + buffer.nbytes
    return StoredValue([view for view in views if view.nbytes])


class Opened(NamedTuple):
    """What the stored bytes of a value hold: its pickle and its buffers, as views."""

    pickled: memoryview
    buffers: list[memoryview]


def open_laid(body: memoryview) -> Opened:
    """Return pickle and buffers of stored bytes whose seals were checked. Raises: RecordInvalid."""
    try:
        n_pickled, n_buffers = _COUNT.unpack_from(body)
        at = _COUNT.size + n_buffers * _LENGTH.size
        lengths = [_LENGTH.unpack_from(body, _COUNT.size + i * _LENGTH.size)[0] for i in range(n_buffers)]
    except struct.error as error:
        raise RecordInvalid(f"a shared value that cannot be read: bytes={body.nbytes}") from error
    pickled, at = body[at : at + n_pickled], at + n_pickled
    buffers = []
    for length in lengths:
        at += -at % _ALIGNED
        buffers.append(body[at : at + length])
        at += length
    if at != body.nbytes:
        raise RecordInvalid(f"a shared value with wrong lengths: bytes={body.nbytes}, expected={at}")
    return Opened(pickled, buffers)
