"""Calls, values and exceptions: they come back as they were, or the reason why not does."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor import errors
from starburst_executor.errors import PayloadError, RecordInvalid, RemoteTraceback, TaskFailed
from starburst_executor.protocol import calls, outcomes
from starburst_executor.worker.runner.loader import Loader


class TwoArguments(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class Touchy(Exception):
    """Its copy may be made, but nothing may be set on it."""

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(f"hands off {name}")


@dataclass(frozen=True)
class Frozen(Exception):
    pass


class Wild(BaseException):
    pass


class Changeling(Exception):
    """Comes back from its pickle as something else."""

    def __reduce__(self) -> Any:
        return dict, ()


class Impostor(Exception):
    """Comes back from its pickle as another exception."""

    def __reduce__(self) -> Any:
        return KeyError, ("other",)


class Fatal(Exception):
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return exit, (3,)


class NoWordsAtReturn:
    """A value that cannot be rebuilt, and whose error cannot even say why."""

    def __setstate__(self, state: object) -> None:
        raise Speechless

    def __getstate__(self) -> object:
        return {"x": 1}


def there_and_back(raised: BaseException) -> BaseException:
    try:
        raise raised
    except BaseException as error:
        body = outcomes.dump_error(error)
    value, error = outcomes.load_outcome(body)
    assert value is None
    assert error is not None
    return error


@pytest.mark.parametrize(
    "value", [None, 0, -1.5, 1j, True, "", "ä", b"", b"\x00" * 100, [1, {2: (3,)}], {"a": {1}}, range(3)]
)
def test_values_come_back(value: object) -> None:
    body = outcomes.dump_value(value)
    assert outcomes.load_outcome(body) == (value, None)
    assert outcomes.describe_outcome(body) is None


def test_what_a_function_returns_that_has_not_run_is_refused_with_advice(recwarn: pytest.WarningsRecorder) -> None:
    async def asynchronous() -> None:
        pass

    async def both() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"an `async` function cannot be a task.*asyncio.run"):
        outcomes.dump_value(asynchronous())
    with pytest.raises(TypeError, match="return a list"):
        outcomes.dump_value(i for i in range(3))
    with pytest.raises(TypeError, match="collect what it yields"):
        outcomes.dump_value(both())
    gc.collect()
    assert not recwarn.list


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False), st.lists, max_leaves=5
    )
)
@settings(max_examples=80)
def test_any_value_comes_back(value: object) -> None:
    assert outcomes.load_outcome(outcomes.dump_value(value)) == (value, None)
    assert calls.load_call(calls.dump_call((value,), {"k": value})) == ((value,), {"k": value})


def test_functions_come_back_lambdas_and_closures_too() -> None:
    base = 10
    for function in (lambda x: x + base, pow, len):
        pickled = calls.dump_function(function)
        assert callable(calls.load_function(pickled))
    assert calls.load_function(calls.dump_function(lambda x: x + base))(5) == 15
    assert calls.digest(b"one") != calls.digest(b"two")
    assert len(calls.digest(b"")) == 32


def test_a_function_names_its_code_without_being_unpickled() -> None:
    assert calls.code_of(calls.dump_function(pow)) == ""
    body = calls.dump_function(pow, "2026-04/5f")
    assert calls.code_of(body) == "2026-04/5f"
    assert calls.load_function(body) is pow
    assert Loader({}).load(body) is pow
    assert calls.code_of(b"") == ""
    with pytest.raises(RecordInvalid, match="no proper name"):
        calls.code_of(b"\x02\xff\xff")


def test_plain_calls_are_pickled_as_others_are() -> None:
    for args in ((), (1, "a", b"b", None, 1.5, True), ([1],)):
        assert calls.load_call(calls.dump_call(args, {})) == (args, {})


@pytest.mark.parametrize(
    "raised",
    [ValueError("no", 1), KeyError("k"), OSError(2, "none", "file"), Wild("w"), SystemExit(3), KeyboardInterrupt()],
)
def test_exceptions_come_back_as_themselves(raised: BaseException) -> None:
    error = there_and_back(raised)
    assert type(error) is type(raised)
    assert error.args == raised.args
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "test_calls_and_outcomes.py" in str(error.__cause__)
    assert type(raised).__name__ in str(error.__cause__)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (TwoArguments(1, 2), "1 and 2"),
        (KeywordOnly(code=7), ""),
        (Speechless("x"), "<no text: RuntimeError>"),
        (Unpicklable(), "held"),
        (Changeling("c"), "c"),
        (Impostor("i"), "i"),
        (Fatal("f"), "f"),
        (type("Local", (Exception,), {"__reduce__": lambda self: 1 / 0})("gone"), "gone"),
    ],
)
def test_odd_exceptions_come_back_with_their_text(raised: Exception, message: str) -> None:
    error = there_and_back(raised)
    if type(error) is type(raised):
        assert type(raised) is Speechless
    else:
        assert isinstance(error, TaskFailed)
        assert error.type_name.endswith(type(raised).__name__)
        assert str(error) == f"{error.type_name}: {message}"
    assert "Traceback" in str(error.__cause__)


@pytest.mark.parametrize("kind", [Touchy, Frozen])
def test_exceptions_on_which_nothing_can_be_set_have_their_remote_traceback(kind: type[Exception]) -> None:
    error = there_and_back(kind())
    assert type(error) is kind
    assert isinstance(error.__cause__, RemoteTraceback)


def test_the_remote_traceback_tells_causes_and_notes() -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            second = ValueError("second")
            second.__notes__ = ["mind the note"]  # type: ignore[attr-defined]
            raise second from first

    with pytest.raises(ValueError) as caught:
        fail()
    text = str(there_and_back(caught.value).__cause__)
    assert "KeyError: 'first'" in text
    assert "direct cause" in text
    assert "ValueError: second" in text


def test_frames_beneath_the_users_are_hidden() -> None:
    """Of what runs tasks and of what pickles; those above the user's are not."""

    class Odd:
        def __reduce__(self) -> Any:
            return outcomes.load_outcome(b"?")

    with pytest.raises(RecordInvalid) as caught:
        outcomes.dump_value(Odd())
    # Without this function, which a runner does not have.
    called = caught.value.with_traceback(caught.tb.tb_next)
    failure = outcomes.describe_outcome(outcomes.dump_error(called))
    assert failure is not None
    assert outcomes.describe_outcome(outcomes.dump_error(ValueError("never raised"))) is not None
    assert "in dump_value" not in failure.traceback
    assert "in __reduce__" in failure.traceback
    assert "in load_outcome" in failure.traceback


