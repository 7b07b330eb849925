"""What a client deletes of others: never for its age alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.client import owner
from starburst_executor.client.cleanup import SWEEP_AFTER_S, Sweep
from starburst_executor.client.owner import is_gone, this_process
from starburst_executor.errors import StoreUnavailable
from starburst_executor.protocol.keys import SESSIONS, SessionKeys
from starburst_executor.protocol.records import ATTACHED, DETACHED, SessionState
from starburst_executor.store.base import Stored
from starburst_executor.testing import FakeClock, MemoryStore
from tests.support.session_rig import Rig

OLD = "20200101-000000-aaaaaaaa"


@pytest.fixture(scope="module")
def dead() -> str:
    """The words of a process that is gone."""
    code = "from starburst_executor.client.owner import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def sweep(store: MemoryStore, clock: FakeClock, n_most: int = 1000) -> None:
    tidy, n_steps = Sweep(store, clock), 1
    while tidy.step():
        n_steps += 1
        assert n_steps < n_most


def age(clock: FakeClock) -> None:
    clock.advance(SWEEP_AFTER_S + 1)


def rig_of(clock: FakeClock, monkeypatch: pytest.MonkeyPatch, name: str = OLD, **manifest: Any) -> Rig:
    monkeypatch.setattr("tests.support.session_rig.SESSION", name)
    return Rig(clock=clock, **manifest)


def test_what_landed_in_a_session_after_its_manifest_was_deleted_is_swept() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    store.create(SessionKeys(OLD).function("f"), b"late")
    sweep(store, clock)
    assert store.list(SESSIONS)
    age(clock)
    sweep(store, clock)
    assert not store.list(SESSIONS)


@pytest.mark.parametrize(
    ("is_swept", "manifest"),
    [
        (True, {"kind": ATTACHED, "owner": "dead"}),
        (True, {"kind": ATTACHED, "owner": "dead", "state": SessionState.TERMINATED}),
        (True, {"kind": ATTACHED, "owner": "alive", "state": SessionState.DELETED}),
        (True, {"kind": DETACHED, "owner": "dead", "state": SessionState.DELETED}),
        (False, {"kind": ATTACHED, "owner": "alive"}),
        (False, {"kind": ATTACHED, "owner": "alive", "state": SessionState.TERMINATED}),
        (False, {"kind": ATTACHED, "owner": "dead", "keep": True}),
        (False, {"kind": ATTACHED, "owner": "dead", "keep": True, "state": SessionState.TERMINATED}),
        (False, {"kind": ATTACHED, "owner": ""}),
        (False, {"kind": DETACHED, "owner": "dead"}),
        (False, {"kind": DETACHED, "owner": "dead", "state": SessionState.EXPIRED}),
        (False, {"kind": DETACHED, "owner": "dead", "state": SessionState.TERMINATED}),
    ],
)
def test_only_what_is_surely_of_no_use_is_swept(
    monkeypatch: pytest.MonkeyPatch, dead: str, is_swept: bool, manifest: dict[str, Any]
) -> None:
    clock = FakeClock()
    words = {"dead": dead, "alive": this_process(), "": ""}
    rig = rig_of(clock, monkeypatch, **{**manifest, "owner": words[manifest["owner"]]})
    before = rig.objects.list(SESSIONS)
    sweep(rig.objects, clock)
    assert rig.objects.list(SESSIONS) == before  # a week to look at it
    age(clock)
    sweep(rig.objects, clock)
    assert rig.objects.list(SESSIONS) == ([] if is_swept else before)


def test_a_clock_that_is_wrong_costs_no_live_session(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    rig = rig_of(clock, monkeypatch, kind=ATTACHED, owner=this_process())
    before = rig.objects.list(SESSIONS)
    for years in (1, 10, 100, 1000):
        clock.advance(years * 366 * 86_400.0)
        sweep(rig.objects, clock)
    assert rig.objects.list(SESSIONS) == before


def test_what_cannot_be_read_is_left_alone_and_said_once(
    monkeypatch: pytest.MonkeyPatch, dead: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    rig = rig_of(clock, monkeypatch, kind=ATTACHED, owner=dead)
    odd = SessionKeys("20200101-000000-00000000").manifest
    rig.objects.put(odd, b"\xc1")
    age(clock)
    sweep(rig.objects, clock)
    sweep(rig.objects, clock)
    assert [line.key for line in rig.objects.list(SESSIONS)] == [odd]
    assert caplog.text.count("left alone") == 1


def test_each_run_is_bounded_and_by_lot_all_get_their_turn(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    clock = FakeClock()
    rig = rig_of(clock, monkeypatch, kind=DETACHED, owner=dead)
    store = rig.objects
    body = store.get(rig.keys.manifest)
    assert body is not None
    for i in range(300):
        store.put(SessionKeys(f"20200102-000000-{i:08x}").manifest, body.body)
    left_behind = rig_of(clock, monkeypatch, f"20200101-000000-{1:08x}", kind=ATTACHED, owner=dead)
    for line in left_behind.objects.list(SESSIONS):
        found = left_behind.objects.get(line.key)
        assert found is not None
        store.put(line.key, found.body)
    age(clock)
    asked: list[str] = []
    get = MemoryStore.get

    def counted(self: MemoryStore, key: str, **how: Any) -> Stored | None:
        asked.append(key)
        return get(self, key, **how)

    monkeypatch.setattr(MemoryStore, "get", counted)
    tidy = Sweep(store, clock)
    at_once = []
    while True:
        asked.clear()
        more = tidy.step()
        at_once.append(len(asked))
        if not more:
            break
    assert at_once[0] == 0
    assert max(at_once) <= 10
    assert sum(at_once) <= 110
    for _ in range(100):
        if not store.list(left_behind.keys.folder):
            break
        sweep(store, clock)
    assert not store.list(left_behind.keys.folder)


def test_a_store_that_does_not_answer_is_left_untidy(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    clock = FakeClock()
    rig = rig_of(clock, monkeypatch, kind=ATTACHED, owner=dead)
    age(clock)

    def locked(*_: object, **__: object) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(MemoryStore, "get", locked)
    tidy = Sweep(rig.objects, clock)
    assert tidy.step()
    assert not tidy.step()
    monkeypatch.setattr(MemoryStore, "list_folders", locked)
    assert not Sweep(rig.objects, clock).step()


# --- owners -----------------------------------------------------------------------------------------------------------


def changed(place: int, value: str) -> Callable[[str], str]:
    def change(words: str) -> str:
        fields = words.split("/")
        fields[place] = value
        return "/".join(fields)

    return change


def test_a_process_that_lives_is_not_gone_and_one_that_ended_is(dead: str) -> None:
    assert not is_gone(this_process())
    assert is_gone(dead)
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from starburst_executor.client.owner import *; print(this_process(), flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    words = child.stdout.readline().strip()
    assert not is_gone(words)
    child.kill()
    child.wait()
    assert is_gone(words)
    child.communicate()


@pytest.mark.parametrize(
    "change",
    [
        changed(0, "another-machine"),
        changed(2, str(os.getuid() + 1)),
        changed(3, "pid:[1]"),
        changed(4, ""),
        changed(4, "-1"),
        changed(4, "x"),
        lambda words: words + "/more",
        lambda words: words.rpartition("/")[0],
        lambda _: "",
        lambda _: "/////",
        lambda _: "\0" * 6,
    ],
)
def test_of_what_cannot_be_seen_from_here_nothing_is_believed(dead: str, change: Callable[[str], str]) -> None:
    assert not is_gone(change(dead))


def test_a_boot_ends_every_process_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = this_process()
    assert is_gone(changed(1, "an-older-boot")(mine))
    # Where the system has no boot id, only the start time distinguishes processes.
    assert not is_gone(changed(1, "")(mine))
    assert not is_gone(changed(1, "")(changed(0, "another-machine")(mine)))


def test_another_process_under_the_same_number_is_another_one() -> None:
    assert is_gone(changed(5, "12345")(this_process()))


def test_a_name_of_a_host_that_is_no_text_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starburst_executor.config.machine_boot", lambda: "h\udcff/boot")
    clock = FakeClock()
    rig = rig_of(clock, monkeypatch, kind=ATTACHED, owner=owner.this_process())
    assert rig.another().manifest.refresh().owner.startswith("h\udcff/boot/")


def test_what_is_open_elsewhere_in_a_real_folder(tmp_path: Path, dead: str) -> None:
    """The same by the embedded store: the file of a session that is gone is removed, and no other."""
    from starburst_executor.store.sqlite.store import SqliteStore

    clock = FakeClock()
    store = SqliteStore(tmp_path, clock=clock)
    store.create(SessionKeys(OLD).function("f"), b"late")
    (tmp_path / "20200101-000000-bbbbbbbb.db").mkdir()
    (tmp_path / "20200101-000000-cccccccc.db").write_bytes(b"torn" * 1000)
    (tmp_path / "20200101-000000-dddddddd.db").touch()
    age(clock)
    tidy = Sweep(store, clock)
    while tidy.step():
        pass
    store.close()
    assert sorted(path.name for path in tmp_path.glob("*.db")) == [
        "20200101-000000-bbbbbbbb.db",
        "20200101-000000-cccccccc.db",
        "20200101-000000-dddddddd.db",
    ]
