"""Calls to bytes and back, values and exceptions to bytes and back: the only module that pickles.

    client                          runner                              client
    dump_function ──► functions/    load_function ─┐
    dump_call     ──► status/       load_call     ─┴► call it ──► dump_value | dump_error ──► load_outcome
       └─ big pieces ──► calls/ ──────┘

Nothing here checks a seal: whoever calls a `load_…` has checked it before (`protocol/seal.py`).

A function is one byte, so many bytes that name the code it needs (`protocol/keys.py`), and its pickle. Those modules are
the user's own: what is pickled by name is found in them.

An outcome is one byte of kind and a body. `V`: a pickled value. `E`: msgpack of the exception's type name, message and
traceback as plain text, and its pickle, empty where the exception does not survive a round trip; so that a failure can
be shown without unpickling anything. `R`: the same without a pickle, for failures that no user code raised.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgpack

from starburst_executor import errors
from starburst_executor.protocol import pieces
from starburst_executor.protocol.pieces import PIECE_BYTES, Piece
from starburst_executor.protocol.rebuilding import Unpickler

__all__ = [
    "Failure",
    "FunctionLoader",
    "code_of",
    "describe_outcome",
    "digest",
    "dump_call",
    "dump_call_in_parts",
    "dump_error",
    "dump_function",
    "dump_reason",
    "dump_value",
    "has_modules_by_value",
    "load_call",
    "load_function",
    "load_outcome",
]

_T = TypeVar("_T")

_PROTOCOL = 5
_PICKLE = b"\x80"  # how every pickle of protocol 2 and later begins
# The rest of a big value, behind its last frame, is worth a piece of its own from here on.
_TAIL_BYTES = 4 * 1024
_FIRST_FRAME = b"\x80\x05\x95"
_FRAMES = (_FIRST_FRAME, b"\x95")
_NO_PIECES: Mapping[bytes, bytes] = {}
# Values of these exact types hold no class or function of the user's, so the fast pickler of the standard library
# makes the same bytes as cloudpickle, at a tenth of its cost.
_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})


class Failure(NamedTuple):
    """What is known of a failed task without unpickling anything.

    Attributes:
        type_name: Qualified name of the exception's class, for example `builtins.ValueError`.
        message: `str(exception)`.
        traceback: The remote traceback as text; empty for failures that no user code raised.
    """

    type_name: str
    message: str
    traceback: str


@lru_cache(maxsize=1)
def _pickling() -> ModuleType:
    # Loaded at first use, because it loads cloudpickle: importing the package stays fast.
    from starburst_executor.protocol import pickling

    return pickling


def _dumps(value: object) -> bytes:
    pickled: bytes = _pickling().dumps(value)
    return pickled


def digest(pickled: bytes) -> str:
    """The name under which a function's pickle is stored: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(pickled).hexdigest()[:32]


def dump_function(function: Callable[..., Any], code: str = "") -> bytes:
    """Pickle a function: by value if it lives in `__main__`, a closure or a lambda, else by its name.

    Args:
        code: The name of the code that it needs; empty if workers have the user's modules anyway.
    Raises: whatever pickling raises.
    """
    name = code.encode("ascii")
    stream = io.BytesIO()
    stream.write(bytes([len(name)]) + name)
    _pickling().dump(function, stream)
    return stream.getvalue()


def code_of(body: bytes) -> str:
    """The name of the code that a function needs, without unpickling it; empty if it needs none. Raises: RecordInvalid."""
    try:
        return bytes(body[1 : _pickle_start(body)]).decode("ascii")
    except UnicodeDecodeError as error:
        raise errors.RecordInvalid("a function whose code has no proper name") from error


def has_modules_by_value() -> bool:
    """Whether modules are registered with cloudpickle to travel by value, so that a name alone says nothing."""
    return bool(_pickling().has_modules_by_value())


def load_function(body: bytes) -> Callable[..., Any]:
    """Rebuild a function. Raises: whatever unpickling raises, `ModuleNotFoundError` above all."""
    return pickle.loads(memoryview(body)[_pickle_start(body) :])  # type: ignore[no-any-return]  # noqa: S301 - sealed, checked by the caller


def _pickle_start(body: bytes) -> int:
    return 1 + body[0] if body else 0


