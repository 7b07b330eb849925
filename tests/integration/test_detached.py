"""`DetachedExecutor` end to end on both stores: left, found again, counted, changed, ended."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from starburst_executor import (
    ConfigError,
    DetachedExecutor,
    KeyNotFound,
    LaunchError,
    SessionExpired,
    SessionNotFound,
    Timings,
    VersionMismatch,
    config,
)
from starburst_executor.protocol.records import SessionState, WorkerState
from starburst_executor.session.beats import read_beats
from tests.sessions import (
    detached,
    is_alive,
    kill,
    launched_pids,
    run_python,
    timings_for,
    wait_until,
    worker_pids,
)
from tests.support.inside import key_of, parts_of, session_of, store_of
from tests.support.moto_server import ROOT


def square(x: int) -> int:
    return x * x


def fail_on_odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


def wait_for_file(path: str, value: int) -> int:
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return value


def test_leave_and_come_back(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with detached(store_url, workers=2) as executor:
        futures = [executor.submit(square, i) for i in range(30)]
        assert futures[3].result() == 9
    assert f"DetachedExecutor.reattach({executor.id!r})" in capsys.readouterr().err
    again = DetachedExecutor.reattach(executor.id)
    assert [future.index for future in again.futures] == list(range(30))
    assert sorted(future.result() for future in again.as_completed(timeout=60)) == [i * i for i in range(30)]
    assert again.futures[7] is again.futures[7]
    again.cleanup(force=True)


def test_leaving_by_an_exception_detaches_too(store_url: str) -> None:
    with pytest.raises(RuntimeError, match="oops"), detached(store_url, workers=1) as executor:  # noqa: PT012
        executor.submit(square, 5)
        raise RuntimeError("oops")
    again = DetachedExecutor.reattach(executor.url)
    assert again.futures[0].result(60) == 25
    again.cleanup(force=True)


def listed_epochs(executor: DetachedExecutor) -> list[tuple[int, int]]:
    return session_of(executor).manifest.refresh().open_epochs()


def test_looks_cost_nothing_for_the_clients_that_have_come_and_left(store_url: str, tmp_path: Path) -> None:
    executor = detached(store_url, workers=1)
    for i in range(4):
        assert executor.submit(square, i).result(60) == i * i
        # Its own epoch, and of those before it none.
        assert len(listed_epochs(executor)) == 1
        executor.detach()
        executor = DetachedExecutor.reattach(executor.id, store=store_url)
        assert listed_epochs(executor) == []
    # One that leaves work behind is listed until that is done, and no longer.
    left = executor.submit(wait_for_file, str(tmp_path / "go"), 7)
    executor.detach()
    executor = DetachedExecutor.reattach(executor.id, store=store_url)
    assert len(listed_epochs(executor)) == 1
    (tmp_path / "go").touch()
    assert executor.future_of(left.ordinal, left.index).result(60) == 7
    wait_until(lambda: listed_epochs(executor) == [])
    executor.cleanup(force=True)


def test_the_process_that_submitted_is_killed_and_another_gets_everything(store_url: str) -> None:
    code = textwrap.dedent(
        """
        import os, signal, sys, time
        from tests.sessions import detached
        def slow(i):
            time.sleep(0.02)
            return i * i
        executor = detached(sys.argv[1], workers=2)
        futures = [executor.submit(slow, i) for i in range(100)]
        executor.flush()
        print(executor.id, flush=True)
        futures[30].result()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    client = run_python(code, store_url)
    assert client.stdout is not None
    session_id = client.stdout.readline().strip()
    assert client.wait(60) == -signal.SIGKILL
    client.stdout.close()
    executor = DetachedExecutor.reattach(session_id, store=store_url)
    assert {future.index: future.result() for future in executor.as_completed(60)} == {i: i * i for i in range(100)}
    executor.cleanup(force=True)


