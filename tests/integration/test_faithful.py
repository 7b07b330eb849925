"""Tasks meet what they would meet in a process pool: flags, streams, a clear end of what cannot work, no noise of ours."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from starburst_executor import StarburstExecutor, TaskCrashed
from tests.sessions import ROOT

SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def program(tmp_path: Path, code: str, *flags: str, **files: str) -> subprocess.CompletedProcess[str]:
    """What a script prints, run beside modules of these names."""
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STARBURST_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [sys.executable, *flags, str(script)], capture_output=True, text=True, env=environment, timeout=100, check=False
    )


FLAGS = """
    import sys, warnings
    from starburst_executor import StarburstExecutor
    def flags():
        import sys, warnings
        return str(sys.flags), sys.warnoptions, sys._xoptions, len(warnings.filters)
    with StarburstExecutor(workers=1) as executor:
        print(executor.submit(flags).result(60) == flags())
"""


@pytest.mark.parametrize(
    "flags",
    [("-O",), ("-bb",), ("-X", "utf8"), ("-W", "error"), ("-X", "dev", "-W", "error"), ("-E", "-s"), ("-P",)],
    ids=" ".join,
)
def test_interpreter_flags_hold_for_tasks_too(tmp_path: Path, flags: tuple[str, ...]) -> None:
    if flags == ("-P",) and sys.version_info < (3, 11):
        pytest.skip("-P came with Python 3.11")
    done = program(tmp_path, FLAGS, *flags)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_session_leaves_nothing_for_python_to_complain_of(tmp_path: Path) -> None:
    code = """
        import os
        from starburst_executor import DetachedExecutor, StarburstExecutor
        with StarburstExecutor(workers=2, max_tasks_per_child=2) as executor:
            print(list(executor.map(abs, range(-5, 0))), type(executor.submit(os._exit, 3).exception()).__name__)
        executor = DetachedExecutor(workers=1)
        executor.submit(abs, -1)
        executor.detach()
        again = DetachedExecutor.reattach(executor.id)
        print(again.collect(wait=True)[0].value)
        again.cleanup(force=True)
        executor = StarburstExecutor(workers=1)
        executor.submit(abs, -1).result()
        executor.terminate_workers()
    """
    done = program(tmp_path, code, "-X", "dev", "-W", "error")
    assert (done.stdout, done.stderr) == ("[5, 4, 3, 2, 1] TaskCrashed\n1\n", "")


# As on a busy machine: the threads that listen to runners get no time until their worker ends, and its end takes long.
LATE_LISTENERS = """
    import atexit, time
    from starburst_executor.worker.runner.handle import Runner
    atexit.register(time.sleep, 1.0)  # after all that is registered later
    wait = Runner.wait
    def wait_and_be_late(runner, timeout_s):
        wait(runner, timeout_s)
        time.sleep(0.3)
    Runner.wait = wait_and_be_late
"""


def test_a_worker_ends_without_a_word_however_busy_its_machine_is(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(LATE_LISTENERS))
    code = """
        from starburst_executor import StarburstExecutor
        with StarburstExecutor(workers=2) as executor:
            print(sorted(executor.map(abs, range(-5, 0))))
    """
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, timeout=100
    )
    assert (done.stdout, done.stderr) == ("[1, 2, 3, 4, 5]\n", "")


@SQLITE
def test_streams_that_a_task_closes_are_open_for_the_next(store_url: str) -> None:
    def close() -> None:
        sys.stdout.close()
        os.close(2)
        os.close(0)

    def detach() -> None:
        sys.stdout.detach()
        sys.__stderr__.close()  # type: ignore[union-attr]
        sys.stdin.close()

    def speak() -> str:
        print("out")
        print("err", file=sys.stderr)
        return sys.stdin.read()

    def replace() -> None:
        import io

        sys.stdout = io.StringIO()

    with StarburstExecutor(workers=1, store=store_url) as executor:
        for misbehave in (close, detach, close):
            assert executor.submit(misbehave).exception(60) is None
            future = executor.submit(speak)
            assert future.result(60) == ""
            assert executor.output(future) == ("out\n", "err\n")
        executor.submit(replace).result(60)
        assert executor.submit(lambda: type(sys.stdout).__name__).result(60) == "StringIO"


@SQLITE
def test_a_crash_shows_the_users_frames_alone(store_url: str) -> None:
    def crash() -> None:
        assert faulthandler.is_enabled()
        ctypes.string_at(0)

    with StarburstExecutor(workers=1, store=store_url) as executor:
        future = executor.submit(crash)
        assert isinstance(future.exception(60), TaskCrashed)
        _, shown = executor.output(future)
    assert "Fatal Python error: Segmentation fault" in shown
    assert f'File "{__file__}"' in shown
    assert "runner" not in shown


BOMB = """
    from pathlib import Path
    from starburst_executor import DetachedExecutor, StarburstExecutor
    with Path(__file__).with_name("imports").open("a") as file:
        file.write("x")
    executor = {made}
    def square(x):
        return x * x
    try:
        NINE = executor.submit(square, 3).result(60)
    finally:
        print(len(list(Path(__file__).with_name("home").rglob("*.db"))))
        getattr(executor, "cleanup", executor.shutdown)()
