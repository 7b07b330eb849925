"""What tasks print is captured, belongs to the right task, is bounded, and is shown once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from starburst_executor.worker.runner import capture
from starburst_executor.worker.runner.capture import CapturedStream
from starburst_executor.worker.runner.jobs import each_event
from starburst_executor.worker.runner.screen import Screen
from tests.support.runner_rig import Rig, death, finished, value_of, wait_until


def test_output_belongs_to_the_task_that_made_it() -> None:
    def talk(i: int) -> None:
        if i % 2:
            print("task", i)
            print("error", i, file=sys.stderr, end="")

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, talk, *((i,) for i in range(50)))
        for i, event in enumerate(finished(runner, 50)):
            expected = (f"task {i}\n".encode(), f"error {i}".encode()) if i % 2 else (b"", b"")
            assert (event.stdout, event.stderr) == expected


def test_output_below_python_is_captured_too() -> None:
    def talk() -> None:
        print("print")
        os.write(1, b"write\n")
        subprocess.run(["sh", "-c", "echo child; echo oops >&2"], check=True)

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, talk, ())
        (event,) = finished(runner, 1)
        assert (event.stdout, event.stderr) == (b"print\nwrite\nchild\n", b"oops\n")


def test_output_goes_to_a_nameless_file_where_memory_files_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, print, ("one",), ("two",))
        assert [event.stdout for event in finished(runner, 2)] == [b"one\n", b"two\n"]


def test_the_initializers_output_is_not_the_first_tasks() -> None:
    with Rig() as rig:
        runner = rig.spawn(lambda: print("initializing"))
        rig.send(runner, lambda: print("task"), ())
        assert finished(runner, 1)[0].stdout == b"task\n"


def test_output_is_taken_once_also_if_a_task_has_ended_before_the_runner_is_known_to_be_ready(tmp_path: Path) -> None:
    def talk() -> None:
        print("once")
        (tmp_path / "done").touch()

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, talk, ())
        rig.send(runner, abs, (-1,))
        wait_until((tmp_path / "done").exists)
        for _ in range(100):  # as the listening thread does while nothing is to be read
            with runner._lock:
                runner._look()
        rig.send(runner, print, ("twice",))
        assert [event.stdout for event in finished(runner, 3)] == [b"once\n", b"", b"twice\n"]


def test_a_closed_or_replaced_stdout_does_no_harm() -> None:
    def close() -> None:
        sys.stdout.close()
        os.close(1)

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, close, ())
        value_of(*finished(runner, 1))
        assert rig.run(runner, abs, -1) == 1


def test_output_behind_a_replaced_descriptor_belongs_to_its_task() -> None:
    """What a task leaves at descriptor 1 may be as long as the output was, such as a device without a length."""

    def replace() -> None:
        os.dup2(1, 190)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, replace, ())
        rig.send(runner, os.write, (190, b"late"))
        rig.send(runner, abs, (-1,))
        assert [event.stdout for event in finished(runner, 3)] == [b"", b"late", b""]


def test_what_a_task_leaves_at_a_descriptor_stays_also_if_it_is_the_other_stream() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, os.dup2, (2, 1))
        rig.send(runner, os.write, (1, b"to both"))
        _, event = finished(runner, 2)
        assert (event.stdout, event.stderr) == (b"", b"to both")


def test_last_words_of_a_killed_task_are_read(tmp_path: Path) -> None:
    def talk() -> None:
        print("so far")
        (tmp_path / "talked").touch()
        threading.Event().wait()

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, lambda: print("another task's"), ())
        finished(runner, 1)
        rig.send(runner, talk, ())
        wait_until((tmp_path / "talked").exists)
        runner.kill()
        assert death(runner)[1].stdout == b"so far\n"


def test_long_output_keeps_its_ends() -> None:
    with Rig(capture_bytes=1000) as rig:
        runner = rig.spawn()
        rig.send(runner, lambda: os.write(1, b"a" * 700 + b"b" * 10_000 + b"c" * 700), ())
        rig.send(runner, lambda: os.write(1, b"x" * 1000), ())
        first, second = finished(runner, 2)
        assert first.stdout == b"a" * 500 + "\n… 10,400 bytes omitted …\n".encode() + b"c" * 500
        assert second.stdout == b"x" * 1000


def test_endless_output_does_not_fill_the_disk() -> None:
    total_bytes = 600_000_000

    def talk() -> None:
        os.write(1, b"first")
        for _ in range(total_bytes // 1_000_000):
            os.write(1, b"-" * 1_000_000)
        os.write(1, b"last")

    with Rig(capture_bytes=1000) as rig:
        runner = rig.spawn()
        rig.send(runner, talk, ())
        most_bytes = 0
        ended: list[object] = []
        while not ended:
            ended += each_event(runner.poll(0.01))
            most_bytes = max(most_bytes, os.fstat(runner._streams[0].fd).st_blocks * 512)
        rig.send(runner, lambda: print("the next"), ())
        (following,) = finished(runner, 1)
        (event,) = ended
        text = event.stdout  # type: ignore[attr-defined]
        assert text.startswith(b"first---")
        assert text.endswith(b"---last")
        assert f"… {total_bytes + 9 - 1000:,} bytes omitted …".encode() in text
        assert most_bytes < total_bytes / 2
        assert os.fstat(runner._streams[0].fd).st_blocks * 512 < 2_000_000
        assert following.stdout == b"the next\n"


_TEE = """
import sys
from starburst_executor.protocol import calls
from starburst_executor.worker.runner.jobs import Job, each_event
from starburst_executor.worker.runner.spawn import Nursery

