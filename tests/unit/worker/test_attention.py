"""What quick tasks leave is noticed, though the system is not asked after each of them: `worker/runner/attention.py`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from starburst_executor.worker.runner.attention import Attention
from starburst_executor.worker.runner.handle import Runner
from tests.support.runner_rig import Rig, finished, value_of, wait_until

# Where in its neighbours a task behaves otherwise: when its function is trusted, and not at the end.
N, ODD = 400, 300


def _calm(attention: Attention, digest: str = "f") -> Attention:
    attention.function(digest)
    for _ in range(8):
        assert not attention.is_calm
        attention.looked(has_found=False)
    assert attention.is_calm
    return attention


def test_a_function_is_trusted_when_several_of_its_tasks_have_left_nothing() -> None:
    attention = _calm(Attention())
    attention.function("f")
    assert attention.is_calm  # another frame of its jobs
    attention.looked(has_found=False)
    assert attention.is_calm
    _calm(attention, "g")
    attention.function("f")
    assert not attention.is_calm


def test_what_is_noticed_is_looked_at_and_costs_the_trust_for_a_while() -> None:
    attention = _calm(Attention())
    attention.disturb()
    assert not attention.is_calm
    attention.looked(has_found=True)
    _calm(attention)
    attention.disturb()
    attention.looked(has_found=False)
    _calm(attention)


def test_a_function_that_leaves_something_unnoticed_is_never_trusted_again() -> None:
    attention = _calm(Attention())
    attention.looked(has_found=True)
    _calm(attention, "g")
    attention.function("f")
    for _ in range(100):
        attention.looked(has_found=False)
        assert not attention.is_calm


def test_text_belongs_to_the_quick_task_that_wrote_it() -> None:
    def talk(i: int) -> None:
        if i == ODD:
            print("a line")
        if i == ODD + 20:
            print("part of a line", end="")
        if i == ODD + 40:
            sys.stderr.writelines(["an ", "error"])

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, talk, *((i,) for i in range(N)))
        texts = {i: (end.stdout, end.stderr) for i, end in enumerate(finished(runner, N)) if end.stdout or end.stderr}
    assert texts == {ODD: (b"a line\n", b""), ODD + 20: (b"part of a line", b""), ODD + 40: (b"", b"an error")}


def test_text_that_bypasses_the_streams_is_shown_once_and_then_noticed_at_once() -> None:
    def talk(i: int) -> None:
        if i in (ODD, ODD + 50):
            os.write(1, b"%d\n" % i)

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, talk, *((i,) for i in range(N)))
        texts = [(i, end.stdout) for i, end in enumerate(finished(runner, N)) if end.stdout]
        # After the last task there may be no look any more: then it is shown with the next one.
        rig.send(runner, abs, (-1,))
        texts += [(N, end.stdout) for end in finished(runner, 1) if end.stdout]
    written = b"%d\n%d\n" % (ODD, ODD + 50)
    assert b"".join(text for _, text in texts) == written
    if len(texts) == 2:
        assert ODD <= texts[0][0] < ODD + 50
        assert texts[1][0] == ODD + 50


def _leave_by_chdir() -> None:
    os.chdir("/")


def _leave_by_fchdir() -> None:
    fd = os.open("/", os.O_RDONLY)
    os.fchdir(fd)
    os.close(fd)


def _leave_by_contextlib() -> None:
    contextlib.chdir("/").__enter__()


@pytest.mark.parametrize(
    "leave",
    [
        _leave_by_chdir,
        _leave_by_fchdir,
        pytest.param(
            _leave_by_contextlib, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
        ),
    ],
)
def test_the_folder_that_a_quick_task_leaves_is_not_the_next_ones(leave: object) -> None:
    def where(i: int) -> str:
        if i == ODD:
            leave()  # type: ignore[operator]
        return os.getcwd() if i != ODD else ""

    with Rig() as rig:
        runner = rig.spawn()
        here = rig.run(runner, os.getcwd)
        rig.send(runner, where, *((i,) for i in range(N)))
        assert {value_of(end) for end in finished(runner, N)} == {here, ""}


def test_the_folder_is_restored_also_if_the_function_itself_is_the_one_that_changes_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with Rig() as rig:
        runner = rig.spawn(partial(os.chdir, tmp_path))
        rig.send(runner, os.chdir, *[("sub",)] * N)
        assert all(end.ok for end in finished(runner, N))


def left_by_c_code(rig: Rig) -> tuple[Runner, str]:
    """A runner whose last task has left its folder unnoticed; and that folder."""

    def leave(i: int) -> None:
        if i == 0:
            sys.loaded_libc = ctypes.CDLL(None)  # type: ignore[attr-defined]  # so that the last task is quick
        if i == N - 1:
            sys.loaded_libc.chdir(b"/")  # type: ignore[attr-defined]

    runner = rig.spawn()
    here = rig.run(runner, os.getcwd)
    rig.send(runner, leave, *((i,) for i in range(N)))
    finished(runner, N)
    return runner, here


def test_a_folder_that_c_code_leaves_is_restored_before_the_runner_waits() -> None:
    with Rig() as rig:
        runner, here = left_by_c_code(rig)
        assert rig.run(runner, os.getcwd) == here


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_what_c_code_leaves_in_the_last_task_is_undone_while_nothing_runs() -> None:
    with Rig() as rig:
        runner, here = left_by_c_code(rig)
        wait_until(lambda: os.readlink(f"/proc/{runner.pid}/cwd") == here)


def test_a_stream_that_a_quick_task_closes_is_open_for_the_next_one() -> None:
    def talk(i: int) -> None:
        if i == ODD:
            sys.stdout.close()
        elif i > ODD:
            print(i)

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, talk, *((i,) for i in range(N)))
        ends = finished(runner, N)
    assert all(end.ok for end in ends)
    assert [end.stdout for end in ends[ODD + 1 :]] == [b"%d\n" % i for i in range(ODD + 1, N)]


@pytest.mark.parametrize("how", ["os.fork", "fork of C"])
def test_a_child_that_a_quick_task_forks_answers_nothing(how: str, tmp_path: Path) -> None:
    def run(i: int) -> int:
        if i == ODD:
            (os.fork if how == "os.fork" else ctypes.CDLL(None).fork)()
        if i > ODD:
            with open(tmp_path / "ran", "a", encoding="ascii") as file:
                file.write(f"{i}\n")
        return i

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, run, *((i,) for i in range(N)))
        assert [value_of(end) for end in finished(runner, N)] == list(range(N))
    assert (tmp_path / "ran").read_text().split() == [str(i) for i in range(ODD + 1, N)]