def test_two_clients_submit_to_one_session_and_both_see_all(store_url: str) -> None:
    first = detached(store_url, workers=2)
    first.map(square, range(5))
    second = DetachedExecutor.reattach(first.url)
    mine = second.submit(square, 100)
    assert mine.task_id == "1-0"
    assert mine.result(60) == 10_000
    assert [future.task_id for future in first.futures] == ["0-0", "0-1", "0-2", "0-3", "0-4", "1-0"]
    outcomes = first.collect(wait=True, timeout=60)
    assert [outcome.value for outcome in outcomes] == [0, 1, 4, 9, 16, 10_000]
    assert first.status().completed == 6
    second.detach()
    first.cleanup(force=True)


def test_collect_gives_failures_beside_values_and_downloads_nothing_twice(store_url: str) -> None:
    executor = detached(store_url, workers=2)
    futures = [executor.submit(fail_on_odd, i) for i in range(6)]
    outcomes = executor.collect(wait=True, timeout=60)
    assert [(outcome.index, outcome.state, outcome.value) for outcome in outcomes] == [
        (i, "failed" if i % 2 else "completed", None if i % 2 else i) for i in range(6)
    ]
    assert isinstance(outcomes[1].error, ValueError)
    assert [future.done() for future in futures] == [True] * 6
    executor.detach()
    other = DetachedExecutor.reattach(executor.id)
    assert len(other.collect(wait=True, timeout=60)) == 6
    read = store_of(other).requests.snapshot()["get"]
    assert len(other.collect()) == 6
    assert len(other.collect(wait=True)) == 6
    assert store_of(other).requests.snapshot()["get"] == read
    other.cleanup(force=True)


def test_collect_without_waiting_gives_what_has_ended(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=1)
    assert executor.submit(square, 3).result(60) == 9
    executor.submit(wait_for_file, str(go), 7)
    assert [outcome.value for outcome in executor.collect()] == [9]
    assert [outcome.value for outcome in executor.collect(wait=True, timeout=0.2)] == [9]
    with pytest.raises(FutureTimeoutError):
        list(executor.as_completed(timeout=0.1))
    go.touch()
    assert [outcome.value for outcome in executor.collect(wait=True, timeout=60)] == [9, 7]
    executor.cleanup(force=True)