"""


@pytest.mark.parametrize("made", ["StarburstExecutor(workers=1)", "DetachedExecutor(workers=1)"])
def test_a_module_that_makes_an_executor_when_it_is_imported_does_not_nest(tmp_path: Path, made: str) -> None:
    code = """
        try:
            import bomb
        except RuntimeError as error:
            print(error)
    """
    done = program(tmp_path, code, bomb=BOMB.format(made=made))
    n_sessions, words = done.stdout.splitlines()
    assert "an executor is made while a worker imports the module" in words
    assert (tmp_path / "imports").read_text() == "xx"
    assert n_sessions == "1"  # the client's own


@SQLITE
def test_an_executor_in_a_task_may_import_and_be_made_in_its_initializer(store_url: str) -> None:
    def nested() -> int:
        with StarburstExecutor(workers=1, store=store_url) as inner:
            return inner.submit(abs, -3).result(60)

    def prepare() -> None:
        assert nested() == 3

    with StarburstExecutor(workers=1, store=store_url, initializer=prepare) as executor:
        assert executor.submit(nested).result(60) == 3


def test_what_is_submitted_after_a_reload_runs_the_new_code(store_url: str, tmp_path: Path) -> None:
    code = f"""
        import importlib, os
        from pathlib import Path
        from starburst_executor import StarburstExecutor
        import edited
        def indirect():
            return edited.answer()
        with StarburstExecutor(workers=1, store={store_url!r}) as executor:
            print(executor.submit(edited.answer).result(), executor.submit(os.getpid).result())
            print(executor.submit(edited.answer).result(), executor.submit(os.getpid).result())
            Path(edited.__file__).write_text("def answer(): return 2222")
            print(executor.submit(edited.answer).result())
            importlib.reload(edited)
            print(executor.submit(edited.answer).result(), executor.submit(indirect).result())
    """
    done = program(tmp_path, code, edited="def answer(): return 1\n")
    first, same, unloaded, reloaded = done.stdout.splitlines()
    assert first == same, "one process, as long as nothing is loaded again"
    assert (unloaded, reloaded, done.stderr) == ("1", "2222 2222", "")


def test_a_client_that_comes_after_an_edit_does_not_meet_old_code(store_url: str, tmp_path: Path) -> None:
    code = f"""
        import sys
        from starburst_executor import DetachedExecutor
        import edited
        executor = DetachedExecutor.reattach(sys.argv[1]) if sys.argv[1:] else DetachedExecutor(workers=1, store={store_url!r})
        print(executor.submit(edited.answer).result(), executor.url)
        executor.detach()
    """
    first = program(tmp_path, code, edited="def answer(): return 1\n")
    answer, url = first.stdout.split()
    assert answer == "1", first.stderr
    (tmp_path / "edited.py").write_text("def answer(): return 2222\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STARBURST_HOME": str(tmp_path / "home")}
    second = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), url],
        capture_output=True, text=True, env=environment, timeout=100, check=True,
    )  # fmt: skip
    assert second.stdout.split()[0] == "2222"
    subprocess.run(
        [sys.executable, "-c", f"from starburst_executor import *; DetachedExecutor.reattach({url!r}).cleanup(force=True)"],
        env=environment, timeout=100, check=True,
    )  # fmt: skip


def test_after_reattaching_from_the_same_script_its_classes_are_themselves(store_url: str, tmp_path: Path) -> None:
    code = f"""
        import sys
        from dataclasses import dataclass
        from enum import Enum
        from starburst_executor import DetachedExecutor
        @dataclass(slots=True)
        class Point:
            x: int
        class Outer:
            class Color(Enum):
                RED = 1
        class MyError(Exception): pass
        def points(n): return [Point(i) for i in range(n)], Outer.Color.RED
        def fail(): raise MyError("bad")
        if not sys.argv[1:]:
            executor = DetachedExecutor(workers=1, store={store_url!r})
            executor.submit(points, 2), executor.submit(fail)
            executor.detach()
            print(executor.url)
        else:
            executor = DetachedExecutor.reattach(sys.argv[1])
            first, second = executor.futures
            made, red = first.result(60)
            print(made == [Point(0), Point(1)], isinstance(made[0], Point), red is Outer.Color.RED)
            try:
                second.result(60)
            except MyError as error:
                print(error)
            executor.cleanup(force=True)
    """
    url = program(tmp_path, code).stdout.strip()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STARBURST_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), url],
        capture_output=True, text=True, env=environment, timeout=100, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True True True\nbad\n", "")
