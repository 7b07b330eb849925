"""Calls to bytes and back, values and exceptions to bytes and back: the only module that pickles.

    client                          runner                              client
    dump_function ──► functions/    load_function ─┐
    dump_call     ──► status/       load_call     ─┴► call it ──► dump_value | dump_error ──► load_outcome

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
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import msgpack

from starburst_executor import errors

__all__ = [
    "Failure",
    "FunctionLoader",
    "code_of",
    "describe_outcome",
    "digest",
    "dump_call",
    "dump_error",
    "dump_function",
    "dump_reason",
    "dump_value",
    "load_call",
    "load_function",
    "load_outcome",
]

_PROTOCOL = 5
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
def _cloudpickle() -> ModuleType:
    # Loaded at first use: importing the package stays fast.
    import cloudpickle

    return cloudpickle  # type: ignore[no-any-return]  # cloudpickle has no types


def _dumps(value: object) -> bytes:
    return _cloudpickle().dumps(value, protocol=_PROTOCOL)  # type: ignore[no-any-return]  # no types


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
    _cloudpickle().dump(function, stream, protocol=_PROTOCOL)
    return stream.getvalue()


def code_of(body: bytes) -> str:
    """The name of the code that a function needs, without unpickling it; empty if it needs none. Raises: RecordInvalid."""
    try:
        return bytes(body[1 : _pickle_start(body)]).decode("ascii")
    except UnicodeDecodeError as error:
        raise errors.RecordInvalid("a function whose code has no proper name") from error


def load_function(body: bytes) -> Callable[..., Any]:
    """Rebuild a function. Raises: whatever unpickling raises, `ModuleNotFoundError` above all."""
    return pickle.loads(memoryview(body)[_pickle_start(body) :])  # type: ignore[no-any-return]  # noqa: S301 - sealed, checked by the caller


def _pickle_start(body: bytes) -> int:
    return 1 + body[0] if body else 0


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle one call's arguments. Raises: whatever pickling raises."""
    if not kwargs and all(type(arg) in _PLAIN for arg in args):
        return pickle.dumps((args, kwargs), _PROTOCOL)
    return _dumps((args, kwargs))


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
        unpickler = _MainUnpickler(body, _pickle_start(body))
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
        return self._load(body, _pickle_start(body)) if self._left else load_function(body)

    def load_call(self, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As the function `load_call`."""
        return self._load(body, 0) if self._left else load_call(body)

    def _load(self, body: bytes, start: int) -> Any:
        unpickler = _MainUnpickler(body, start)
        loaded = unpickler.load()
        for main in unpickler.mains:
            main.update(self._left)
        return loaded


class _MainUnpickler(pickle.Unpickler):
    """Notes the globals of the functions of `__main__` that it rebuilds."""

    def __init__(self, body: bytes, start: int) -> None:
        stream = io.BytesIO(body)
        stream.seek(start)
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


def load_call(body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Rebuild one call's arguments. Raises: whatever unpickling raises."""
    return pickle.loads(body)  # type: ignore[no-any-return]  # noqa: S301 - sealed, checked by the caller


def dump_value(value: object) -> bytes:
    """An outcome that holds a value, pickled straight behind its kind so that gigabytes are not copied.

    Raises: whatever pickling raises.
    """
    if type(value) in _PLAIN:
        return b"V" + pickle.dumps(value, _PROTOCOL)
    stream = io.BytesIO(b"V")
    stream.seek(1)
    _cloudpickle().dump(value, stream, protocol=_PROTOCOL)
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
