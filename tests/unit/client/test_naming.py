"""A name has one session at a time, whichever client dies, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.client import naming
from starburst_executor.client.opening import find_name
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError, SessionExpired, SessionNotFound
from starburst_executor.session.manifest import SessionManifest
from starburst_executor.session.names import Names
from starburst_executor.store.open import open_store
from tests.support.inside import session_of


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store"


@pytest.fixture
def begin(url: str) -> Iterator[Callable[..., DetachedExecutor]]:
    begun: list[DetachedExecutor] = []

    def start(**settings: object) -> DetachedExecutor:
        executor = DetachedExecutor(**{"name": "nightly", "store": url, "launcher": "none", "workers": 1, **settings})  # type: ignore[arg-type]
        begun.append(executor)
        return executor

    yield start
    for executor in begun:
        executor.detach()


def holder(url: str) -> str:
    named = find_name("nightly", [url], SystemClock(), is_given=True)
    return "" if named is None else named[1]


def test_the_same_name_is_the_same_session(begin: Callable[..., DetachedExecutor], url: str) -> None:
    first = begin()
    assert begin().id == first.id == holder(url)
    # Its store is not the configured one, but this machine has started a session there.
    assert DetachedExecutor.reattach("nightly", launcher="none").id == first.id
    assert DetachedExecutor.reattach("nightly", store=url, launcher="none").id == first.id
    assert begin(name="weekly").id != first.id
    assert begin(name="weekly").name == "weekly"


def test_settings_of_the_session_stay_and_those_that_differ_are_named(
    begin: Callable[..., DetachedExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    begin(workers=2, retries=3)
    again = begin(workers=5, retries=3, task_timeout=9.0)
    (said,) = [record.getMessage() for record in caplog.records if "keeps its settings" in record.getMessage()]
    assert "workers is 2, given 5; task_timeout is None, given 9.0: name=nightly" in said
    assert "retries" not in said
    assert session_of(again).manifest.current.slots == 2


def test_a_deleted_session_frees_its_name(begin: Callable[..., DetachedExecutor], url: str) -> None:
    first = begin()
    first.cleanup(force=True)
    assert holder(url) == ""
    with pytest.raises(SessionNotFound):
        DetachedExecutor.reattach("nightly", store=url)
    second = begin(on_expired="raise")
    assert second.id != first.id
    # What remains of the first one does not free the name of the second.
    Names(open_store(url), SystemClock()).free("nightly", first.id)
    assert holder(url) == second.id


def test_a_session_that_was_ended_gives_its_name_to_a_new_one_or_is_an_error(
    begin: Callable[..., DetachedExecutor], url: str
) -> None:
    first = begin()
    first.cleanup()
    with pytest.raises(SessionExpired, match=f"terminated.*{first.id}"):
        begin(on_expired="raise")
    assert holder(url) == first.id
    assert DetachedExecutor.reattach("nightly", store=url, launcher="none").id == first.id
    assert begin().id != first.id


def test_a_client_that_died_before_its_session_began_leaves_its_name_to_the_next(
    begin: Callable[..., DetachedExecutor], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming, "_PATIENCE_S", 0.0)

    class Killed(BaseException):
        pass

    create = SessionManifest.create

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(SessionManifest, "create", die)
    with pytest.raises(Killed):
        begin()
    reserved = holder(url)
    assert reserved
    monkeypatch.setattr(SessionManifest, "create", create)
    second = begin()
    assert second.id != reserved
    assert holder(url) == second.id


def test_a_client_whose_id_was_given_up_meanwhile_gets_the_session_of_the_other_one(
    begin: Callable[..., DetachedExecutor], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming, "_PATIENCE_S", 0.0)
    create = SessionManifest.create
    others: list[DetachedExecutor] = []

    def slow(manifest: SessionManifest, *arguments: object) -> None:
        monkeypatch.setattr(SessionManifest, "create", create)
        others.append(begin())  # while this client sleeps between the name and the manifest
        create(manifest, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionManifest, "create", slow)
    assert begin().id == others[0].id == holder(url)


def test_two_clients_at_once_get_the_same_session(begin: Callable[..., DetachedExecutor]) -> None:
    ids: list[str] = []
    gate = threading.Barrier(6)

    def work() -> None:
        gate.wait()
        ids.append(begin().id)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 6
    assert len(set(ids)) == 1


@pytest.mark.parametrize("name", ["last", "20260401", "2026-x", "", "a/b", "-a", "a b", "é", "a" * 64, 5, b"a"])
def test_what_could_be_taken_for_an_id_is_no_name(begin: Callable[..., DetachedExecutor], name: object) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        begin(name=name)


@pytest.mark.parametrize("given", [None, 5, b"a"])
def test_a_session_is_attached_to_by_a_text(given: Any) -> None:
    with pytest.raises(TypeError, match="by its id, its name or its URL"):
        DetachedExecutor.reattach(given)