def _function_stream(body: bytes) -> io.BytesIO:
    stream = io.BytesIO(body)
    stream.seek(_pickle_start(body))
    return stream


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle one call's arguments. Raises: whatever pickling raises."""
    if not kwargs and all(type(arg) in _PLAIN for arg in args):
        return pickle.dumps((args, kwargs), _PROTOCOL)
    return _dumps((args, kwargs))


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
    if not kwargs and all(type(arg) in _PLAIN for arg in args):
        pickled = pickle.dumps((args, kwargs), _PROTOCOL)
        if len(pickled) < PIECE_BYTES:
            return pickled
        del pickled
    stream = _Parts(keep, wants_frames=len(args) + len(kwargs) < 2)  # noqa: PLR2004 - nothing stands before the value
    try:
        _pickling().Pickler(stream).dump((args, kwargs))
    except _FramesCame:
        return _dump_one_by_one(args, kwargs, keep)
    return stream.all()


def _dump_one_by_one(
    args: tuple[Any, ...], kwargs: dict[str, Any], keep: Callable[[bytes | memoryview], _T]
) -> bytes | list[bytes | _T]:
    """One dump for each value, with one memo for all.

    The frames of a big list then do not depend on the bytes of the values before it, so they are found again when only
    those differ; and what two values share stays shared.
    """
    stream = _Parts(keep, wants_frames=True)
    pickler = _pickling().Pickler(stream)
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


