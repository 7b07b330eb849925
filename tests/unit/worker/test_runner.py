"""Runners run jobs: in order, whatever they return, raise, close or change."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from starburst_executor.context import current_task
from starburst_executor.errors import RemoteTraceback
from starburst_executor.protocol import calls, outcomes
from starburst_executor.worker.runner.handle import BrokenStart, Died, Event, Finished, Job
from starburst_executor.worker.runner.jobs import each_event
from tests.support.runner_rig import Rig, death, events, finished, number_of, value_of, wait_until


def test_a_slice_comes_back_in_order() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, lambda x: x * x, *((i,) for i in range(300)))
        ended = finished(runner, 300)
        assert [event.number for event in ended] == numbers
        assert [value_of(event) for event in ended] == [i * i for i in range(300)]
        assert all(event.loaded and event.seconds >= 0 and not event.stdout for event in ended)


def test_one_runner_is_one_process_and_not_the_agent() -> None:
    with Rig() as rig:
        first, second = rig.spawn(), rig.spawn()
        assert [rig.run(first, os.getpid) for _ in range(3)] == [first.pid] * 3
        assert rig.run(second, os.getpid) == second.pid
        assert len({first.pid, second.pid, os.getpid(), rig.nursery.pid}) == 4


def test_a_function_is_sent_once() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        call = calls.dump_call((), {})
        runner.send([Job(1, 0, 0, 1, "f", call)], {"f": calls.dump_function(lambda: "here")})
        runner.send([Job(2, 0, 1, 1, "f", call)], {})
        assert [value_of(event) for event in finished(runner, 2)] == ["here", "here"]


def test_numbers_that_do_not_ascend_are_refused() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        job = Job(5, 0, 0, 1, "f", b"")
        runner.send([job], {"f": b""})
        with pytest.raises(ValueError, match="must ascend: number=5, last=5"):
            runner.send([job], {})


def test_a_task_knows_itself() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        call = calls.dump_call((), {})
        runner.send([Job(1, 2, 17, 3, "f", call)], {"f": calls.dump_function(current_task)})
        task = value_of(*finished(runner, 1))
        assert (task.session_id, task.task_id, task.index, task.attempt) == ("a-session", "2-17", 17, 3)


# ------------------------------------------------------------------------------------------------------------ retract


def test_what_has_not_started_is_taken_back_and_the_rest_goes_on(tmp_path: Path) -> None:
    def wait_for(name: str) -> str:
        (tmp_path / "started").touch()
        wait_until((tmp_path / name).exists)
        return name

    with Rig() as rig:
        runner = rig.spawn()
        running, *waiting = rig.send(runner, wait_for, ("go",), ("no",), ("no",))
        wait_until((tmp_path / "started").exists)
        assert number_of(runner) == running
        assert runner.retract() == waiting
        assert runner.retract() == []
        later = rig.send(runner, wait_for, ("go",))
        (tmp_path / "go").touch()
        assert [event.number for event in finished(runner, 2)] == [running, *later]
        assert number_of(runner) is None


def test_retracted_calls_are_not_sent_after_all(tmp_path: Path) -> None:
    def wait_for_go(_ballast: bytes) -> None:
        wait_until((tmp_path / "go").exists)

    with Rig() as rig:
        runner = rig.spawn()
        started, *others = rig.send(runner, wait_for_go, *[(b"x" * 5_000_000,)] * 20)
        wait_until(lambda: runner.poll() or number_of(runner) == started)
        assert runner.retract() == others
        rig.send(runner, lambda: "next", ())
        (tmp_path / "go").touch()
        assert value_of(finished(runner, 2)[1]) == "next"


# --------------------------------------------------------------------------------------------------- what users raise


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_whatever_is_raised_is_an_outcome(error: BaseException) -> None:
    with Rig() as rig:
        runner = rig.spawn()
        with pytest.raises(type(error)) as raised:
            rig.run(runner, _raise, error)
        assert raised.value.args == error.args
        assert rig.run(runner, os.getpid) == runner.pid


def test_the_remote_traceback_begins_with_user_code() -> None:
    with Rig() as rig:
        with pytest.raises(ValueError, match="no") as raised:
            rig.run(rig.spawn(), _raise, ValueError("no"))
        cause = raised.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        assert "in _raise" in cause.text
        assert "child.py" not in cause.text


def test_a_value_that_cannot_be_pickled_fails_with_the_pickling_error() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, threading.Lock, ())
        (event,) = finished(runner, 1)
        assert (event.ok, event.loaded) == (False, True)
        with pytest.raises(TypeError, match="pickle"):
            value_of(event)


def test_a_function_that_cannot_be_loaded_says_so() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.send_body(runner, b"\0cno_such_module_anywhere\nf\n.", (), ())
        for event in finished(runner, 2):
            assert (event.ok, event.loaded) == (False, False)
            with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
                value_of(event)


def test_a_function_that_could_not_be_loaded_is_tried_again(tmp_path: Path) -> None:
    with Rig(sys_path=[str(tmp_path)]) as rig:
        runner = rig.spawn()
        body = b"\0cappears_later_on\nf\n."
        rig.send_body(runner, body, ())
        assert not finished(runner, 1)[0].loaded
        (tmp_path / "appears_later_on.py").write_text("def f(): return 'here'")
        rig.run(runner, lambda: __import__("importlib").invalidate_caches())
        rig.send_body(runner, body, ())
        assert value_of(*finished(runner, 1)) == "here"


def test_an_interrupt_means_something_to_user_code_only(tmp_path: Path) -> None:
    def wait_for_ever() -> None:
        (tmp_path / "started").touch()
        threading.Event().wait()

    with Rig() as rig:
        runner = rig.spawn()
        assert rig.run(runner, os.getpid) == runner.pid
        os.kill(runner.pid, signal.SIGINT)
        rig.send(runner, wait_for_ever, ())
        wait_until((tmp_path / "started").exists)
        os.kill(runner.pid, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            value_of(*finished(runner, 1))


# --------------------------------------------------------------------------------------------------------- big things


def test_an_outcome_of_200_megabytes() -> None:
    with Rig() as rig:
        value = rig.run(rig.spawn(), lambda: bytes(200_000_000))
        assert len(value) == 200_000_000


def test_big_calls_and_big_outcomes_at_once_do_not_block_each_other() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, lambda data, i: (data, i), *((bytes([i]) * 20_000_000, i) for i in range(6)))
        for i, event in enumerate(finished(runner, 6)):
            assert value_of(event) == (bytes([i]) * 20_000_000, i)


@pytest.mark.parametrize("size", [0, 1, 16_000, 16_384, 17_000, 262_000, 262_144, 263_000, 1_000_000])
def test_every_size_comes_through(size: int) -> None:
    with Rig() as rig:
        runner = rig.spawn()
        data = random.Random(size).randbytes(size)
        rig.send(runner, lambda data: data[::-1], *[(data,)] * 5)
        assert [value_of(event) for event in finished(runner, 5)] == [data[::-1]] * 5


# --------------------------------------------------------------------------------------------------------- the start


def test_an_initializer_runs_first() -> None:
    def initialize() -> None:
        sys.flags_of_the_test = ["initialized"]  # type: ignore[attr-defined]

    with Rig() as rig:
        assert rig.run(rig.spawn(initialize), lambda: sys.flags_of_the_test) == ["initialized"]  # type: ignore[attr-defined]


def test_a_failing_initializer_is_told_and_no_job_starts() -> None:
    with Rig() as rig:
        runner = rig.spawn(lambda: _raise(ValueError("no licence")))
        numbers = rig.send(runner, os.getpid, (), ())
        broken, died = events(runner, lambda _seen: False)
        assert isinstance(broken, BrokenStart)
        _, error = outcomes.load_outcome(broken.outcome)
        assert isinstance(error, ValueError)
        assert isinstance(died, Died)
        assert died.culprit is None
        assert not runner.is_ready
        assert runner.retract() == numbers


def test_an_initializer_that_kills_its_process_leaves_no_culprit() -> None:
    with Rig() as rig:
        runner = rig.spawn(lambda: os._exit(9))
        numbers = rig.send(runner, os.getpid, ())
        before, died = death(runner)
        assert (before, died.reason, died.culprit) == ([], "exited with status 9", None)
        assert runner.retract() == numbers


def test_environment_and_path_are_the_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARBURST_TEST_OF_RUNNERS", "yes")
    (tmp_path / "only_in_this_session.py").write_text("NAME = __name__")
    with Rig(sys_path=[str(tmp_path), "/second"]) as rig:
        runner = rig.spawn()
        assert rig.run(runner, lambda: os.environ["STARBURST_TEST_OF_RUNNERS"]) == "yes"
        assert rig.run(runner, lambda: sys.path[:2]) == [str(tmp_path), "/second"]
        assert rig.run(runner, lambda: __import__("only_in_this_session").NAME) == "only_in_this_session"


def test_main_is_empty_and_stdin_is_at_its_end() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        names = rig.run(runner, lambda: set(vars(sys.modules["__main__"])))
        assert {name for name in names if not name.startswith("__")} == set()
        with pytest.raises(EOFError):
            rig.run(runner, input)


def test_each_runner_has_random_numbers_of_its_own() -> None:
    with Rig() as rig:
        assert len({rig.run(rig.spawn(), lambda: random.random()) for _ in range(4)}) == 4


def test_a_runner_is_ready_before_any_job() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        wait_until(lambda: runner.poll(0.1) or runner.is_ready)


# ------------------------------------------------------------------------------------------- what one task leaves behind


def test_the_folder_is_restored_after_each_task() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        before = rig.run(runner, os.getcwd)
        rig.run(runner, os.chdir, "/")
        assert rig.run(runner, os.getcwd) == before


def test_a_thread_left_running_does_no_harm() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.run(runner, lambda: threading.Thread(target=threading.Event().wait).start())
        assert rig.run(runner, os.getpid) == runner.pid
        runner.stop()


def test_closing_low_descriptors_does_no_harm() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.run(runner, os.closerange, 3, 100)
        rig.run(runner, os.closerange, 0, 3)
        assert rig.run(runner, os.getpid) == runner.pid


def test_closing_every_descriptor_ends_the_runner_and_says_why() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        culprit, _ = rig.send(runner, os.closerange, (3, 1024), (3, 4))
        before, died = death(runner)
        assert (before, died.culprit) == ([], culprit)
        assert "closed file descriptors that were not its own" in died.reason


def test_a_task_that_closes_every_descriptor_and_stays_is_killed(tmp_path: Path) -> None:
    def close_and_stay() -> None:
        os.closerange(3, 1024)
        threading.Event().wait()

    with Rig() as rig:
        runner = rig.spawn()
        culprits = rig.send(runner, close_and_stay, ())
        _, died = death(runner)
        assert [died.culprit] == culprits
        assert "closed file descriptors that were not its own" in died.reason


def test_a_forked_child_that_comes_back_does_not_answer() -> None:
    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            raise SystemExit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with Rig() as rig:
        runner = rig.spawn()
        assert rig.run(runner, fork) == 7
        assert rig.run(runner, os.getpid) == runner.pid


def test_a_forked_child_can_use_the_standard_librarys_pool() -> None:
    def nested() -> list[int]:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
            return list(pool.map(abs, range(-3, 3)))

    with Rig() as rig:
        assert rig.run(rig.spawn(), nested) == [3, 2, 1, 0, 1, 2]


# ------------------------------------------------------------------------------------------------------------- waiting


def test_wait_ends_when_it_is_woken() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        wait_until(lambda: runner.poll(0.1) or runner.is_ready)
        runner.wake()
        started_at = time.monotonic()
        runner.wait(100)
        assert time.monotonic() - started_at < 60


def test_a_thread_that_listens_hears_of_jobs_that_another_sends() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        heard: list[Event] = []

        def listen() -> None:
            while len(heard) < 3:
                heard.extend(each_event(runner.poll(60)))

        listener = threading.Thread(target=listen)
        listener.start()
        wait_until(lambda: runner.is_ready)
        # More than the sockets hold: what is left over is the listener's to send.
        rig.send(runner, len, (bytes(2**23),), (bytes(2**23),))
        wait_until(lambda: len(heard) == 2)
        runner.kill()
        listener.join(30)
        assert [value_of(event) for event in heard[:2] if isinstance(event, Finished)] == [2**23] * 2
        assert isinstance(heard[2], Died)


def test_wait_ends_when_time_is_up() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        assert runner.poll(0.0) == []
        wait_until(lambda: runner.poll(0.01) or runner.is_ready)
        assert runner.poll(0.06) == []


def test_a_process_that_exits_while_its_runner_is_closed_closes_no_descriptor_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of a closed descriptor may be another file's."""
    with Rig() as rig:
        runner = rig.spawn()
        at_exit = [f for f in weakref.finalize._registry if (alive := f.peek()) and alive[0] is runner]  # type: ignore[attr-defined]
        assert len(at_exit) == 1
        closed: list[int] = []
        close = os.close

        def close_while_exiting(fd: int) -> None:
            close(fd)
            closed.append(fd)
            at_exit[0]()

        monkeypatch.setattr(os, "close", close_while_exiting)
        runner.close()
        monkeypatch.undo()
        assert closed
        assert len(closed) == len(set(closed))
