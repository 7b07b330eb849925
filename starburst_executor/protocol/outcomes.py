"""Serialise outcomes to bytes, and load them again: values, exceptions, and failures that user code did not raise.

    runner, worker                                    client
    dump_value | dump_error | dump_reason ──► load_outcome, describe_outcome

This module checks no seal: the caller of `load_outcome` must have checked it before (`protocol/seal.py`).

An outcome is one byte for its kind, and a body. `V`: a pickled value. `E`: a msgpack list of the exception's type name,
message and traceback as plain text, so that a failure can be shown without unpickling, and the exception's pickle, which is
empty if the exception does not survive a round trip. `R`: the same without a pickle, for failures that user code did not
raise. If the task has the option `retry_on`, an `E` also lists the names of its class and of all base classes. In place of the pickle an `R` may have the
outcome of another task, which is the cause.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, NamedTuple

import msgpack

from starburst_executor import errors
from starburst_executor.protocol import pickling
from starburst_executor.protocol.options import class_names
from starburst_executor.protocol.pickling import PLAIN, PROTOCOL

__all__ = ["Failure", "describe_outcome", "dump_error", "dump_reason", "dump_value", "failure_names", "load_outcome"]


_VALUE = b"V"[0]
# What functions return that do not run when they are called.
_ADVICE = {
    CoroutineType: "an `async` function cannot be a task, since nothing runs what it returns: pass a function that returns "
    "`asyncio.run(...)` of it",
    GeneratorType: "a generator cannot be a task's result: return a list of what it yields",
    AsyncGeneratorType: "an asynchronous generator cannot be a task's result: collect what it yields with `asyncio.run(...)`, and return that",
}
_COPIED_BYTES = 1024


class Failure(NamedTuple):
    """The description of a failed task, which needs no unpickling.

    Attributes:
        type_name: Qualified name of the exception's class, for example `builtins.ValueError`.
        message: `str(exception)`.
        traceback: The remote traceback as text; empty for failures that user code did not raise.
    """

    type_name: str
    message: str
    traceback: str


def dump_value(value: object) -> bytes:
    """Return an outcome that holds a value, pickled directly after the kind byte so that gigabytes are not copied.

    Raises: any exception that pickling raises.
    """
    if type(value) in PLAIN:
        return b"V" + pickle.dumps(value, PROTOCOL)
    stream = io.BytesIO(b"V")
    stream.seek(1)
    try:
        pickling.dump(value, stream)
    except Exception as error:
        if (advice := _ADVICE.get(type(value))) is not None:
            if isinstance(value, CoroutineType):
                value.close()  # or it would warn that it was never awaited
            raise TypeError(advice) from None
        pickling.raise_explained(error, [("the result", value)])
    return stream.getvalue()  # shares the stream's memory


def dump_error(error: BaseException, *, note: str = "", names: Sequence[str] = ()) -> bytes:
    """Return an outcome that holds an exception; never raises, for any exception. Its traceback begins with user code.

    Args:
        note: Advice for the user; it becomes the last line of the traceback.
        names: The names of its class and of all base classes, if a retry depends on them.
    """
    tb = error.__traceback__
    while tb is not None and _is_ours(tb.tb_frame):
        tb = tb.tb_next
    text = _safe_text(lambda: "".join(traceback.format_exception(type(error), error, tb)))
    text += f"{note}\n" if note else ""
    message = _text_of(error)
    kind = type(error)
    type_name = f"{kind.__module__}.{kind.__qualname__}"
    return b"E" + _pack([type_name, message, text, _survivor(error), *([list(names)] if names else [])])


def _is_ours(frame: FrameType) -> bool:
    """Return whether a frame is of no use to the user: it belongs to this library or to pickling."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("starburst_executor", "cloudpickle", "pickle")


def dump_reason(error: BaseException, cause: bytes = b"") -> bytes:
    """Return an outcome that holds one of this library's own exceptions as text only: its class and its message.

    Args:
        cause: The outcome of the failed task that is the cause.
    """
    kind = type(error)
    return b"R" + _pack([f"{kind.__module__}.{kind.__qualname__}", str(error), "", cause])


def load_outcome(body: bytes | memoryview) -> tuple[Any, BaseException | None]:
    """Return (value, None), or (None, exception) with the remote traceback as the exception's cause.

    Raises:
        RecordInvalid: these bytes are not an outcome.
        PayloadError: the value could not be unpickled in this process; the cause names the reason.
    """
    if body and body[0] == _VALUE:
        try:
            # Of a small outcome a copy is faster than a view.
            pickled = body[1:] if len(body) <= _COPIED_BYTES else memoryview(body)[1:]
            return pickle.loads(pickled), None  # noqa: S301 - sealed, checked by the caller
        except BaseException as error:
            reason = f"{type(error).__name__}: {_text_of(error)}"
            raise errors.PayloadError(f"the task's result cannot be unpickled in this process: {reason}") from error
    view = memoryview(body)
    kind = bytes(view[:1])
    if kind not in (b"E", b"R"):
        raise errors.RecordInvalid(f"an outcome of an unknown kind: kind={kind!r}")
    failure, within, _ = _unpack_failure(view[1:])
    if kind == b"R":
        own = _own_error(failure)
        if within:
            own.__cause__ = load_outcome(within)[1]
        return None, own
    return None, _rebuilt_error(failure, within)


def describe_outcome(body: bytes | memoryview) -> Failure | None:
    """Return the description of a failure without unpickling; None for a value. Raises: RecordInvalid."""
    view = memoryview(body)
    if bytes(view[:1]) == b"V":
        return None
    return _unpack_failure(view[1:])[0]


def failure_names(body: bytes | memoryview) -> Sequence[str]:
    """Return the names of a failure's class and of its base classes, as far as they are stored. Raises: RecordInvalid."""
    view = memoryview(body)
    failure, _, names = _unpack_failure(view[1:])
    if bytes(view[:1]) == b"R":
        return class_names(type(_own_error(failure)))
    return names or (failure.type_name,)


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
        # Plain assignment would fail for a class that refuses it, such as a frozen dataclass.
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


def _unpack_failure(view: memoryview) -> tuple[Failure, bytes, list[str]]:
    try:
        type_name, message, text, pickled, *more = msgpack.unpackb(view, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise errors.RecordInvalid("a failure record that cannot be read") from error
    if not (isinstance(type_name, str) and isinstance(message, str) and isinstance(text, str)):
        raise errors.RecordInvalid("a failure record without its texts")
    if not isinstance(pickled, bytes):
        raise errors.RecordInvalid("a failure record without its exception")
    names = more[0] if more else []
    if type(names) is not list or not all(type(name) is str for name in names):
        raise errors.RecordInvalid("a failure record with classes that cannot be read")
    return Failure(type_name, message, text), pickled, names


def _survivor(error: BaseException) -> bytes:
    """Return the exception's pickle, or empty bytes if unpickling it does not give the same class."""
    try:
        pickled = pickling.dumps(error)
        same = type(pickle.loads(pickled)) is type(error)  # noqa: S301 - pickled one line above
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


def _pack(fields: list[str | bytes | list[str]]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed
