"""What the simulation has found in the product, each made to happen again without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.client import tasks
from starburst_executor.client.submitter import submitter_record
from starburst_executor.protocol.records import Manifest, Submitter
from starburst_executor.protocol.spans.record import State
from starburst_executor.session import epochs
from starburst_executor.session.epochs import close_epochs
from tests.support.session_rig import Rig


def _with_another_epoch(manifest: Manifest) -> Manifest | None:
    first = manifest.submitters[0]
    if first.epochs == 2:
        return None
    return manifest.with_submitter(0, replace(first, epochs=2, open=(*first.open, 1)))


def test_closing_an_epoch_keeps_what_another_thread_changed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest and ETag were taken one after the other: an epoch that was opened in between was lost with its tasks."""
    monkeypatch.setattr(epochs, "STATUSES_PER_EPOCH", 1)
    rig = Rig()
    key = rig.submit(1)
    rig.write_spans(key, state=State.COMPLETED)
    session, groups = rig.session, rig.session.statuses.all()
    rig.before("list", rig.keys.epoch(0, 0), lambda: session.manifest.change(_with_another_epoch))
    close_epochs(session, groups)
    assert rig.another().manifest.refresh().open_epochs() == [(0, 1)]


def test_what_is_remembered_of_the_manifest_never_goes_back() -> None:
    """A slow answer of one thread overwrote what another had written since."""
    rig = Rig()
    rig.another().manifest.change(_with_another_epoch)
    get = rig.session.store.get_if_changed

    def slow(key: str, etag: str) -> Any:
        stored = get(key, etag)
        rig.session.store.get_if_changed = get  # type: ignore[method-assign]
        rig.session.manifest.change(_with_a_submitter)
        return stored

    rig.session.store.get_if_changed = slow  # type: ignore[method-assign]
    rig.session.manifest.refresh()
    assert len(rig.session.manifest.current.submitters) == 2


def _with_a_submitter(manifest: Manifest) -> Manifest | None:
    if len(manifest.submitters) == 2:
        return None
    return replace(manifest, submitters=(*manifest.submitters, submitter_record("c1")))


def test_a_retry_holds_an_epoch_of_a_client_that_it_has_not_heard_of() -> None:
    """The remembered manifest did not know the submitter yet: IndexError."""
    rig = Rig()
    rig.session.manifest.refresh()
    rig.another().manifest.change(_with_a_submitter)
    rig.session.manifest.change(lambda manifest: tasks._held(manifest, ordinal=1, epoch=0, hold="h"))
    assert rig.another().manifest.refresh().submitters[1] == Submitter("c1", 1, (0,), ((0, "h"),))
