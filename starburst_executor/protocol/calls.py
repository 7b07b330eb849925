"""Serialise functions and calls to bytes, and load them again.

    client                          runner
    dump_function ──► functions/ ──► load_function ─┐
    dump_call     ──► status/    ──► load_call     ─┴► call it
       └─ big pieces ──► calls/ ──────┘

This module checks no seal: the caller of a `load_…` function must have checked it before (`protocol/seal.py`).

A stored function is a length byte, the name of the code that the function needs (`protocol/keys.py`) in that number of
bytes, and the function's pickle. The code contains the user's own modules, in which the pickle looks up what it refers to
by name.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from starburst_executor import errors
from starburst_executor.protocol import pickling, pieces
from starburst_executor.protocol.pickling import PLAIN, PROTOCOL
from starburst_executor.protocol.pieces import PIECE_BYTES, Piece, Result, Shared
from starburst_executor.protocol.references import ResultRef

__all__ = [
    "code_of",
    "digest",
    "dump_call",
    "dump_call_in_parts",
    "dump_function",
    "dump_plain",
    "function_stream",
    "initializer_digest",
    "load_call",
    "load_function",
    "opened",
    "read_call",
    "shared_of",
]

_T = TypeVar("_T")

_PICKLE = b"\x80"  # the first byte of every pickle of protocol 2 and later
# The rest of a big value, after its last full frame, becomes a piece of its own from this size on.
_TAIL_BYTES = 4 * 1024
_FIRST_FRAME = b"\x80\x05\x95"
_FRAMES = (_FIRST_FRAME, b"\x95")
_NO_PIECES: Mapping[bytes, bytes] = {}


def digest(pickled: bytes) -> str:
    """Return the name under which a function's pickle is stored: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(pickled).hexdigest()[:32]


def initializer_digest(pickled: bytes) -> str:
    """Return the name of an initializer, which differs from the name of the same function when tasks call it."""
    return digest(b"initializer\0" + pickled)


def dump_function(function: Callable[..., Any], code: str = "") -> bytes:
    """Pickle a function: by value if it is defined in `__main__`, a closure or a lambda, otherwise by its name.

    Args:
        code: The name of the code that it needs; empty if workers already have the user's modules.
    Raises: any exception that pickling raises.
    """
    name = code.encode("ascii")
    head = bytes([len(name)]) + name
    stream = io.BytesIO()
    stream.write(head)
    pickler = pickling.pickler(stream, is_program=True)
    try:
        pickler.dump(function)
    except Exception as error:
        pickling.raise_explained(error, [("the function", function)], is_program=True)
    body = stream.getvalue()
    return head + pieces.encode([body[len(head) :], *_referred(pickler)]) if pickler.refs else body


def _referred(pickler: Any) -> list[Shared | Result]:
    """Return the shared values and the results to which what a pickler has pickled refers, each once."""
    return list(dict.fromkeys(map(_named, pickler.refs)))


def _named(ref: Any) -> Shared | Result:
    if isinstance(ref, ResultRef):
        return Result(ref.ordinal, ref.sequence)
    return Shared(ref.session_id, bytes.fromhex(ref.name), ref.n_bytes, ref.part_bytes)


def shared_of(body: bytes) -> tuple[Shared, ...]:
    """Return the shared values to which a stored function refers, without unpickling it. Raises: RecordInvalid."""
    return pieces.shared_in(memoryview(body)[_pickle_start(body) :])


def code_of(body: bytes) -> str:
    """Return the name of the code that a function needs, without unpickling it; empty if none. Raises: RecordInvalid."""
    try:
        return bytes(body[1 : _pickle_start(body)]).decode("ascii")
    except UnicodeDecodeError as error:
        raise errors.RecordInvalid("a function whose code has no proper name") from error


def load_function(body: bytes) -> Callable[..., Any]:
    """Load a function. Raises: any exception that unpickling raises, most often `ModuleNotFoundError`."""
    return pickle.load(function_stream(body))  # type: ignore[no-any-return]  # noqa: S301 - sealed, checked by the caller


