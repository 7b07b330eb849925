"""Functions and calls to bytes and back.

    client                          runner
    dump_function ──► functions/ ──► load_function ─┐
    dump_call     ──► status/    ──► load_call     ─┴► call it
       └─ big pieces ──► calls/ ──────┘

Nothing here checks a seal: whoever calls a `load_…` has checked it before (`protocol/seal.py`).

A function is one byte, so many bytes that name the code it needs (`protocol/keys.py`), and its pickle. Those modules are
the user's own: what is pickled by name is found in them.
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
from starburst_executor.protocol.pieces import PIECE_BYTES, Piece

__all__ = [
    "code_of",
    "digest",
    "dump_call",
    "dump_call_in_parts",
    "dump_function",
    "function_stream",
    "has_modules_by_value",
    "initializer_digest",
    "load_call",
    "load_function",
    "opened",
    "read_call",
]

_T = TypeVar("_T")

_PICKLE = b"\x80"  # how every pickle of protocol 2 and later begins
# The rest of a big value, behind its last frame, is worth a piece of its own from here on.
_TAIL_BYTES = 4 * 1024
_FIRST_FRAME = b"\x80\x05\x95"
_FRAMES = (_FIRST_FRAME, b"\x95")
_NO_PIECES: Mapping[bytes, bytes] = {}


def digest(pickled: bytes) -> str:
    """The name under which a function's pickle is stored: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(pickled).hexdigest()[:32]


def initializer_digest(pickled: bytes) -> str:
    """The name of an initializer: another one than the same function has as a function that tasks call."""
    return digest(b"initializer\0" + pickled)


def dump_function(function: Callable[..., Any], code: str = "") -> bytes:
    """Pickle a function: by value if it lives in `__main__`, a closure or a lambda, else by its name.

    Args:
        code: The name of the code that it needs; empty if workers have the user's modules anyway.
    Raises: whatever pickling raises.
    """
    name = code.encode("ascii")
    stream = io.BytesIO()
    stream.write(bytes([len(name)]) + name)
    try:
        pickling.dump(function, stream, is_program=True)
    except Exception as error:
        pickling.raise_explained(error, [("the function", function)], is_program=True)
    return stream.getvalue()


def code_of(body: bytes) -> str:
    """The name of the code that a function needs, without unpickling it; empty if it needs none. Raises: RecordInvalid."""
    try:
        return bytes(body[1 : _pickle_start(body)]).decode("ascii")
    except UnicodeDecodeError as error:
        raise errors.RecordInvalid("a function whose code has no proper name") from error


def has_modules_by_value() -> bool:
    """Whether modules are registered with cloudpickle to travel by value, so that a name alone says nothing."""
    return pickling.has_modules_by_value()


def load_function(body: bytes) -> Callable[..., Any]:
    """Rebuild a function. Raises: whatever unpickling raises, `ModuleNotFoundError` above all."""
    return pickle.loads(memoryview(body)[_pickle_start(body) :])  # type: ignore[no-any-return]  # noqa: S301 - sealed, checked by the caller


def _pickle_start(body: bytes) -> int:
    return 1 + body[0] if body else 0


def function_stream(body: bytes) -> io.BytesIO:
    """A function's pickle, to be read by an unpickler."""
    stream = io.BytesIO(body)
    stream.seek(_pickle_start(body))
    return stream


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle one call's arguments. Raises: whatever pickling raises."""
    if not kwargs and all(type(arg) in PLAIN for arg in args):
        return pickle.dumps((args, kwargs), PROTOCOL)
    return pickling.dumps((args, kwargs))