class FunctionLoader:
    """Rebuilds the functions of one process, and hands on what its initializer left in `__main__`.

    A function of the client's `__main__` travels by value, with a copy of the globals that it uses. So an initializer
    and the tasks have copies of their own, while in a process pool they share one module. What the initializer has set
    or filled there is therefore put into the globals of each function of `__main__` that is loaded after it.
    """

    def __init__(self) -> None:
        self._left: dict[str, Any] = {}

    def initialize(self, body: bytes) -> None:
        """Rebuild and call an initializer. Raises: whatever it raises."""
        unpickler = _MainUnpickler(_function_stream(body))
        initializer = unpickler.load()
        before = [dict(found) for found in unpickler.mains]
        initializer()
        for main, was in zip(unpickler.mains, before, strict=True):
            for name, value in main.items():
                # A function or class that was only referred to is left to each pickle: it may have been redefined.
                is_set = name not in was or was[name] is not value or not callable(value)
                if is_set and not name.startswith("__"):
                    self._left[name] = value

    def load(self, body: bytes) -> Callable[..., Any]:
        """As `load_function`."""
        unpickler = _MainUnpickler(_function_stream(body))
        loaded: Callable[..., Any] = unpickler.load()
        self._hand_on(unpickler)
        return loaded

    def load_call(
        self, body: bytes | memoryview, found: Mapping[bytes, bytes] = _NO_PIECES
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As the function `load_call`."""
        unpickler = _MainUnpickler(_opened(body, found))
        call = _read_call(unpickler)
        self._hand_on(unpickler)
        return call

    def _hand_on(self, unpickler: _MainUnpickler) -> None:
        for main in unpickler.mains:
            main.update(self._left)


class _MainUnpickler(Unpickler):
    """Notes the globals of the functions of `__main__` that it rebuilds."""

    def __init__(self, stream: _Source) -> None:
        super().__init__(stream)
        self.mains: list[dict[str, Any]] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        # How cloudpickle rebuilds a function that travels by value.
        return partial(self._make, found) if name == "_make_function" and module.startswith("cloudpickle") else found

    def _make(self, make: Callable[..., Any], code: object, namespace: dict[str, Any], *rest: object) -> Any:
        if namespace.get("__name__") == "__main__" and not any(main is namespace for main in self.mains):
            self.mains.append(namespace)
        return make(code, namespace, *rest)


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
    return _read_call(pickle.Unpickler(_opened(body, found)))  # noqa: S301 - the same


def _read_call(unpickler: pickle.Unpickler) -> tuple[tuple[Any, ...], dict[str, Any]]:
    first = unpickler.load()
    if type(first) is tuple:
        return first
    n_args, *names = first
    args = tuple(unpickler.load() for _ in range(n_args))
    return args, {name: unpickler.load() for name in names}


def _opened(body: bytes | memoryview, found: Mapping[bytes, bytes]) -> _Source:
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


def dump_value(value: object) -> bytes:
    """An outcome that holds a value, pickled straight behind its kind so that gigabytes are not copied.

    Raises: whatever pickling raises.
    """
    if type(value) in _PLAIN:
        return b"V" + pickle.dumps(value, _PROTOCOL)
    stream = io.BytesIO(b"V")
    stream.seek(1)
    _pickling().dump(value, stream)
    return stream.getvalue()  # shares the stream's memory


def dump_error(error: BaseException, *, hide_frames: int = 0) -> bytes:
    """An outcome that holds an exception; never raises, however odd the exception is.

    Args:
        hide_frames: How many outermost frames are ours and say nothing to the user.
    """
    tb = error.__traceback__
    for _ in range(hide_frames):
        tb = tb.tb_next if tb is not None else None
    text = _safe_text(lambda: "".join(traceback.format_exception(type(error), error, tb)))
    message = _text_of(error)
    kind = type(error)
    type_name = f"{kind.__module__}.{kind.__qualname__}"
    return b"E" + _pack([type_name, message, text, _survivor(error)])


def dump_reason(error: BaseException) -> bytes:
    """An outcome that holds one of this library's own exceptions, as text alone: its class and its message."""
    kind = type(error)
    return b"R" + _pack([f"{kind.__module__}.{kind.__qualname__}", str(error), "", b""])


def load_outcome(body: bytes | memoryview) -> tuple[Any, BaseException | None]:
    """The value, None or None, the exception with its remote traceback as cause.

    Raises:
        RecordInvalid: these bytes are no outcome.
        PayloadError: the value could not be rebuilt here; the cause says why.
    """
    view = memoryview(body)
    kind = bytes(view[:1])
    if kind == b"V":
        try:
            return pickle.loads(view[1:]), None  # noqa: S301 - sealed, checked by the caller
        except BaseException as error:
            words = f"{type(error).__name__}: {_text_of(error)}"
            raise errors.PayloadError(f"the task returned a value that cannot be rebuilt here: {words}") from error
    if kind not in (b"E", b"R"):
        raise errors.RecordInvalid(f"an outcome of an unknown kind: kind={kind!r}")
    failure, pickled = _unpack_failure(view[1:])
    if kind == b"R":
        return None, _own_error(failure)
    return None, _rebuilt_error(failure, pickled)


def describe_outcome(body: bytes | memoryview) -> Failure | None:
    """What failed, in words, without unpickling; None for a value. Raises: RecordInvalid."""
    view = memoryview(body)
    if bytes(view[:1]) == b"V":
        return None
    return _unpack_failure(view[1:])[0]


def _rebuilt_error(failure: Failure, pickled: bytes) -> BaseException:
    error: BaseException | None = None
    if pickled:
        try:
            loaded = pickle.loads(pickled)  # noqa: S301 - sealed, checked by the caller
            error = loaded if isinstance(loaded, BaseException) else None
        except BaseException:  # user code runs here: an exception's constructor
            error = None
    if error is None:
        error = errors.TaskFailed(f"{failure.type_name}: {failure.message}", failure.type_name)
    if failure.traceback:
        # Not by plain assignment: the class may refuse that, a frozen dataclass for one.
        BaseException.__setattr__(error, "__cause__", errors.RemoteTraceback(failure.traceback))
    return error


def _own_error(failure: Failure) -> BaseException:
    name = failure.type_name.rpartition(".")[2]
    if name == "CancelledError":
        return CancelledError(failure.message)
    kind = getattr(errors, name, None) if name in errors.__all__ else None
    if isinstance(kind, type) and issubclass(kind, errors.StarburstError):
        return kind(failure.message)
    return errors.TaskFailed(f"{failure.type_name}: {failure.message}", failure.type_name)


def _unpack_failure(view: memoryview) -> tuple[Failure, bytes]:
    try:
        type_name, message, text, pickled = msgpack.unpackb(view, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise errors.RecordInvalid("a failure that is no failure record") from error
    if not (isinstance(type_name, str) and isinstance(message, str) and isinstance(text, str)):
        raise errors.RecordInvalid("a failure record without its texts")
    if not isinstance(pickled, bytes):
        raise errors.RecordInvalid("a failure record without its exception")
    return Failure(type_name, message, text), pickled


def _survivor(error: BaseException) -> bytes:
    """The exception's pickle, or nothing if it does not come back from one as the same class."""
    try:
        pickled = _dumps(error)
        same = type(pickle.loads(pickled)) is type(error)  # noqa: S301 - made one line above
    except BaseException:  # user code runs here: __reduce__, __init__
        return b""
    return pickled if same else b""


def _text_of(error: BaseException) -> str:
    return _safe_text(lambda: str(error))


def _safe_text(make: Callable[[], str]) -> str:
    try:
        return make().encode("utf-8", "replace").decode("utf-8")
    except BaseException as error:  # user code runs here: __str__
        return f"<no text: {type(error).__name__}>"


def _pack(fields: list[str | bytes]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed
