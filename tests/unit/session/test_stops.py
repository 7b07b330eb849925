"""Cancelling what workers hold: which claims the manifest names, and what is cancelled of them."""

from __future__ import annotations

from starburst_executor.protocol.spans.record import State
from starburst_executor.session.stops import ALL, cancel_in, held_of, name_claims
from tests.support.session_rig import Rig


def test_only_tasks_of_named_claims_and_pending_ones_are_cancelled() -> None:
    rig = Rig()
    key = rig.submit(6)
    rig.claim(key, "a.1", 2)
    rig.claim(key, "b.1", 2)
    assert held_of(rig.session, key, range(1, 3)) == {"a.1", "b.1"}
    updated, n_cancelled, left = cancel_in(rig.session, key, range(1, 6), {"a.1"})
    assert (n_cancelled, left) == (3, {"b.1"})
    assert updated is not None
    claimed, cancelled = State.CLAIMED, State.CANCELLED
    assert rig.states(key) == [claimed, cancelled, claimed, claimed, cancelled, cancelled]
    assert cancel_in(rig.session, key, range(1, 6), {"a.1"})[1:] == (0, {"b.1"}), "a second call is harmless"


def test_an_object_that_is_gone_holds_nothing() -> None:
    rig = Rig()
    key = rig.submit(2)
    rig.objects.delete([key])
    assert held_of(rig.session, key, [0]) == frozenset()
    assert cancel_in(rig.session, key, [0], {"a.1"}) == (None, 0, frozenset())


def test_the_manifest_names_each_claim_once_and_does_not_grow_with_them() -> None:
    rig = Rig()
    name_claims(rig.session, [])
    with rig.requests() as counts:
        name_claims(rig.session, ["b.1", "a.1"])
    assert counts == {"swap": 1}
    name_claims(rig.session, ["a.1"])
    assert rig.another().manifest.refresh().stops == ("a.1", "b.1")
    name_claims(rig.session, [f"w.{i}" for i in range(100)])
    (mark,) = rig.session.manifest.refresh().stops
    assert mark.startswith(ALL)
    assert len(mark) > 1
    name_claims(rig.session, ["z.1"])
    assert rig.session.manifest.refresh().stops == (mark, "z.1")
