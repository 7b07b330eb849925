"""Runs one trial on a worker: the function of a study's tasks.

    runner calls run_trial(spec, index) ──► Trial ──► the user's function or command ──► metrics
                                        └──► a plain outcome: the value of the task

A trial that takes longer than its stage allows is killed by SIGALRM, whose default action ends the process also while C code
runs. The agent then reports the process's death.
"""

from __future__ import annotations

import functools
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.protocol.options import class_names
from starburst_executor.store.base import ObjectStore
from starburst_executor.study.artefacts import of_plain
from starburst_executor.study.failures import kind_of, line_of
from starburst_executor.study.metrics import taken
from starburst_executor.study.plain import check_params, plain_copy
from starburst_executor.study.spec import TrialSpec
from starburst_executor.study.tables import CANCELLED, COMPLETED, FAILED, TrialRow
from starburst_executor.study.trial import Trial

__all__ = ["function_of", "row_of", "row_of_error", "run_trial"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Of:
    """Which trials a function runs: of which stage, edition and round. What they need is beside these fields.

    Guarantee: a driver that resumes, and whose copy of the stage has other bytes, such as another folder, submits the same calls:
    `map_once` compares these fields alone.
    """

    stage: str
    edition: int
    round: int

    def __starburst_content__(self) -> tuple[str, int, int]:
        return self.stage, self.edition, self.round

    @property
    def spec(self) -> TrialSpec:
        spec: TrialSpec = self.__dict__["_spec"]
        return spec


def function_of(spec: TrialSpec, number: int) -> Callable[[Any], dict[str, Any]]:
    """Return the function of the tasks of a stage's round `number`.

    Its only argument is the index of a trial, or the index with the parameters that a search proposed.
    """
    of = _Of(spec.stage, spec.edition, number)
    of.__dict__["_spec"] = replace(spec, proposed={})
    function = functools.partial(_run, of)
    # Assumes: a partial with an attribute is stored as a whole, once for all calls (`client/functions.py`).
    function.__dict__["stage"] = spec.stage
    return function


def _run(of: _Of, call: int | tuple[int, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(call, int):
        return run_trial(of.spec, call)
    index, proposed = call
    return run_trial(replace(of.spec, proposed={index: proposed}), index)


def run_trial(
    spec: TrialSpec, index: int, *, store: ObjectStore | None = None, clock: Clock | None = None
) -> dict[str, Any]:
    """Run one trial, with its stage's retries; return its outcome as plain values. Raises: what the last attempt raised."""
    clock, options = clock or SystemClock(), spec.options
    for number in range(1, options.retries + 1):
        try:
            return _attempt(spec, index, store, clock)
        except Exception as error:
            if options.retry_on and set(options.retry_on).isdisjoint(class_names(type(error))):
                raise
            _log.info("an attempt of trial %s/%s failed, and is made again: %s", spec.stage, index, error)
        if options.backoff is not None:
            clock.wait(Event(), options.backoff.pause_s(number))
    return _attempt(spec, index, store, clock)


def _attempt(spec: TrialSpec, index: int, store: ObjectStore | None, clock: Clock) -> dict[str, Any]:
    trial = Trial(spec, index, store=store, clock=clock)
    started = clock.monotonic()
    try:
        if spec.command is not None:
            from starburst_executor.study.commands import run_command

            value: Any = run_command(trial, spec.command, here=spec.here, timeout=spec.options.timeout)
            metrics = taken(value, spec.metrics)
        else:
            assert spec.run is not None  # noqa: S101 - one of both, `Stage` checks it
            with _killed_after(spec.options.timeout):
                metrics = taken(spec.run(trial), spec.metrics if not trial.kept().is_pruned else {})
        check_params(trial.params, f"the parameters of trial {trial.name}")
        trial.end(metrics)
    finally:
        trial.close()
    kept = trial.kept()
    outcome = {
        "metrics": metrics,
        "params": trial.params,
        "artefacts": kept.artefacts,
        "curve": kept.curve,
        "pruned": kept.is_pruned,
        "seconds": clock.monotonic() - started,
    }
    # As it will be read from tables: tuples become lists here, so that later stages see one type whatever happened meanwhile.
    return plain_copy(outcome)


@contextmanager
def _killed_after(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return
    if threading.current_thread() is threading.main_thread():
        # An earlier trial of this process may have left another action, or the signal blocked.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def row_of(spec: TrialSpec, index: int, outcome: Mapping[str, Any]) -> TrialRow:
    """Return the row of a trial that returned an outcome."""
    is_pruned = bool(outcome["pruned"])
    return TrialRow(
        spec.stage,
        index,
        CANCELLED if is_pruned else COMPLETED,
        "pruned" if is_pruned else "",
        metrics=outcome["metrics"],
        params=outcome["params"],
        artefacts=of_plain(outcome["artefacts"]),
        curve=tuple((step, metrics) for step, metrics in outcome["curve"]),
        seconds=outcome["seconds"],
    )


def row_of_error(spec: TrialSpec, index: int, error: BaseException) -> TrialRow:
    """Return the row of a trial that failed or was cancelled."""
    kind = kind_of(error)
    params = plain_copy(spec.params(index))
    return TrialRow(
        spec.stage, index, CANCELLED if kind == "cancelled" else FAILED, kind, line_of(error), params=params
    )
