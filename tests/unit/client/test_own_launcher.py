"""The launcher of a client that attaches: only one that was named with the session's key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor import Fargate
from starburst_executor.client.opening import own_launcher
from starburst_executor.protocol.records import DETACHED
from tests.support.session_rig import Rig

SPEC = "fargate?cpu=2&image=workers:1&stack=team&region=eu-west-1"


def rig_with(spec: str, seal_of: str) -> Rig:
    rig = Rig(kind=DETACHED)
    seal = rig.sealer.seal("launcher", "", seal_of.encode())
    rig.session.manifest.change(lambda manifest: replace(manifest, launcher=spec, launcher_seal=seal))
    return rig


def test_it_is_the_sessions_own() -> None:
    expected = Fargate(cpu=2.0, image="workers:1", stack="team", region="eu-west-1")
    launcher: Any = own_launcher(rig_with(SPEC, SPEC).session)
    assert launcher.options == expected
    assert own_launcher(rig_with("none", "none").session) is None


@pytest.mark.parametrize("forged", [SPEC.replace("workers:1", "evil:1"), "local?agents=256"])
def test_one_that_was_changed_in_the_store_starts_nothing(forged: str, caplog: pytest.LogCaptureFixture) -> None:
    assert own_launcher(rig_with(forged, SPEC).session) is None
    assert "has a wrong seal" in caplog.text


def test_one_that_is_not_known_here_starts_nothing() -> None:
    """A launcher of the user's own, or a newer one."""
    assert own_launcher(rig_with("slurm?queue=long", "slurm?queue=long").session) is None
