"""CPython's own executor tests with `StarburstExecutor` in the place of `ProcessPoolExecutor`: what is run, how, what not.

Found in the running interpreter, never copied: the package `test.test_concurrent_futures`, or before Python 3.12 the
module of that name. `ProcessPoolExecutor` is replaced before those tests make their classes; those made for its `spawn`
method are run. Everything that is different for us is in the tables below.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import pickle
import re
import sys
import unittest
import unittest.mock
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, _base, process
from typing import Any, NamedTuple

from starburst_executor.client.future import StarburstFuture
from starburst_executor.errors import PayloadError, RemoteTraceback, TaskCrashed
from tests.contract.cpython_suite.stand_in import StandIn

__all__ = ["CLASSES", "LEFT_OUT", "left_out_here", "load", "name_of"]

_SUITE = "test.test_concurrent_futures"

# Class, and the module of the package that makes it. The other classes are those of thread pools, and the same tests
# again for `fork` and `forkserver`: how our workers start is not chosen by a multiprocessing context.
CLASSES = {
    "ProcessPoolSpawnProcessPoolExecutorTest": "test_process_pool",
    "ProcessPoolSpawnProcessPoolShutdownTest": "test_shutdown",
    "ProcessPoolSpawnInitializerTest": "test_init",
    "ThreadPoolFailingInitializerTest": "test_init",  # that of process pools wants a queue inherited by the workers
    "ProcessPoolSpawnExecutorDeadlockTest": "test_deadlock",
    "ProcessPoolSpawnWaitTest": "test_wait",
    "ProcessPoolSpawnAsCompletedTest": "test_as_completed",
    "FutureTests": "test_future",
}


class LeftOut(NamedTuple):
    """Why a test is not run, and the version from which on it must be there; before that it may be."""

    reason: str
    since: tuple[int, int] = (3, 10)


LEFT_OUT = {
    "test_killed_child": LeftOut("wants one death to break the whole pool; here it fails that task alone"),
    "test_processes_terminate": LeftOut("counts processes right after submits; here a worker is only just starting"),
    "test_saturation": LeftOut("counts processes right after submits; here a worker is only just starting"),
    "test_idle_process_reuse_one": LeftOut(
        "counts processes; which idle slot of a worker takes a task is left to chance"
    ),
    "test_idle_process_reuse_multiple": LeftOut(
        "counts processes; which idle slot of a worker takes a task is left to chance"
    ),
    "test_max_tasks_per_child_defaults_to_spawn_context": LeftOut(
        "reads the private context; workers always start clean", since=(3, 11)
    ),
}

# Where the standard library declares the pool broken, here one task fails, or one submit, with what befell it.
_NOT_BROKEN_BUT = {
    "test_exit_at_task_unpickle": SystemExit,
    "test_error_at_task_unpickle": pickle.UnpicklingError,
    "test_crash_at_task_unpickle": TaskCrashed,
    "test_crash_during_func_exec_on_worker": TaskCrashed,
    "test_crash_during_result_pickle_on_worker": TaskCrashed,
    "test_error_during_result_unpickle_in_result_handler": PayloadError,
    "test_exit_during_result_unpickle_in_result_handler": PayloadError,
    "test_shutdown_deadlock": TaskCrashed,
    "test_crash_big_data": TaskCrashed,
    "test_python_finalization_error": RuntimeError,
}


def name_of(test: unittest.TestCase) -> str:
    """Class and method, as the tables and the results have them."""
    return f"{type(test).__name__}.{_method(test)}"


def _method(test: Any) -> str:
    name: str = test._testMethodName
    return name


def load(class_name: str) -> unittest.TestSuite:
    """The tests of one class that are run."""
    concurrent.futures.ProcessPoolExecutor = functools.partial(StandIn)  # type: ignore[assignment,misc]
    # Not the class that stands in `concurrent.futures`: a test that is known to hang with that one skips it.
    _module("util").ProcessPoolSpawnMixin.executor_type = StandIn
    process._RemoteTraceback = RemoteTraceback  # type: ignore[misc,assignment]
    module = _module(CLASSES[class_name])
    adapted = _ADAPTERS.get(class_name, lambda _, kind: kind)(module, getattr(module, class_name))
    found = unittest.defaultTestLoader.loadTestsFromTestCase(adapted)
    return unittest.TestSuite(test for test in found if _method(test) not in LEFT_OUT)


def left_out_here() -> list[str]:
    """Which names of `LEFT_OUT` this interpreter's suite has."""
    kinds = [getattr(_module(module), name) for name, module in CLASSES.items()]
    return [name for name in LEFT_OUT if any(hasattr(kind, name) for kind in kinds)]


def _module(name: str) -> Any:
    suite = importlib.import_module(_SUITE)
    return importlib.import_module(f"{_SUITE}.{name}") if hasattr(suite, "__path__") else suite


# --- by class ---------------------------------------------------------------------------------------------------------


def _expecting(module: Any, kind: Any) -> Any:
    for name, error in _NOT_BROKEN_BUT.items():
        if hasattr(kind, name):
            setattr(kind, name, _with_attribute(getattr(kind, name), module, "BrokenProcessPool", error))
    return kind


def _with_attribute(test: Callable[[Any], None], module: Any, name: str, value: object) -> Callable[[Any], None]:
    @functools.wraps(test)
    def adapted(self: Any) -> None:
        with unittest.mock.patch.object(module, name, value):
            test(self)

    return adapted


def _scripting(module: Any, kind: Any) -> Any:
    """Scripts for other interpreters import the executor from where it is."""
    run = module.assert_python_ok

    def assert_python_ok(option: str, script: str) -> Any:
        ours = re.sub(
            r"from concurrent\.futures import (\w+)", r"from starburst_executor import StarburstExecutor as \1", script
        )
        return run(option, f"import multiprocessing, sys; sys.path[:] = {sys.path!r}\n{ours}")

    module.assert_python_ok = assert_python_ok
    # For thread pools only, says the suite, because process pools often hang there. Older versions of the test forget
    # that the task may be cancelled before it starts.
    if sys.version_info >= (3, 13):
        kind.test_cancel_futures_wait_false = module.ThreadPoolShutdownTest.test_cancel_futures_wait_false
    return kind


def _telling(module: Any, kind: Any) -> Any:
    """The executor's error reports the initializer's exception; there is no log record of it."""

    @contextlib.contextmanager
    def assert_told(self: Any, words: str) -> Iterator[None]:
        yield
        with self.assertRaisesRegex(BrokenExecutor, words):  # noqa: PT027 - a test of unittest's
            self.executor.submit(int)

    kind.executor_type = StandIn
    kind._assert_logged = assert_told
    return kind


def _of_our_futures(module: Any, kind: Any) -> Any:
    class Future(StarburstFuture[Any]):
        """Shown by `repr` under the name that the tests expect."""

    def create_future(state: str = _base.PENDING, exception: Any = None, result: Any = None) -> Future:
        future = Future()
        future._state, future._exception, future._result = state, exception, result
        return future

    for name, made in list(vars(module).items()):
        if name.endswith("_FUTURE"):
            setattr(module, name, create_future(made._state, made._exception, made._result))
    module.Future, module.create_future = Future, create_future
    return kind


_ADAPTERS: dict[str, Callable[[Any, Any], Any]] = {
    "ProcessPoolSpawnProcessPoolExecutorTest": _expecting,
    "ProcessPoolSpawnProcessPoolShutdownTest": _scripting,
    "ProcessPoolSpawnExecutorDeadlockTest": _expecting,
    "ThreadPoolFailingInitializerTest": _telling,
    "FutureTests": _of_our_futures,
}