def dump_call_in_parts(
    args: tuple[Any, ...], kwargs: dict[str, Any], keep: Callable[[bytes | memoryview], _T]
) -> bytes | list[bytes | _T]:
    """Pickle one call's arguments, big pieces apart.

    Args:
        keep: Given each big piece as it comes: bytes that nobody will change, or a view of memory that is the user's and
            only valid during the call. What it returns stands for the piece.
    Returns:
        The pickle; or its parts in order, if there were big pieces.
    Raises: whatever pickling raises.
    """
    if not kwargs and all(type(arg) in PLAIN for arg in args):
        pickled = pickle.dumps((args, kwargs), PROTOCOL)
        if len(pickled) < PIECE_BYTES:
            return pickled
        del pickled
    stream = _Parts(keep, wants_frames=len(args) + len(kwargs) < 2)  # noqa: PLR2004 - nothing stands before the value
    try:
        pickling.pickler(stream).dump((args, kwargs))
    except _FramesCame:
        return _dump_one_by_one(args, kwargs, keep)
    except Exception as error:
        named = [(f"argument {i}", arg) for i, arg in enumerate(args)]
        named += [(f"argument `{name}`", arg) for name, arg in kwargs.items()]
        pickling.raise_explained(error, named)
    return stream.all()


def _dump_one_by_one(
    args: tuple[Any, ...], kwargs: dict[str, Any], keep: Callable[[bytes | memoryview], _T]
) -> bytes | list[bytes | _T]:
    """One dump for each value, with one memo for all.

    The frames of a big list then do not depend on the bytes of the values before it, so they are found again when only
    those differ; and what two values share stays shared.
    """
    stream = _Parts(keep, wants_frames=True)
    pickler = pickling.pickler(stream)
    pickler.dump([len(args), *kwargs])
    for value in (*args, *kwargs.values()):
        pickler.dump(value)
        stream.part()
    return stream.all()


class _FramesCame(Exception):
    """What is big is no array and no text, but many small objects."""


class _Parts(Generic[_T]):
    """A stream for a pickler, which parts what it writes into small bytes and big pieces.

    # Assumes: a pickler writes bytes-like objects of 64 KB and more by themselves and without copying them, and frames
    # of 64 KB and more as they get full; so does CPython's, in C and in Python.

    Args:
        wants_frames: Otherwise the first frame raises `_FramesCame`.
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
        """Let what comes next not be in one piece with what came before, if that is worth a piece of its own."""
        if sum(map(len, self._small)) >= _TAIL_BYTES:
            self._join()

    def all(self) -> bytes | list[bytes | _T]:
        if not self._parts:
            return b"".join(self._small)
        self._join()
        return self._parts

    def _join(self) -> None:
        if self._small:
            joined = b"".join(self._small)
            self._parts.append(joined if len(joined) < _TAIL_BYTES else self._keep(joined))
            self._small.clear()


def load_call(
    body: bytes | memoryview, found: Mapping[bytes, bytes] = _NO_PIECES
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Rebuild one call's arguments. They share no memory with what they are made from.

    Args:
        found: The call's pieces by name.
    Raises: whatever unpickling raises; PayloadError if a piece is missing.
    """
    if body[:1] == _PICKLE:
        loaded = pickle.loads(body)  # noqa: S301 - sealed, checked by the caller
        if type(loaded) is tuple:
            return loaded
    return read_call(pickle.Unpickler(opened(body, found)))  # noqa: S301 - the same


def read_call(unpickler: pickle.Unpickler) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `load_call` does, by an unpickler that reads what `opened` gives."""
    first = unpickler.load()
    if type(first) is tuple:
        return first
    n_args, *names = first
    args = tuple(unpickler.load() for _ in range(n_args))
    return args, {name: unpickler.load() for name in names}


def opened(body: bytes | memoryview, found: Mapping[bytes, bytes]) -> _Source:
    """A call's pickle, to be read by an unpickler. Raises: PayloadError if a piece is missing."""
    parts = pieces.decode(body)
    if parts is None:
        return io.BytesIO(body)
    try:
        return _Joined([found[part.name] if isinstance(part, Piece) else part for part in parts])
    except KeyError as error:
        raise errors.PayloadError("a piece of the call is missing") from error


class _Joined:
    """Byte strings read as one stream, without joining them: big ones are copied once, to where they are wanted."""

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
        """Up to the next newline: asked for by opcodes of the oldest pickle protocol, which some classes still use."""
        line = bytearray()
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return bytes(line)


_Source: TypeAlias = io.BytesIO | _Joined