def test_retry_failed_opens_a_new_run(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def need(i: int) -> int:
        if i % 2 and not go.exists():
            raise FileNotFoundError(i)
        return i

    executor = detached(store_url, workers=2)
    old = [executor.submit(need, i) for i in range(6)]
    executor.collect(wait=True, timeout=60)
    go.touch()
    new = executor.retry_failed()
    assert [future.index for future in new] == [1, 3, 5]
    assert [future.run for future in new] == [2, 2, 2]
    assert [future.result(60) for future in new] == [1, 3, 5]
    assert isinstance(old[1].exception(), FileNotFoundError)
    assert [outcome.value for outcome in executor.collect()] == list(range(6))
    assert executor.status().failed == 0
    assert executor.retry_failed() == []
    executor.cleanup(force=True)


def test_status_counts_and_prints(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=2)
    done = [executor.submit(fail_on_odd, i) for i in range(4)]
    for future in done:
        future.exception(60)
    blocked = [executor.submit(wait_for_file, str(go), i) for i in range(2)]
    wait_until(lambda: all(future.running() for future in blocked))
    waiting = [executor.submit(square, i) for i in range(3)]
    executor.flush()  # what is cancelled before it is sent, and alone in its object, is stored nowhere
    assert waiting[2].cancel()
    wait_until(lambda: executor.status().running == 2)
    status = executor.status()
    assert (status.total, status.completed, status.failed, status.cancelled) == (9, 2, 2, 1)
    assert (status.pending, status.claimed, status.workers, status.slots) == (2, 2, 1, 2)
    assert "5 of 9 ended" in str(status)
    go.touch()
    executor.collect(wait=True, timeout=60)
    executor.cleanup(force=True)


def test_a_session_that_is_scaled_down_goes_on_without_a_client(store_url: str) -> None:
    """A worker on this machine has all slots, so for fewer another one is started. Who scales leaves once that one is there."""
    executor = DetachedExecutor(workers=4, store=store_url, timings=replace(timings_for(store_url), grace_s=0.5))
    futures = [executor.submit(time.sleep, 3600) for _ in range(20)]
    wait_until(lambda: sum(future.running() for future in futures) == 4)
    executor.detach()
    for n in (3, 1):
        command = [sys.executable, "-m", "starburst_executor.cli", "scale", executor.url, str(n)]
        subprocess.run(command, cwd=ROOT, check=True)
    watcher = DetachedExecutor.reattach(executor.url, launcher="none")
    wait_until(lambda: (watcher.status().slots, watcher.status().running) == (1, 1))
    watcher.cleanup(force=True)


def test_cancel_scale_and_cleanup(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=1)
    blocker = executor.submit(wait_for_file, str(go), 1)
    wait_until(blocker.running)
    futures = [executor.submit(square, i) for i in range(10)]
    assert executor.cancel() == 10
    assert all(future.cancelled() for future in futures)
    more = [executor.submit(square, i) for i in range(10)]
    executor.scale(3)
    assert [future.result(60) for future in more] == [i * i for i in range(10)]
    wait_until(lambda: executor.status().slots == 3)
    pids = worker_pids(executor)
    executor.cleanup()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert blocker.cancelled()
    again = DetachedExecutor.reattach(executor.id)
    assert again.status().state == "terminated"
    assert again.status().completed == 10
    with pytest.raises(RuntimeError, match="terminated"):
        again.submit(square, 1)
    store, folder = store_of(again), session_of(again).keys.folder
    again.cleanup(force=True)
    assert parts_of(again).state.ended.is_set()
    assert DetachedExecutor.list_sessions(store_url) == []
    assert store.url
    assert folder


def test_force_deletes_this_session_and_no_other(store_url: str) -> None:
    one, two = detached(store_url, workers=1), detached(store_url, workers=1)
    assert one.submit(square, 3).result(60) == 9
    assert two.submit(square, 4).result(60) == 16
    assert [summary.id for summary in DetachedExecutor.list_sessions(store_url)] == sorted([one.id, two.id])
    one.cleanup(force=True)
    [left] = DetachedExecutor.list_sessions(store_url)
    assert (left.id, left.state, left.n_tasks, left.n_ended) == (two.id, "open", 1, 1)
    assert left.created_at <= left.last_activity_at
    assert two.id in str(left)
    with pytest.raises(SessionNotFound, match=one.id):
        DetachedExecutor.reattach(one.id, store=store_url)
    assert two.submit(square, 5).result(60) == 25
    two.cleanup(force=True)


def test_a_client_that_is_attached_learns_that_the_session_was_deleted(store_url: str, tmp_path: Path) -> None:
    one = detached(store_url, workers=1)
    future = one.submit(wait_for_file, str(tmp_path / "never"), 1)
    wait_until(future.running)
    two = DetachedExecutor.reattach(one.url)
    two.cleanup(force=True)
    wait_until(future.done)
    assert future.cancelled() or isinstance(future.exception(), SessionNotFound)
    with pytest.raises((SessionNotFound, RuntimeError)):
        one.submit(square, 1).result(60)
    with suppress(SessionNotFound):  # it may have been on its way
        one.detach()
    assert not one.is_attached


def test_an_expired_session_can_be_read_and_takes_no_more(store_url: str, tmp_path: Path) -> None:
    executor = detached(store_url, workers=1, absolute_timeout=3600.0)
    assert executor.submit(square, 3).result(60) == 9
    stuck = executor.submit(wait_for_file, str(tmp_path / "never"), 1)
    wait_until(stuck.running)
    session = session_of(executor)
    soon = session.clock.now() + 0.5
    session.manifest.change(
        lambda manifest: None if manifest.deadline_at == soon else replace(manifest, deadline_at=soon)
    )
    assert isinstance(stuck.exception(60), SessionExpired)
    wait_until(lambda: executor.status().state == "expired")
    executor.detach()
    again = DetachedExecutor.reattach(executor.url)
    assert again.futures[0].result(60) == 9
    with pytest.raises(SessionExpired):
        again.submit(square, 1)
    with pytest.raises(SessionExpired):
        again.extend(60)
    again.cleanup(force=True)


def test_extend_adds_to_the_time_that_is_left(store_url: str) -> None:
    executor = detached(store_url, workers=1, absolute_timeout=1000.0)
    before = session_of(executor).manifest.refresh().deadline_at
    executor.extend(500)
    after = session_of(executor).manifest.refresh().deadline_at
    assert before is not None
    assert after == before + 500
    with pytest.raises(ConfigError, match="seconds=-1"):
        executor.extend(-1)
    executor.cleanup(force=True)


def test_futures_can_be_pickled_and_come_back_attached(store_url: str) -> None:
    executor = detached(store_url, workers=1)
    future = executor.submit(square, 6)
    executor.flush()
    copy = pickle.loads(pickle.dumps(future))
    assert copy.result(60) == 36
    assert (copy.index, copy.task_id) == (future.index, future.task_id)
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).result(60))"
    other = run_python(code, pickle.dumps(future).hex())
    assert other.communicate(timeout=60)[0] == "36\n"
    executor.cleanup(force=True)