def test_text_that_is_no_utf8_is_shown_as_far_as_it_goes() -> None:
    failure = outcomes.describe_outcome(outcomes.dump_error(ValueError("bad \udcff end")))
    assert failure is not None
    assert failure.message == "bad ? end"


def test_a_failure_is_described_without_unpickling() -> None:
    body = outcomes.dump_error(ValueError("plain"))
    failure = outcomes.describe_outcome(body.replace(b"builtins", b"nobuiltn"))
    assert failure is not None
    assert failure[:2] == ("nobuiltn.ValueError", "plain")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.TaskTimeout("late"), errors.TaskTimeout),
        (errors.WorkerLost("lost"), errors.WorkerLost),
        (errors.ExecutorBroken("broken"), errors.ExecutorBroken),
        (CancelledError("c"), CancelledError),
        (errors.RemoteTraceback("t"), TaskFailed),
        (ZeroDivisionError("z"), TaskFailed),
    ],
)
def test_our_own_reasons_come_back_as_text_and_class(error: Exception, kind: type[Exception]) -> None:
    value, found = outcomes.load_outcome(outcomes.dump_reason(error))
    assert value is None
    assert type(found) is kind
    assert found.__cause__ is None
    assert type(error).__name__ in str(found) or kind is type(error)


def test_a_value_that_cannot_be_rebuilt_says_why() -> None:
    with pytest.raises(
        PayloadError, match=r"cannot be unpickled in this process: Speechless: <no text: RuntimeError>"
    ) as caught:
        outcomes.load_outcome(outcomes.dump_value(NoWordsAtReturn()))
    assert isinstance(caught.value.__cause__, Speechless)


def test_big_values_are_not_copied_behind_their_kind() -> None:
    value = [b"x" * 50_000_000]
    tracemalloc.start()
    try:
        body = outcomes.dump_value(value)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The stream grows by an eighth at a time; a copy of the whole would take twice its size.
    assert peak_bytes < 1.5 * len(body)
    assert outcomes.load_outcome(body) == (value, None)
