"""Programs as tasks: what they print, how they end, and that what they have started ends with them, and with their runner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from starburst_executor import programs
from starburst_executor.families import groups_of, kill_family
from starburst_executor.programs import ProgramFailed, run_program, run_to_end
from tests.support.runner_rig import Rig, death, is_running, wait_until

# A shell that tells the pids of itself and of what stays behind.
BEHIND = 'echo $$ > "$1/shell"; sleep 1000 & echo $! > "$1/behind"'
WAITS = f"{BEHIND}; wait"
# As `timeout` and shells with job control do.
IN_ITS_GROUP = f'{sys.executable} -c \'import os; os.setpgid(0, 0); os.execvp("sleep", ["sleep", "1000"])\''
BEHIND_IN_ITS_GROUP = BEHIND.replace("sleep 1000", IN_ITS_GROUP)
OWN_GROUP = f"{BEHIND_IN_ITS_GROUP}; wait"
LEAVES = 'echo $$ > "$1/shell"; setsid sleep 1000 & sleep 0.1; echo $! > "$1/behind"; wait'
NESTED = f"sh -c '{WAITS}' sh \"$1\" & wait"
STARTS = pytest.mark.parametrize("script", [WAITS, OWN_GROUP, NESTED])


GROWS = """
import os, time
os.setsid()
print(os.getpid(), flush=True)
for _ in range(6):
    if os.fork() == 0:
        os.setpgid(0, 0)
    time.sleep(0.002)