def test_keys_missing_wrong_and_handed_over(store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executor = detached(store_url, workers=1)
    assert executor.submit(square, 3).result(60) == 9
    url, key = executor.url, key_of(executor).hex()
    executor.detach()
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(KeyNotFound, match="key file"):
        DetachedExecutor.reattach(url)
    with pytest.raises(KeyNotFound, match="not the one of this session") as caught:
        DetachedExecutor.reattach(url, key="ab" * 32)
    assert "ab" * 32 not in str(caught.value)
    with pytest.raises(SessionNotFound):
        DetachedExecutor.reattach(url.replace(executor.id, "20200101-000000-aaaaaaaa"), key=key)
    again = DetachedExecutor.reattach(url, key=key)
    assert again.futures[0].result(60) == 9
    again.cleanup(force=True)


def test_a_session_of_a_newer_format_is_refused(store_url: str) -> None:
    executor = detached(store_url, workers=1)
    session = session_of(executor)
    stored = session.store.get(session.keys.manifest)
    assert stored is not None
    record = msgpack.unpackb(stored.body)
    session.store.put(session.keys.manifest, msgpack.packb({**record, "format": 4}))
    with pytest.raises(VersionMismatch, match="format=4"):
        DetachedExecutor.reattach(executor.url)
    session.store.put(session.keys.manifest, stored.body)
    session.manifest.refresh()
    executor.cleanup(force=True)


def test_a_pickled_future_of_a_session_with_a_given_key(store_url: str) -> None:
    executor = detached(store_url, workers=1, key=bytes(range(32)))
    future = executor.submit(pow, 2, 5)
    pickled = pickle.dumps(future)
    assert pickle.loads(pickled) is future
    assert future.result(60) == 32
    executor.detach()
    assert pickle.loads(pickled).result(60) == 32, "the key is known here"
    code = textwrap.dedent(
        """
        import pickle, sys
        from starburst_executor import DetachedExecutor
        try:
            pickle.loads(bytes.fromhex(sys.argv[1]))
        except LookupError as error:
            print(error)
        with DetachedExecutor.reattach(sys.argv[2], key=bytes(range(32))):
            print(pickle.loads(bytes.fromhex(sys.argv[1])).result(60))
        """
    )
    other = run_python(code, pickled.hex(), executor.url)
    assert other.stdout is not None
    words, result = other.stdout.read().splitlines()
    assert f"first, by DetachedExecutor.reattach({executor.url!r}, key=...)" in words
    assert result == "32"
    assert other.wait(60) == 0
    other.stdout.close()
    DetachedExecutor.reattach(executor.url, key=bytes(range(32))).cleanup(force=True)


def test_another_python_is_refused_before_anything_is_unpickled(store_url: str) -> None:
    executor = detached(store_url, workers=1, launcher="none")
    executor.submit(square, 3)
    executor.flush()
    session = session_of(executor)
    session.manifest.change(lambda manifest: replace(manifest, python="2.7") if manifest.python != "2.7" else None)
    with pytest.raises(VersionMismatch, match=r"session=2\.7"):
        DetachedExecutor.reattach(executor.url)
    worker = subprocess.run(
        [sys.executable, "-m", "starburst_executor.worker", executor.url, "--slots", "1"],
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=False,
    )  # fmt: skip
    assert worker.returncode == 3
    assert "VersionMismatch" in worker.stderr
    executor.cleanup(force=True)


def test_an_expired_session_without_workers_is_ended_by_its_clients(store_url: str) -> None:
    executor = detached(store_url, workers=1, launcher="none", absolute_timeout=1.0)
    future = executor.submit(square, 3)
    assert isinstance(future.exception(60), SessionExpired)
    executor.cleanup(force=True)


def test_a_worker_started_by_hand_takes_part(store_url: str) -> None:
    executor = detached(store_url, workers=1, launcher="none")
    futures = [executor.submit(pow, i, 2) for i in range(10)]
    executor.flush()
    worker = run_python(
        "import sys; from starburst_executor.worker.__main__ import main; sys.exit(main(sys.argv[1:]))",
        executor.url, "--slots", "2",
    )  # fmt: skip
    assert [future.result(60) for future in futures] == [i * i for i in range(10)]
    worker.terminate()
    assert worker.wait(60) == 0
    assert worker.stdout is not None
    worker.stdout.close()
    executor.cleanup(force=True)


def test_sigterm_drains_a_worker_and_its_tasks_go_on_elsewhere(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=2)
    futures = [executor.submit(wait_for_file, str(go), i) for i in range(4)]
    wait_until(lambda: executor.status().running == 2)
    [pid] = worker_pids(executor)
    kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid))
    go.touch()
    assert [future.result(60) for future in futures] == [0, 1, 2, 3]
    losses = [
        entry.losses
        for group in session_of(executor).statuses.all()
        for entry in session_of(executor).statuses.read(group.key).status.entries
    ]
    assert losses == [0, 0, 0, 0]
    executor.cleanup(force=True)


