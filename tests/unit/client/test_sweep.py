"""What a client sweeps when it starts: sessions that died with their client, and what landed after a deletion."""

from __future__ import annotations

from typing import Any

import pytest

from starburst_executor.client.session import SWEEP_AFTER_S, sweep
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.records import ATTACHED, DETACHED
from starburst_executor.testing import FakeClock, MemoryStore
from tests.support.session_rig import Rig

OLD = "20200101-000000-aaaaaaaa"


def _age(clock: FakeClock) -> None:
    clock.advance(SWEEP_AFTER_S + 1)


def test_what_landed_in_a_session_after_its_manifest_was_deleted_is_swept() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    store.create(SessionKeys(OLD).function("f"), b"late")
    sweep(store, clock)
    assert store.list("sessions/")
    _age(clock)
    sweep(store, clock)
    assert not store.list("sessions/")


@pytest.mark.parametrize(("kind", "n_left"), [(ATTACHED, 0), (DETACHED, 2)])
def test_of_whole_sessions_only_attached_ones_are_swept(kind: str, n_left: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.support.session_rig.SESSION", OLD)
    clock = FakeClock()
    rig = Rig(clock=clock, kind=kind)
    _age(clock)
    sweep(rig.objects, clock)
    assert len(rig.objects.list("sessions/")) == n_left
