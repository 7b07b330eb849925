"""Which stored calls are compared with the signature of a function that replaces the one that failed."""

from __future__ import annotations

import pytest

from starburst_executor import ConfigError
from starburst_executor.client import replacement
from starburst_executor.client.functions import FunctionPickles
from starburst_executor.client.replacement import Replacement
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import Status
from tests.support.session_rig import Rig
from tests.support.spans import end

ERROR = outcomes.dump_error(ValueError("no"))


def of_two(x: int, y: int) -> None: ...


def rig_with(*calls: tuple[int, ...], each: int = 4) -> Rig:
    """A session with status objects of four failed tasks each."""
    rig = Rig()

    def step(current: Status) -> Status:
        current, _ = transitions.claim(current, "w.1", at_most=each, now=1.0, max_losses=3)
        return end(rig.sealer, current, "w.1", range(each), ERROR, failed=True)

    for i, call in enumerate(calls):
        rig.write(rig.submit(each, first=i * each, call=call), step)
    return rig


def check(rig: Rig, tasks: set[tuple[int, int]] | None = None, *, times: int = 1) -> None:
    found = Replacement(rig.session, FunctionPickles().prepare(of_two), of_two)
    for _ in range(times):
        found.check(rig.session.statuses.all(), tasks)


def test_all_calls_are_compared_while_they_are_few() -> None:
    rig = rig_with((1, 2), (1, 2), (1, 2, 3))
    with pytest.raises(
        ConfigError, match=r"of_two\(x, y\) cannot be called with the arguments of task 0-8: too many positional"
    ):
        check(rig)
    check(rig, {(0, 0), (0, 7)})
    with pytest.raises(ConfigError, match=r"task 0-9: .* arguments=\(1, 2, 3\)"):
        check(rig, {(0, 0), (0, 9)})


def test_of_many_objects_evenly_chosen_ones_are_read_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacement, "_CHECKED_OBJECTS", 3)
    monkeypatch.setattr(replacement, "_CHECKED_CALLS", 6)
    rig = rig_with(*[(1, 2)] * 9)
    with rig.requests() as counts:
        check(rig, times=2)
    assert counts["get"] == 3 + 1  # and the function that failed
    with pytest.raises(ConfigError, match="task 0-12: "):
        check(rig_with(*[(1, 2)] * 3, (1,), *[(1, 2)] * 5))
    check(rig_with(*[(1, 2)] * 4, (1,), *[(1, 2)] * 4))


def test_arguments_that_cannot_be_loaded_here_are_left_to_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rig_with((1, 2, 3))

    def missing(body: bytes, bodies: object) -> None:
        raise ModuleNotFoundError("lab")

    monkeypatch.setattr("starburst_executor.protocol.calls.load_call", missing)
    check(rig)