def test_idle_workers_leave_and_come_back_when_there_is_work(store_url: str) -> None:
    timings = replace(timings_for(store_url), idle_exit_s=0.5)
    executor = DetachedExecutor(workers=1, store=store_url, timings=timings)
    assert executor.submit(square, 3).result(60) == 9
    # More than one, if the first had nothing to do for as long before the task was stored.
    pids = launched_pids(executor)
    wait_until(lambda: not any(map(is_alive, pids)))
    assert executor.submit(square, 4).result(60) == 16
    executor.cleanup(force=True)


def beat_states(executor: DetachedExecutor) -> dict[str, WorkerState]:
    return {beat.worker_id: beat.state for beat, _ in read_beats(session_of(executor))}


def is_done_with_no_client_that_starts_workers(session_id: str, store_url: str) -> None:
    watcher = DetachedExecutor.reattach(session_id, store=store_url, launcher="none")
    wait_until(lambda: (status := watcher.status()).completed == status.total)
    watcher.detach()


def test_work_that_is_left_while_the_last_worker_leaves_is_done(store_url: str) -> None:
    """It is submitted right after the worker's beat says that it goes: the worker may have looked for the last time."""
    executor = DetachedExecutor(workers=1, store=store_url, timings=replace(timings_for(store_url), idle_exit_s=0.5))
    for trial in range(2):
        # Known before this trial's worker starts: it may have left by the time of the next look.
        gone = {worker_id for worker_id, state in beat_states(executor).items() if state == WorkerState.LEFT}
        executor.submit(square, trial).result(60)
        while not any(
            state in (WorkerState.LEAVING, WorkerState.LEFT)
            for worker_id, state in beat_states(executor).items()
            if worker_id not in gone
        ):
            pass  # the moment is short
        executor.submit(square, trial)
        executor.detach()
        is_done_with_no_client_that_starts_workers(executor.id, store_url)
        executor = DetachedExecutor.reattach(executor.id, store=store_url)
    executor.cleanup(force=True)


