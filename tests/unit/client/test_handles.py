"""Handles are sealed: a client stops no process that was named without the session's key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.client.handles import handle_of, sealed_handle
from starburst_executor.client.workforce import Workforce
from starburst_executor.protocol.records import Launch
from starburst_executor.protocol.seal import Sealer
from tests.support.keeper_rig import Client, FakeLauncher
from tests.support.session_rig import Rig

SEALER = Sealer(b"key", "a-session")
LAUNCH = Launch("l1", "fake", 4, "", 1.0)


def of(handle: str, **changed: str) -> str:
    """What is made of a handle that was sealed for `LAUNCH`."""
    return handle_of(SEALER, replace(LAUNCH, **{"handle": handle, **changed}))  # type: ignore[arg-type]


@pytest.mark.parametrize("handle", ["", "w0", "with.dots.", "0" * 50_000])
def test_a_handle_comes_back_as_it_was(handle: str) -> None:
    assert of(sealed_handle(SEALER, LAUNCH, handle)) == handle


def test_a_handle_that_nobody_with_the_key_wrote_here_is_none() -> None:
    stored = sealed_handle(SEALER, LAUNCH, "w0")
    assert of("w0") == of(".w0") == of("\u00e9.w0") == ""
    assert of(stored[:-1] + "1") == ""
    assert of(stored, launch_id="l2") == of(stored, launcher="fargate") == of(stored, launcher="a\0b") == ""
    assert of(sealed_handle(Sealer(b"key", "another"), LAUNCH, "w0")) == ""
    assert of(sealed_handle(Sealer(b"other", "a-session"), LAUNCH, "w0")) == ""


def test_a_forged_launch_is_not_asked_for_stopped_or_gone_on_with() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    client.keeper.turn()
    (own,) = rig.another().manifest.current.launches
    forged = replace(own, handle="forged.w7")
    unfinished = replace(own, launch_id="l2", handle="forged.w8", settled=False)
    rig.session.manifest.change(lambda m: replace(m, launches=(forged, unfinished)))
    launcher.dead["w7"] = "a lie"
    client.turns(60.0)
    assert client.keeper.buried == frozenset()
    assert len(launcher.orders) > 1, "it counts for nothing, so others are started"
    session = rig.another()
    session.manifest.refresh()
    Workforce(session, launcher).end_session()
    assert not {"w7", "w8"} & {handle for handle, _ in launcher.stopped}