def _pickle_start(body: bytes) -> int:
    return 1 + body[0] if body else 0


def function_stream(body: bytes) -> io.BytesIO:
    """Return a stream of a function's pickle, for an unpickler."""
    start = _pickle_start(body)
    parts = pieces.decode(memoryview(body)[start:])
    if parts is not None:
        return io.BytesIO(b"".join(part for part in parts if isinstance(part, bytes)))
    stream = io.BytesIO(body)
    stream.seek(start)
    return stream


def dump_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """Pickle one call's arguments if all are plain values, and small; otherwise return None."""
    if kwargs:
        return None
    for arg in args:  # a loop, as most calls have few arguments, and each submit is checked
        if type(arg) not in PLAIN:
            return None
    pickled = pickle.dumps((args, kwargs), PROTOCOL)
    return pickled if len(pickled) < PIECE_BYTES else None


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle one call's arguments. Raises: any exception that pickling raises."""
    if (plain := dump_plain(args, kwargs)) is not None:
        return plain
    stream = io.BytesIO()
    pickler = pickling.pickler(stream)
    pickler.dump((args, kwargs))
    return pieces.encode([stream.getvalue(), *_referred(pickler)]) if pickler.refs else stream.getvalue()


def dump_call_in_parts(
    args: tuple[Any, ...], kwargs: dict[str, Any], keep: Callable[[bytes | memoryview], _T]
) -> bytes | list[bytes | _T | Shared | Result]:
    """Pickle one call's arguments and separate the big pieces.

    Args:
        keep: Called with each big piece as the pickler writes it: immutable bytes, or a view of the user's memory that is
            valid only during the call. Its return value replaces the piece in the result.
    Returns:
        The pickle, or a list of its parts in order if it has big pieces or refers to shared values or results, which come last.
    Raises: any exception that pickling raises.
    """
    if (plain := dump_plain(args, kwargs)) is not None:
        return plain
    stream = _Parts(keep, wants_frames=len(args) + len(kwargs) < 2)  # noqa: PLR2004 - no value precedes this one
    pickler = pickling.pickler(stream)
    try:
        pickler.dump((args, kwargs))
    except _FramesCame:
        return _dump_one_by_one(args, kwargs, keep)
    except Exception as error:
        named = [(f"argument {i}", arg) for i, arg in enumerate(args)]
        named += [(f"argument `{name}`", arg) for name, arg in kwargs.items()]
        pickling.raise_explained(error, named)
    return stream.all(_referred(pickler))


def _dump_one_by_one(
    args: tuple[Any, ...], kwargs: dict[str, Any], keep: Callable[[bytes | memoryview], _T]
) -> bytes | list[bytes | _T | Shared | Result]:
    """Pickle each value in a dump of its own, all with one memo.

    The frames of a big list then do not depend on the bytes of the values before it, so a call that differs only in those
    values has the same frames. Objects that two values share stay shared.
    """
    stream = _Parts(keep, wants_frames=True)
    pickler = pickling.pickler(stream)
    pickler.dump([len(args), *kwargs])
    for value in (*args, *kwargs.values()):
        pickler.dump(value)
        stream.part()
    return stream.all(_referred(pickler))


class _FramesCame(Exception):
    """The big value consists of many small objects; it is neither an array nor text."""