def test_work_that_is_left_while_the_last_worker_drains_is_done(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=1)
    blocker = executor.submit(wait_for_file, str(go), 1)
    wait_until(blocker.running)
    [pid] = worker_pids(executor)
    kill(pid, signal.SIGTERM)
    # On a busy machine its grace time may be over when it is next looked at.
    wait_until(lambda: {WorkerState.LEAVING, WorkerState.LEFT} & set(beat_states(executor).values()))
    executor.submit(square, 3)
    executor.detach()
    go.touch()
    is_done_with_no_client_that_starts_workers(executor.id, store_url)
    DetachedExecutor.reattach(executor.id, store=store_url).cleanup(force=True)


def test_leaving_work_to_a_busy_worker_of_this_machine_takes_no_beat(tmp_path: Path) -> None:
    go, store_url = tmp_path / "go", f"sqlite://{tmp_path}/sessions"
    # A minute passes between two beats, and so does not pass here, however busy the machine is.
    executor = DetachedExecutor(workers=1, store=store_url, timings=replace(Timings.embedded(), beat_s=60.0))
    blocker = executor.submit(wait_for_file, str(go), 1)
    wait_until(blocker.running)
    executor.submit(square, 3)
    executor.flush()
    began = time.monotonic()
    executor.detach()
    assert time.monotonic() - began < 30
    go.touch()
    DetachedExecutor.reattach(executor.id, store=store_url).cleanup(force=True)


def test_workers_that_cannot_start_become_an_error(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starburst_executor.launch.local.agents._START", "raise SystemExit('no such luck')")
    executor = detached(store_url, workers=1)
    future = executor.submit(square, 3)
    error = future.exception(60)
    assert "no such luck" in str(error)
    with pytest.raises((LaunchError, Exception), match="no worker could be started"):
        executor.submit(square, 4).result(60)
    wait_until(lambda: session_of(executor).manifest.refresh().state == SessionState.BROKEN)
    executor.cleanup(force=True)


def test_several_processes_reattach_at_once(store_url: str) -> None:
    executor = detached(store_url, workers=2)
    executor.map(square, range(50))
    executor.flush()
    code = (
        "import sys; from starburst_executor import DetachedExecutor\n"
        "executor = DetachedExecutor.reattach(sys.argv[1])\n"
        "print(sum(future.result() for future in executor.as_completed(60)))"
    )
    others = [run_python(code, executor.url) for _ in range(3)]
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda o=other: results.append(o.communicate(timeout=100)[0])) for other in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [f"{sum(i * i for i in range(50))}\n"] * 3
    executor.cleanup(force=True)


def test_a_detached_worker_outlives_its_terminal(store_url: str) -> None:
    executor = detached(store_url, workers=1)
    assert executor.submit(square, 3).result(60) == 9
    [pid] = worker_pids(executor)
    assert os.getsid(pid) == pid != os.getsid(0)
    executor.cleanup(force=True)
    wait_until(lambda: not is_alive(pid))


# --- futures of an executor that has left -----------------------------------------------------------------------------


def end(session_id: str, store_url: str) -> None:
    DetachedExecutor.reattach(session_id, store=store_url).cleanup(force=True)


def client_threads(before: set[threading.Thread]) -> list[str]:
    """Names of the threads of clients, but for those that were there before."""
    return [one.name for one in set(threading.enumerate()) - before if one.name.startswith("starburst-")]


