"""What tests leave behind fails the run, and the test that left it is named: processes, and entries of the temporary folder.

Each process that a test starts inherits `PYTEST_CURRENT_TEST`, which pytest keeps up to date, and the run's own mark. So
the system's list of processes tells which test started each, also of one whose parents are gone.

    at a test's end      processes that it started, and its own temporary folder                       the test fails
    at the run's end     every process of the run, also of fixtures that several tests share           the run fails

A process that is on its way out is waited for. What is left after that is killed, so that no run disturbs another. Of a
test that failed in any case nothing is said: it had no chance to clean up.
"""

from __future__ import annotations

import multiprocessing.util
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

__all__ = ["MARKS", "LeftBehind", "shared_by_tests"]

RUN = "TESTS_RUN"
TEST = "PYTEST_CURRENT_TEST"
# What may need this long, and does on a busy machine: a worker that says goodbye to its store.
_PATIENCE_S = 30.0
_LOOK_S = 0.05
# Helpers that `multiprocessing` starts once in an interpreter's life, and ends with it.
_OF_THE_INTERPRETER = re.compile(r"multiprocessing\.(resource_tracker|forkserver)")
_SHARED = "shared"
# `tempfile.gettempdir()` writes this to a file with a random name, once in a process's life, and removes it.
_PROBE_NAME, _PROBE = re.compile(r"[a-z0-9_]{8}"), b"blat"
# For those who make an environment from nothing.
MARKS = (RUN, TEST)
_FOLDER = pytest.StashKey[Path]()


def shared_by_tests(name: str) -> dict[str, str]:
    """Environment of a process that outlives the test in which it happens to be started: mark and temporary folder."""
    return {TEST: f"{name} ({_SHARED})", "TMPDIR": os.environ[RUN]}


class Process(NamedTuple):
    """A process, and the test that started it."""

    pid: int
    test: str
    phase: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.test or 'no test'} ({self.phase or 'at collection'}): {self.command[:300]}"


class LeftBehind:
    """The plugin, in each process that runs tests and in the one that leads them."""

    def __init__(self, config: pytest.Config) -> None:
        self._patience_s = float(os.environ.get("TESTS_PATIENCE_S", _PATIENCE_S))
        self._is_led = hasattr(config, "workerinput")
        self._others = set(
            psutil.pids()
        )  # none of these was started by a test; nor those that are found to have another mark
        self._failed: set[str] = set()
        self._words: list[str] = []
        self._is_kept = False
        if self._is_led:
            self._folder = Path(os.environ["TMPDIR"])
        else:
            # Short: the names of sockets in it may not be longer than some hundred bytes.
            self._folder = Path(tempfile.mkdtemp(prefix="starburst-tests-"))
            os.environ[RUN] = str(self._folder)
            os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = str(self._folder)
            tempfile.tempdir = None
        self._run = os.environ[RUN]
        # Made once in a process's life, where the temporary folder is then: not in that of one test.
        multiprocessing.util.get_temp_dir()

    # --- one test -----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            self._failed.add(item.nodeid)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Give it a temporary folder of its own."""
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix=""))
        before = os.environ["TMPDIR"]
        item.stash[_FOLDER] = folder
        os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
        try:
            return (yield)
        finally:
            os.environ["TMPDIR"], tempfile.tempdir = before, None
            shutil.rmtree(folder, ignore_errors=True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        yield  # its fixtures have cleaned up
        left = self._left(lambda process: process.test == item.nodeid and process.phase != _SHARED, item.stash[_FOLDER])
        if left and item.nodeid not in self._failed:
            pytest.fail(f"{item.nodeid} has left behind:\n" + "\n".join(left), pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        """Mark what a fixture starts that stays for other tests."""
        if TEST not in os.environ or fixturedef.scope == "function":
            return (yield)
        before = {name: os.environ[name] for name in (TEST, "TMPDIR")}
        os.environ.update(shared_by_tests(before[TEST].rpartition(" ")[0]))
        tempfile.tempdir = None
        try:
            return (yield)
        finally:
            os.environ.update(before)
            tempfile.tempdir = None

    # --- the run ------------------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._is_led:
            return
        self._words = self._left(lambda one: True, None)
        if self._words and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._is_kept = session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._words:
            terminalreporter.section("left behind by this run", red=True)
            for line in self._words:
                terminalreporter.line(line)
        if self._is_kept:
            terminalreporter.line(f"the temporary files of this run are kept: {self._folder}")

    def pytest_unconfigure(self) -> None:
        if not self._is_led and not self._is_kept:
            # After multiprocessing has removed its own folder in it, which it does with priority -100.
            multiprocessing.util.Finalize(
                None, shutil.rmtree, (self._folder,), {"ignore_errors": True}, exitpriority=-200
            )

    # --- inside -------------------------------------------------------------------------------------------------------

    def _left(self, is_meant: Callable[[Process], bool], folder: Path | None) -> list[str]:
        """What is still there after a while, in words; the processes are killed then."""
        deadline = time.monotonic() + self._patience_s
        while True:
            processes = [process for process in self._living() if is_meant(process)]
            entries = [] if folder is None else sorted(entry.name for entry in folder.iterdir() if not _is_probe(entry))
            if not processes and not entries:
                return []
            if time.monotonic() >= deadline:
                _kill(processes)
                return [*map(str, processes), *(f"in the temporary folder: {name}" for name in entries)]
            time.sleep(_LOOK_S)

    def _living(self) -> Iterator[Process]:
        """All live processes with this run's mark, except this process and the helpers of its interpreter."""
        pids = set(psutil.pids())
        self._others &= pids
        for pid in pids - self._others - {os.getpid()}:
            with suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                environment = process.environ()
                if environment.get(RUN) != self._run or process.status() == psutil.STATUS_ZOMBIE:
                    if environment:  # one that ends, or is only beginning, has none to read
                        self._others.add(pid)
                    continue
                command = " ".join(process.cmdline())
                if not (_OF_THE_INTERPRETER.search(command) and process.ppid() == os.getpid()):
                    test, _, phase = environment.get(TEST, "").rpartition(" ")
                    yield Process(pid, test, phase.strip("()"), command)


def _is_probe(entry: Path) -> bool:
    """Whether the standard library tried with this file if it may write here, in a process that was killed just then."""
    if not _PROBE_NAME.fullmatch(entry.name) or not entry.is_file():
        return False
    with suppress(OSError):
        return _PROBE.startswith(entry.read_bytes())
    return True  # it is gone by now


def _kill(processes: Iterable[Process]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
