"""When a session's workers count as gone, and what this client can know of their deaths."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.client import deaths
from starburst_executor.client.handles import sealed_handle
from starburst_executor.client.workforce import Workforce
from starburst_executor.errors import LaunchError
from starburst_executor.launch.base import Death
from starburst_executor.launch.local.processes import identity
from starburst_executor.protocol.records import Launch, WorkerState
from tests.support.keeper_rig import Client, FakeLauncher
from tests.support.session_rig import Rig


def waited_s(rig: Rig, launcher: FakeLauncher | None = None) -> float:
    began = rig.clock.monotonic()
    Workforce(rig.another(), launcher).wait_until_gone(frozenset())
    return rig.clock.monotonic() - began


def lost_s(rig: Rig) -> float:
    return rig.timings.look_s * rig.timings.looks_until_lost


def test_those_that_have_left_are_gone() -> None:
    rig = Rig()
    rig.beat("w0", state=WorkerState.LEFT)
    assert waited_s(rig) == 0


def test_a_silent_one_is_waited_for_until_it_is_lost() -> None:
    rig = Rig()
    rig.beat("w0")
    assert waited_s(rig) >= lost_s(rig)


def test_one_whose_process_has_ended_here_is_gone() -> None:
    rig = Rig()
    machine, pid, _ = identity().split(" ", 2)
    rig.beat("w0", process=f"{machine} {pid} another start")
    assert waited_s(rig) == 0


def test_one_whose_beat_cannot_be_read_is_not_taken_for_gone() -> None:
    rig = Rig()
    rig.beat("w0")
    rig.objects.put(rig.keys.worker("w0"), b"spoilt")
    assert waited_s(rig) >= lost_s(rig)


def test_what_an_engine_stops_slowly_is_gone_when_it_says_so() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    rig.submit(1)
    client.turns(1.0)
    rig.beat("w0")
    stops_at = rig.clock.monotonic() + rig.timings.look_s
    launcher.deaths = lambda handle: [Death(handle, "")] if rig.clock.monotonic() >= stops_at else []  # type: ignore[method-assign]
    assert rig.timings.look_s <= waited_s(rig, launcher) < lost_s(rig) / 2


class Far(FakeLauncher):
    """The session's own launcher, which this client does not have."""

    name = "far"


def far_session() -> Rig:
    rig = Rig()
    launch = Launch("l", "far", 1, "", 0.0, settled=True)
    session = rig.another()
    launch = replace(launch, handle=sealed_handle(session.sealer, launch, "w0"))
    session.manifest.change(lambda manifest: replace(manifest, launches=(launch,)))
    rig.beat("w0")
    return rig


@pytest.mark.parametrize("mine", [None, FakeLauncher()])
def test_the_sessions_own_launcher_is_asked_whatever_this_client_has(
    mine: FakeLauncher | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, far = far_session(), Far()
    far.kill("w0")
    monkeypatch.setattr(deaths, "own_launcher", lambda session: far)
    assert waited_s(rig, mine) == 0


def test_where_it_may_not_be_asked_silence_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, far = far_session(), Far()

    def refused(handle: str) -> list[Death]:
        raise LaunchError("AccessDeniedException: ecs:DescribeTasks")

    far.deaths = refused  # type: ignore[method-assign]
    monkeypatch.setattr(deaths, "own_launcher", lambda session: far)
    assert waited_s(rig) >= lost_s(rig)
