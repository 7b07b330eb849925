"""Shared values between the store and a worker's files: stored once, read once, verified, removed when they are not needed."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from starburst_executor import SharedRef
from starburst_executor.errors import LaunchError, PayloadError, RecordInvalid
from starburst_executor.protocol.pieces import Shared
from starburst_executor.session import shared
from starburst_executor.worker import code_root
from starburst_executor.worker.code_root import WorkerFolder
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.jobs import Job
from starburst_executor.worker.runner.outgoing import Outgoing
from starburst_executor.worker.shared_values import SharedValues
from tests.support.session_rig import Rig

PART = 1_000
VALUE = b"".join(bytes([i % 251]) * 10 for i in range(1_000))


class Stage:
    def __init__(self, *, keep_bytes: int = 2**20) -> None:
        self.rig = Rig()
        self.folder = WorkerFolder(code_root.new_name())
        self.values = SharedValues(self.rig.session, self.folder, keep_bytes=keep_bytes)

    def put(self, value: object = VALUE) -> SharedRef:
        return shared.put(self.rig.session, value, lambda ref: shared.delete(self.rig.session, ref), part_bytes=PART)

    def keys(self) -> list[str]:
        return [line.key for line in self.rig.objects.list(f"{self.rig.keys.folder}shared/")]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stage = Stage(keep_bytes=15_000)
    yield stage
    stage.folder.close()
    assert list(tmp_path.iterdir()) == []


def named(ref: SharedRef) -> Shared:
    return Shared(ref.session_id, bytes.fromhex(ref.name), ref.n_bytes, ref.part_bytes)


def test_a_value_is_stored_once_in_parts_and_read_once_by_all_threads_of_a_worker(stage: Stage) -> None:
    ref = stage.put()
    assert len(stage.keys()) == ref.n_parts == 11
    with stage.rig.requests() as n:
        assert stage.put() == ref
    assert n["create"] == 0
    gate = threading.Barrier(4)

    def get(_: int) -> object:
        gate.wait()
        return stage.values.get(named(ref))

    with stage.rig.requests() as n, ThreadPoolExecutor(4) as pool:
        files = set(pool.map(get, range(4)))
    assert n["get"] == 11
    (file,) = files
    assert VALUE in file.path.read_bytes()  # type: ignore[attr-defined]
    assert file.path.stat().st_size == ref.n_bytes  # type: ignore[attr-defined]


def test_a_put_that_was_interrupted_is_completed_by_the_next(stage: Stage) -> None:
    ref = stage.put()
    stage.rig.objects.delete(stage.keys()[3:7])
    with stage.rig.requests() as n:
        stage.put()
    assert n["create"] == 4
    assert VALUE in stage.values.get(named(ref)).path.read_bytes()


def test_a_deleted_value_and_one_of_another_session_say_so(stage: Stage) -> None:
    ref = stage.put()
    with pytest.raises(PayloadError, match="used in a-session"):
        stage.values.get(named(ref)._replace(session_id="another"))
    ref.delete()
    assert stage.keys() == []
    with pytest.raises(PayloadError, match=r"deleted by `ref\.delete\(\)`"):
        stage.values.get(named(ref))
    # The failed reading left no file, and nothing that would block a later one.
    stage.put()
    assert VALUE in stage.values.get(named(ref)).path.read_bytes()


def test_parts_that_were_changed_moved_or_cut_are_refused(stage: Stage) -> None:
    ref = stage.put()
    first, second, *_ = stage.keys()
    body = stage.rig.objects.get(first).body
    for wrong in (body[:-1], body[:-1] + b"!", stage.rig.objects.get(second).body):
        stage.rig.objects.put(first, wrong)
        with pytest.raises(RecordInvalid):
            stage.values.get(named(ref))
    stage.rig.objects.put(first, body)
    stage.values.get(named(ref))


def test_the_least_recently_used_file_goes_unless_it_is_in_use(stage: Stage) -> None:
    refs = [stage.put(VALUE + bytes([i])) for i in range(3)]
    held = stage.values.get(named(refs[0]))
    for ref in refs[1:]:
        stage.values.get(named(ref))
    gc.collect()
    assert stage.values.get(named(refs[0])) is held
    again = stage.values.get(named(refs[1]))  # it was dropped for the third
    stage.values.get(named(stage.put(b"another")))
    there = sorted(path.name for path in stage.folder.path().iterdir())
    assert held.path.name in there
    assert again.path.name in there
    assert len(there) < 5


def test_a_full_disk_is_the_workers_trouble_not_the_tasks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = stage.put()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", full)
        with pytest.raises(LaunchError, match=r"No space left.*TMPDIR"):
            stage.values.get(named(ref))
    assert stage.values.get(named(ref)).path.exists()


class Frames:
    """An outbox that keeps the heads of its frames."""

    def __init__(self) -> None:
        self.heads: list[list[object]] = []

    def add(self, head: list[object], _payload: bytes, *, jobs: Sequence[range] = ()) -> None:
        self.heads.append([wire.JOBS, [*chain(*jobs)]] if head[0] == wire.JOBS else head[:3])


def test_a_runner_gets_each_path_before_the_first_job_that_needs_it_and_again_when_it_has_changed() -> None:
    frames = Frames()
    outgoing = Outgoing(frames)  # type: ignore[arg-type]  # a fake
    a, b = ("a", "/1", 6 * 2**29), ("b", "/2", 10)
    calls = [(a,), (a, b), (), (("b", "/3", 10),), (a,)]
    jobs = [Job(i, 0, i, 1, "f", b"c", (), needed) for i, needed in enumerate(calls, 1)]
    outgoing.add(jobs, {"f": b"function"})
    assert frames.heads == [
        [wire.FUNCTION, "f"],
        [wire.SHARED, "a", "/1"],
        [wire.JOBS, [1]],
        [wire.SHARED, "b", "/2"],
        [wire.JOBS, [2, 3]],
        [wire.FORGET_SHARED, "a"],
        [wire.SHARED, "b", "/3"],
        [wire.JOBS, [4]],
        [wire.FORGET_SHARED, "b"],
        [wire.SHARED, "a", "/1"],
        [wire.JOBS, [5]],
    ]
