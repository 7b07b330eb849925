"""Plain values as text without running code; everything else is refused here."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.client.reading import Reading
from starburst_executor.dashboard.showing import _Plain, plain_call, plain_result, plain_text
from starburst_executor.protocol.spans.record import State
from tests.support.session_rig import Rig


class Hostile:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


@pytest.mark.parametrize(
    "value",
    [None, 3, -0.5, "a'b", b"\x00", True, [1, [2]], (1,), (1, 2), {}, {"a": [1]}, {1: (2,)}, [], ()],
)
def test_plain_values_are_shown_as_python_writes_them(value: object) -> None:
    assert plain_text(_Plain(io.BytesIO(pickle.dumps(value, 5))).load()) == repr(value)


@pytest.mark.parametrize(
    "value",
    [Hostile(), [1, Hostile()], {"x": Hostile()}, Path("x"), sys.exit, int],
    ids=lambda value: type(value).__name__,
)
def test_whatever_names_something_is_refused(value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        _Plain(io.BytesIO(pickle.dumps(value, 5))).load()
    assert not Path("ran").exists()


def test_lists_that_hold_each_other_many_times_stay_short() -> None:
    value: list[Any] = ["x"]
    for _ in range(200):
        value = [value] * 10
    assert len(plain_text(value)) < 5000
    circle: list[Any] = []
    circle.append(circle)
    assert len(plain_text(circle)) < 5000
    assert len(plain_text("x" * 10**6)) < 5000
    assert "too long" in plain_text(10**5000) or len(plain_text(10**5000)) < 5100


def test_the_call_of_a_task_is_shown_if_it_is_plain() -> None:
    rig = Rig()
    reading = Reading(rig.session)
    rig.submit(2, call=(2, [3, "x"]))
    block, task = reading.find("0-0")
    assert plain_call(reading, block, task).text == "2, [3, 'x']"
    rig.submit(1, first=2, call=(Path("x"),))
    block, task = reading.find("0-2")
    shown = plain_call(reading, block, task)
    assert (shown.text, shown.may_run) == ("", True)


def test_the_result_of_a_task_is_shown_if_it_is_plain_and_small() -> None:
    rig = Rig()
    reading = Reading(rig.session)
    for first, value in ((0, {"a": 1}), (1, Path("x"))):
        rig.end(rig.submit(1, first=first), value, claim_id=f"w.{first}")
    block, task = reading.find("0-0")
    assert task.state == State.COMPLETED
    assert plain_result(reading, block, task, 100).text == "{'a': 1}"
    assert plain_result(reading, block, task, 10**7).may_run
    assert "not kept" in plain_call(reading, block, task).problem
    block, task = reading.find("0-1")
    shown = plain_result(reading, block, task, 100)
    assert (shown.text, shown.may_run) == ("", True)