time.sleep(1000)
"""


def words(script: str, folder: Path) -> list[str]:
    return ["sh", "-c", script, "sh", str(folder)]


def pid_in(file: Path) -> int:
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


def in_a_runner(script: str, folder: Path) -> Callable[[], object]:
    return lambda: run_to_end(words(script, folder))


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_printed_and_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exact: bool) -> None:
    if not exact:  # as on macOS
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    text = "x" * 300_000
    both = "import sys; print('a', flush=True); print('b', file=sys.stderr, flush=True); print('c' + 'x' * 300_000); sys.exit(3)"
    assert run_to_end([sys.executable, "-c", both]) == (3, f"a\nc{text}\n".encode(), b"b\n")
    assert run_to_end([sys.executable, "-c", both], joins=True) == (3, f"a\nb\nc{text}\n".encode(), b"")
    assert run_to_end(["sh", "-c", "kill -9 $$"])[0] == -signal.SIGKILL
    assert run_to_end(["sh", "-c", "exec >&- 2>&-; sleep 0.1; exit 4"])[0] == 4
    assert run_to_end(["sh", "-c", "echo 1; echo 2 > /dev/stdout; echo 3"]) == (0, b"1\n2\n3\n", b"")
    with pytest.raises(FileNotFoundError):
        run_to_end(["no-such-program"])
    with pytest.raises(ProgramFailed, match="exit status 5: bad"):
        run_program(["sh", "-c", "echo bad >&2; exit 5"])
    with pytest.raises(ProgramFailed, match="no-such-program 1: exit status 127: it cannot be started: No such file"):
        run_program(["no-such-program", "1"])
    with pytest.raises(ProgramFailed, match="exit status 126: it cannot be started: Permission denied"):
        run_program([str(tmp_path)])


@pytest.mark.parametrize("pattern", ["../*", "/etc/hostname", "a/../../*", "..", ""])
def test_outputs_are_files_in_the_programs_own_folder(pattern: str) -> None:
    with pytest.raises(ValueError, match="not a pattern of files in the program's own folder"):
        run_program(["true"], [pattern])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("script", [BEHIND, BEHIND_IN_ITS_GROUP])
def test_what_a_program_leaves_behind_ends_with_it_and_delays_nothing(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exact: bool
) -> None:
    """Though it holds the pipe: in a runner, which leads a session, and elsewhere."""
    if not exact:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert run_to_end(words(f"{script}; echo done", tmp_path)) == (0, b"done\n", b"")
    wait_until(lambda: not is_running(pid_in(tmp_path / "behind")))
    (tmp_path / "behind").unlink()
    with Rig() as rig:
        runner = rig.spawn()
        assert rig.run(runner, in_a_runner(f"{script}; echo done", tmp_path)) == (0, b"done\n", b"")
        wait_until(lambda: not is_running(pid_in(tmp_path / "behind")))
        assert rig.run(runner, lambda: "lives") == "lives"


@STARTS
def test_a_time_limit_ends_all_that_a_program_has_started(script: str, tmp_path: Path) -> None:
    def limited() -> None:
        run_to_end(words(script, tmp_path), timeout=0.5)

    def is_over() -> bool:
        # On a busy machine its time may be over before it has started anything.
        text = file.read_text() if file.exists() else ""
        return not text.endswith("\n") or not is_running(int(text))

    file = tmp_path / "behind"
    with pytest.raises(subprocess.TimeoutExpired):
        limited()
    wait_until(is_over)
    file.unlink(missing_ok=True)
    with Rig() as rig, pytest.raises(subprocess.TimeoutExpired):
        rig.run(rig.spawn(), limited)
    wait_until(is_over)


def test_what_the_task_itself_has_started_is_spared(tmp_path: Path) -> None:
    def both() -> list[int]:
        own = [subprocess.Popen(["sleep", "1000"], preexec_fn=first).pid for first in (None, os.setpgrp)]
        run_to_end(words(BEHIND_IN_ITS_GROUP, tmp_path))
        return [pid for pid in own if is_running(pid)]

    with Rig() as rig:
        own = rig.run(rig.spawn(), both)
        assert len(own) == 2
    wait_until(lambda: not any(is_running(pid) for pid in own))


@STARTS
@pytest.mark.parametrize(
    "how", ["the runner is killed", "its worker kills it", "the worker ends", "the nursery is killed"]
)
def test_what_a_program_has_started_ends_with_the_runner(script: str, how: str, tmp_path: Path) -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, in_a_runner(script, tmp_path), ())
        shell, behind = pid_in(tmp_path / "shell"), pid_in(tmp_path / "behind")
        assert is_running(behind)
        if how == "the runner is killed":
            os.kill(runner.pid, signal.SIGKILL)
            assert death(runner)[1].reason == "killed by SIGKILL, possibly out of memory"
        elif how == "its worker kills it":
            runner.kill()
            death(runner)
        elif how == "the worker ends":
            rig.nursery.close()
        else:
            os.kill(rig.nursery.pid, signal.SIGKILL)
            death(runner)
        wait_until(lambda: not is_running(shell) and not is_running(behind))


@pytest.mark.skipif(shutil.which("setsid") is None, reason="no setsid here")
def test_a_process_that_has_left_the_session_on_purpose_stays(tmp_path: Path) -> None:
    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, in_a_runner(LEAVES, tmp_path), ())
        shell, behind = pid_in(tmp_path / "shell"), pid_in(tmp_path / "behind")
        wait_until(lambda: os.getsid(behind) == behind)
        os.kill(runner.pid, signal.SIGKILL)
        death(runner)
        wait_until(lambda: not is_running(shell))
        assert is_running(behind)
        os.kill(behind, signal.SIGKILL)


def test_a_program_counts_to_the_memory_of_its_task() -> None:
    """What it uses is counted by the runner's session."""
    with Rig() as rig:
        runner = rig.spawn()
        code, out, _ = rig.run(
            runner,
            lambda: run_to_end([sys.executable, "-c", "import os; print(os.getsid(0), os.getpgid(0) == os.getpid())"]),
        )
        assert (code, out.split()) == (0, [str(runner.pid).encode(), b"True"])


def test_a_family_is_killed_to_the_last_though_it_grows(tmp_path: Path) -> None:
    """A process that forks as fast as it can leaves none."""
    process = subprocess.Popen([sys.executable, "-c", GROWS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    session = int(process.stdout.readline())
    wait_until(lambda: len(groups_of(session)) > 10)
    kill_family(session)
    process.wait()
    process.stdout.close()
    wait_until(lambda: not groups_of(session))
    kill_family(session)


def test_programs_say_who_they_are() -> None:
    assert programs.PROGRAM_FAILED == "starburst_executor.programs.ProgramFailed"