class _Parts(Generic[_T]):
    """A stream for a pickler that separates its output into small bytes and big pieces.

    Assumes: a pickler writes bytes-like objects of 64 KB and more in a write of their own, without copying them, and
    # writes a frame when it has reached 64 KB; CPython's picklers in C and in Python both do.

    Args:
        wants_frames: Whether frames become pieces; if False, the first frame raises `_FramesCame`.
    """

    def __init__(self, keep: Callable[[bytes | memoryview], _T], *, wants_frames: bool) -> None:
        self._keep = keep
        self._wants_frames = wants_frames
        self._parts: list[bytes | _T] = []
        self._small: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview | pickle.PickleBuffer) -> int:
        body: bytes | memoryview
        if type(data) is bytes:
            body = data
        else:
            # A raw view is flat, whatever the shape and order of an array.
            body = data.raw() if isinstance(data, pickle.PickleBuffer) else memoryview(data)
        n_bytes = len(body)
        if n_bytes < PIECE_BYTES:
            self._small.append(bytes(body))
        else:
            if not self._wants_frames and bytes(body[: len(_FIRST_FRAME)]).startswith(_FRAMES):
                raise _FramesCame
            self._join()
            self._parts.append(self._keep(body))
        return n_bytes

    def part(self) -> None:
        """End the current piece, so that it does not contain later bytes, if it is large enough for a piece of its own."""
        if sum(map(len, self._small)) >= _TAIL_BYTES:
            self._join()

    def all(self, referred: Sequence[Shared | Result]) -> bytes | list[bytes | _T | Shared | Result]:
        if not self._parts and not referred:
            return b"".join(self._small)
        self._join()
        return [*self._parts, *referred]

    def _join(self) -> None:
        if self._small:
            joined = b"".join(self._small)
            self._parts.append(joined if len(joined) < _TAIL_BYTES else self._keep(joined))
            self._small.clear()


def load_call(
    body: bytes | memoryview, bodies: Mapping[bytes, bytes] = _NO_PIECES
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Load one call's arguments. They share no memory with `body` or the pieces.

    Args:
        bodies: The call's pieces by name.
    Raises: any exception that unpickling raises; PayloadError if a piece is missing.
    """
    if body[:1] == _PICKLE:
        loaded = pickle.loads(body)  # noqa: S301 - sealed, checked by the caller
        if type(loaded) is tuple:
            return loaded
    return read_call(pickle.Unpickler(opened(body, bodies)))  # noqa: S301 - the same


def read_call(unpickler: pickle.Unpickler) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Load one call's arguments like `load_call`, with an unpickler that reads the stream that `opened` returned."""
    first = unpickler.load()
    if type(first) is tuple:
        return first
    n_args, *names = first
    args = tuple(unpickler.load() for _ in range(n_args))
    return args, {name: unpickler.load() for name in names}


def opened(body: bytes | memoryview, bodies: Mapping[bytes, bytes]) -> _Source:
    """Return a stream of a call's pickle, for an unpickler. Raises: PayloadError if a piece is missing."""
    parts = pieces.decode(body)
    if parts is None:
        return io.BytesIO(body)
    try:
        return _Joined(
            [
                bodies[part.name] if isinstance(part, Piece) else part
                for part in parts
                if not isinstance(part, (Shared, Result))
            ]
        )
    except KeyError as error:
        raise errors.PayloadError("a piece of the call is missing") from error


class _Joined:
    """Byte strings read as one stream without joining them: big ones are copied once, into the reader's buffer."""

    def __init__(self, bodies: Sequence[bytes | bytearray]) -> None:
        self._left = [memoryview(body) for body in reversed(bodies)]

    def readinto(self, buffer: bytearray) -> int:
        view, n_read = memoryview(buffer), 0
        while self._left and n_read < len(view):
            body = self._left.pop()
            n_bytes = min(len(body), len(view) - n_read)
            view[n_read : n_read + n_bytes] = body[:n_bytes]
            n_read += n_bytes
            if n_bytes < len(body):
                self._left.append(body[n_bytes:])
        return n_read

    def read(self, n_bytes: int) -> bytes:
        if self._left and len(self._left[-1]) > n_bytes:
            first = self._left[-1]
            self._left[-1] = first[n_bytes:]
            return bytes(first[:n_bytes])
        gathered = bytearray(min(n_bytes, sum(map(len, self._left))))
        del gathered[self.readinto(gathered) :]
        return bytes(gathered)

    def readline(self) -> bytes:
        """Read up to the next newline: needed for opcodes of the oldest pickle protocol, which some classes still use."""
        line = bytearray()
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return bytes(line)


_Source: TypeAlias = io.BytesIO | _Joined