def test_futures_of_an_executor_that_has_left_get_their_outcomes(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with detached(store_url, workers=2) as executor:
        one, failing, two, called, awaited, cancelled = (
            executor.submit(wait_for_file, str(go), 1),
            executor.submit(fail_on_odd, 3),
            executor.submit(wait_for_file, str(go), 2),
            executor.submit(square, 4),
            executor.submit(square, 5),
            executor.submit(wait_for_file, str(go), 6),
        )
        early: list[Future[int]] = []
        called.add_done_callback(early.append)
    assert not executor.is_attached
    with pytest.raises(FutureTimeoutError):
        one.result(0.01)
    assert cancelled.cancel() or cancelled.running()
    late: list[Future[int]] = []
    two.add_done_callback(late.append)
    go.touch()
    wait_until(one.done)  # nothing but `done` asks for it
    assert one.result() == 1
    assert isinstance(failing.exception(60), ValueError)
    wait_until(lambda: early == [called] and late == [two])

    async def both() -> list[int]:
        return await asyncio.gather(*map(asyncio.wrap_future, (awaited, two)))

    assert asyncio.run(both()) == [25, 2]
    assert wait([one, two, failing, called, awaited], timeout=60).not_done == set()
    assert len(list(as_completed([one, cancelled], timeout=60))) == 2
    assert len(executor.collect(wait=True, timeout=60)) == 6
    end(executor.id, store_url)


def test_a_thread_that_waits_while_its_executor_leaves_gets_its_result(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    results: list[int] = []
    with detached(store_url, workers=2) as executor:
        futures = [executor.submit(wait_for_file, str(go), i) for i in range(2)]
        threads = [
            threading.Thread(target=lambda: results.append(futures[0].result())),
            threading.Thread(target=lambda: results.extend(f.result() for f in as_completed(futures[1:]))),
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(future.is_asked_for() for future in futures))
    go.touch()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [0, 1]
    end(executor.id, store_url)


@pytest.mark.parametrize("leave", ["shutdown", "garbage"])
def test_futures_outlive_an_executor_that_leaves_in_the_background(store_url: str, leave: str) -> None:
    before = set(threading.enumerate())
    executor = detached(store_url, workers=1)
    session_id = executor.id
    future = executor.submit(square, 7)
    if leave == "shutdown":
        executor.shutdown(wait=False)
    del executor
    gc.collect()
    wait_until(lambda: "starburst-keep" not in client_threads(before))
    assert future.result(60) == 49
    end(session_id, store_url)


def test_a_client_that_came_back_for_a_future_leaves_again(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starburst_executor.client.returning._LINGER_S", 0.2)
    before = set(threading.enumerate())
    with detached(store_url, workers=1) as executor:
        future = executor.submit(square, 8)
    assert future.result(60) == 64
    wait_until(lambda: client_threads(before) == [])
    end(executor.id, store_url)


def test_dead_workers_are_replaced_for_a_future_of_an_executor_that_has_left(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with detached(store_url, workers=1) as executor:
        future = executor.submit(wait_for_file, str(go), 9)
        wait_until(future.running)
    for pid in worker_pids(executor):
        kill(pid)
    go.touch()
    assert future.result(60) == 9
    end(executor.id, store_url)


def test_a_future_whose_session_was_deleted_after_leaving_says_so(store_url: str, tmp_path: Path) -> None:
    with detached(store_url, workers=1) as executor:
        future = executor.submit(wait_for_file, str(tmp_path / "never"), 1)
    end(executor.id, store_url)
    assert isinstance(future.exception(60), SessionNotFound)


def test_a_forked_child_hears_that_the_future_is_its_parents(tmp_path: Path) -> None:
    store_url = f"sqlite://{tmp_path}/sessions"
    code = textwrap.dedent(
        """
        import os, sys, time
        from starburst_executor import ExecutorBroken
        from tests.sessions import detached
        executor = detached(sys.argv[1], workers=1)
        future = executor.submit(time.sleep, 2)
        if os.fork() == 0:
            try:
                future.result(60)
            except ExecutorBroken:
                os._exit(7)
            os._exit(1)
        print(os.waitstatus_to_exitcode(os.wait()[1]), future.result(60), flush=True)
        executor.cleanup(force=True)
        """
    )
    assert run_python(code, store_url).communicate(timeout=100)[0] == "7 None\n"


@pytest.mark.parametrize("waits", ["in the block", "after the block"])
def test_a_thread_that_outlives_the_main_one_gets_its_result_or_an_error(tmp_path: Path, waits: str) -> None:
    """The interpreter waits for such threads: one that waited for ever would never let it end."""
    store_url = f"sqlite://{tmp_path}/sessions"
    code = textwrap.dedent(
        """
        import sys, threading, time
        from tests.sessions import detached
        def ask():
            if sys.argv[2] == "after the block":
                threading.main_thread().join()
            try:
                print(future.result(60), flush=True)
            except RuntimeError as error:
                print("reattach" in str(error), flush=True)
        executor = detached(sys.argv[1], workers=1)
        future = executor.submit(time.sleep, 1)
        threading.Thread(target=ask).start()
        if sys.argv[2] == "after the block":
            executor.detach()
        print(executor.id, flush=True)
        """
    )
    program = run_python(code, store_url, waits)
    session_id, told = program.communicate(timeout=100)[0].split()
    assert program.returncode == 0
    # From Python 3.12 on an interpreter that ends starts no more threads.
    assert told == "None" or (sys.version_info >= (3, 12) and told == "True")
    end(session_id, store_url)


# --- workers that were killed -----------------------------------------------------------------------------------------


def logs_of(session_id: str) -> list[Path]:
    return list(config.log_folder().glob(f"*{session_id}*"))


@pytest.mark.parametrize("launcher", [None, "none"])
def test_killed_workers_of_this_machine_are_known_at_once_to_a_new_client(
    store_url: str, launcher: str | None, tmp_path: Path
) -> None:
    """With the default timings a worker counts as lost after a minute."""
    default = Timings.embedded() if store_url.startswith("sqlite") else Timings.remote()
    executor = DetachedExecutor(workers=1, store=store_url, timings=replace(default, poll_max_s=0.2, bell_max_s=0.3))
    blocked = executor.submit(wait_for_file, str(tmp_path / "never"), 1)
    wait_until(blocked.running)
    [first] = worker_pids(executor)
    kill(first)
    # Another one is started, and its handle takes the place of that of the first.
    wait_until(lambda: worker_pids(executor) not in ([], [first]))
    [second] = worker_pids(executor)
    wait_until(lambda: len(beat_states(executor)) == 2)
    executor.detach()
    kill(second)
    wait_until(lambda: not is_alive(second))
    client = DetachedExecutor.reattach(executor.id, store=store_url, launcher=launcher)
    assert client.status().workers == 0
    assert logs_of(executor.id)
    began = time.monotonic()
    client.cleanup(force=True)
    assert time.monotonic() - began < default.look_s
    assert logs_of(executor.id) == []


def test_tasks_of_a_killed_worker_go_back_at_once_also_with_another_launcher(tmp_path: Path) -> None:
    store_url, go = f"sqlite://{tmp_path}/sessions", tmp_path / "go"
    with DetachedExecutor(workers=1, store=store_url) as executor:
        future = executor.submit(wait_for_file, str(go), 1)
        wait_until(future.running)
        [pid] = worker_pids(executor)
    watcher = DetachedExecutor.reattach(executor.id, store=store_url, launcher="none")
    assert not watcher.futures[0].done()
    kill(pid)
    wait_until(lambda: watcher.status().pending == 1, Timings.embedded().look_s)
    watcher.cleanup(force=True)