def talk(i):
    import os, sys, time
    print("begin", i)
    sys.stdout.write("no end")
    sys.stdout.flush()
    if i == 0:
        sys.stdin_closed = os.path.exists(PATH) or None
        while not os.path.exists(PATH):
            time.sleep(0.002)
    print(" end", i)
    print("error", i, file=sys.stderr)

PATH = sys.argv[1]
nursery = Nursery.start(session_id="s", sys_path=[], tee=True)
runner = nursery.spawn()
runner.send([Job(i + 1, 0, i, 1, "f", calls.dump_call((i,), {})) for i in range(3)], {"f": calls.dump_function(talk)})
n = 0
while n < 3:
    n += len(list(each_event(runner.poll(10))))
nursery.close()
nursery.stdout.drain(10)
nursery.stderr.drain(10)
"""


def test_tee_shows_lines_while_the_task_runs_and_nothing_twice(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with subprocess.Popen(
        [sys.executable, "-c", _TEE, str(go)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "begin 0\n"
        go.touch()
        stdout, stderr = agent.communicate(timeout=30)
    assert stdout == "no end end 0\nbegin 1\nno end end 1\nbegin 2\nno end end 2\n"
    assert stderr == "error 0\nerror 1\nerror 2\n"


# ------------------------------------------------------------------------------------------------ one stream by itself


@pytest.fixture
def stream() -> CapturedStream:
    return CapturedStream(keep_bytes=100)


def test_offsets_decide_what_is_whose(stream: CapturedStream) -> None:
    os.write(stream.fd, b"onetwothree")
    assert [stream.take(3), stream.take(3), stream.take(6), stream.take()] == [b"one", b"", b"two", b"three"]
    stream.close()
    stream.close()


def test_a_boundary_inside_what_was_dropped_still_counts_right(stream: CapturedStream) -> None:
    stream._limit_bytes = 1_000_000
    os.write(stream.fd, b"a" * 2_000_000 + b"b" * 2_000_000)
    stream.watch()
    first, second = stream.take(2_000_000), stream.take(4_000_000)
    assert first == b"a" * 50 + "\n… 1,999,950 bytes omitted …\n".encode()
    assert second.endswith(b"b" * 50)
    assert second.startswith("\n… 1,999,950 bytes omitted …\n".encode())
    stream.close()


def test_without_holes_nothing_is_lost(stream: CapturedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "punch", lambda *_: False)
    os.write(stream.fd, b"a" * 20_000_000)
    stream.watch()
    assert len(stream.take()) < 200
    os.write(stream.fd, b"next")
    assert stream.take() == b"next"
    stream.close()


def test_a_file_that_user_code_truncated_goes_on(stream: CapturedStream) -> None:
    os.write(stream.fd, b"long text")
    assert stream.take(9) == b"long text"
    os.ftruncate(stream.fd, 0)
    os.write(stream.fd, b"new")
    stream.take(3)
    os.write(stream.fd, b"er")
    assert stream.take(5) == b"er"
    stream.close()


def test_a_reader_that_went_away_stops_the_showing_only() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    screen = Screen(writer)
    stream = CapturedStream(keep_bytes=100, screen=screen)
    for _ in range(2):
        os.write(stream.fd, b"text\n")
        stream.watch()
        assert stream.take() == b"text\n"
        assert screen.drain(30)
    os.close(writer)
    stream.close()


# ------------------------------------------------------------------------------------ a screen at which no reader looks


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_all(fd: int, until: bytes) -> bytes:
    text = b""
    while not text.endswith(until):
        text += os.read(fd, 2**20)
    return text


def test_a_screen_that_is_not_read_keeps_its_writer_waiting_for_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    screen = Screen(writer)
    lines = [f"{i:07}".encode() * 10_000 + b"\n" for i in range(300)]  # 21 MB
    for line in lines:
        screen.write(line)
    assert not screen.drain(0.01)
    text = read_all(reader, b"read \xe2\x80\xa6\n")
    n_whole = len(text) // len(lines[0])
    assert 200 < n_whole < 250
    shown = b"".join(lines[:n_whole])
    assert text.startswith(shown)
    n_dropped = sum(map(len, lines[n_whole:]))
    assert text[len(shown) :].decode() == f"… {n_dropped:,} bytes not shown: they came faster than they were read …\n"
    screen.write(b"next\n")
    assert read_all(reader, b"next\n") == b"next\n"
    assert screen.drain(30)


def test_a_screen_whose_file_another_program_made_non_blocking_shows_all(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    screen = Screen(writer)
    screen.write(b"x" * 1_000_000 + b"\n")
    assert len(read_all(reader, b"\n")) == 1_000_001


def test_a_stream_whose_screen_is_not_read_is_captured_and_bounded(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    stream = CapturedStream(keep_bytes=100, screen=Screen(writer))
    for _ in range(50):
        os.write(stream.fd, b"x" * 999_999 + b"\n")
        stream.watch()
        assert os.fstat(stream.fd).st_blocks * 512 < 18_000_000
    assert stream.take().endswith(b"x" * 49 + b"\n")
    stream.close()
