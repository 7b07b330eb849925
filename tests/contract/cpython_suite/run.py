"""Runs CPython's own executor tests on `StarburstExecutor`; started by `tests/contract/test_cpython_suite.py`.

    python -m tests.contract.cpython_suite.run <class> <results>

under an interpreter that ships them. `results` gets a line of JSON per test, written when the test ends,
{"test": "Class.test_name", "outcome": "passed" | "failed" | "skipped" | "left behind", "words": "...", "seconds": 1.0}
and a last one, {"left_out": ["test_name", ...]}, without which the run did not come to its end.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys
import threading
import time
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from test import support
from test.support import threading_helper

from tests.contract.cpython_suite import adapt
from tests.contract.cpython_suite.stand_in import processes_with, wait_until

# A test that takes longer hangs: every thread's stack is printed and the run ends.
HANG_S = 90.0


class Record(unittest.TestResult):
    """Writes each test's outcome as it comes, and looks for what a test leaves behind."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._started = 0.0
        self._outcome: tuple[str, str] = ("", "")
        self._noise: list[str] = []
        sys.unraisablehook = lambda seen: self._hear(seen.exc_value, f"ignored in {seen.object!r}")
        threading.excepthook = lambda seen: self._hear(seen.exc_value, f"ended thread {seen.thread!r}")

    def _hear(self, error: BaseException | None, where: str) -> None:
        self._noise.append(f"{where}: {''.join(traceback.format_exception(None, error, None)).strip()}")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        self._started = time.monotonic()
        self._outcome, self._noise = ("passed", ""), []
        support.environment_altered = False

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._outcome = ("failed", self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._outcome = ("failed", self.failures[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._outcome = ("skipped", reason)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        seconds = time.monotonic() - self._started
        if self._outcome[0] == "passed" and (left := "\n".join(self._left_behind())):
            self._outcome = ("left behind", left)
        faulthandler.cancel_dump_traceback_later()
        outcome, words = self._outcome
        line = {"test": adapt.name_of(test), "outcome": outcome, "words": words, "seconds": round(seconds, 2)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _left_behind(self) -> Iterator[str]:
        """Processes, threads, objects in the store and uncaught errors."""
        gc.collect()
        home = os.environ["STARBURST_HOME"]
        if not wait_until(lambda: not processes_with(home), 5.0):
            yield f"processes: {processes_with(home)}"
        if not wait_until(lambda: not _our_threads(), 5.0):
            yield f"threads: {_our_threads()}"
        if sessions := [str(path) for path in Path(home).rglob("*") if path.is_file() and ".db" in path.name]:
            yield f"files: {sessions}"
        if support.environment_altered:
            yield "something that the suite itself warns of, see the output"
        yield from self._noise


def _our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("starburst-")]


def _collect_garbage_first() -> None:
    """Before Python 3.11 the suite warns of threads that have ended and are only not collected yet."""
    clean_up = threading_helper.threading_cleanup
    threading_helper.threading_cleanup = lambda *before: (gc.collect(), clean_up(*before))


def main(class_name: str, results: str) -> None:
    _collect_garbage_first()
    suite = adapt.load(class_name)
    with Path(results).open("w", encoding="utf-8") as file:
        suite.run(Record(file))
        file.write(json.dumps({"left_out": adapt.left_out_here()}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
