"""Runs a trial that is a program: its words are filled in from the trial's parameters, without a shell, in the trial's folder."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from typing import Any

from starburst_executor.programs import run_to_end
from starburst_executor.study.failures import RAISED, TIMED_OUT, TrialFailed, kind_of_signal
from starburst_executor.study.metrics import Output
from starburst_executor.study.stage import OWN_NAMES, names_in
from starburst_executor.study.trial import Trial

__all__ = ["filled", "run_command"]

_LAST_LINES = 3


def filled(command: str | tuple[str, ...], values: dict[str, Any]) -> list[str]:
    """Return the words of a command with its parameters. A parameter with blanks stays one word. Raises: TrialFailed."""
    words = shlex.split(command) if isinstance(command, str) else command
    try:
        return [word.format_map(values) for word in words]
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise TrialFailed(
            f"the command cannot be filled in: {type(error).__name__}: {error}; there are {', '.join(sorted(values))}, and a brace itself is "
            "written {{"
        ) from error


def run_command(trial: Trial, command: str | tuple[str, ...], *, here: str, timeout: float | None) -> Output:
    """Run a trial's command to its end; print what it printed, and return it.

    Raises: TrialFailed: it cannot be started, ends with another status than 0, or takes longer than `timeout` seconds: it is then killed
        with the processes that it started. What it leaves in the background is killed when it ends.
    """
    if hidden := sorted(OWN_NAMES & trial.params.keys() & names_in(command)):
        raise TrialFailed(
            f"the command cannot be filled in: {', '.join(hidden)} is a parameter of this trial, and the trial's own value: call the parameter "
            "something else"
        )
    values = {
        **trial.params,
        "index": trial.index,
        "stage": trial.stage,
        "seed": trial.seed,
        "case": getattr(trial.case, "name", trial.case),
        "folder": trial.folder,
        "here": here,
    }
    words = filled(command, values)
    try:
        code, printed, _ = run_to_end(words, folder=trial.folder, timeout=timeout, joins=True)
    except OSError as error:
        raise TrialFailed(f"the command cannot be started: {error.strerror}: {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise TrialFailed(
            f"the command took longer than {timeout:g} s and was killed: {words[0]}", TIMED_OUT
        ) from error
    text = printed.decode("utf-8", "replace")
    sys.stdout.write(text)
    _check(code, words, text)
    return Output(text, trial.folder)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real-time programs
        return f"signal {number}"


def _check(code: int, words: list[str], text: str) -> None:
    if code == 0:
        return
    last = " | ".join(line.strip() for line in text.strip().splitlines()[-_LAST_LINES:])
    said = f": {last}" if last else ""
    if code < 0:
        raise TrialFailed(f"the command was killed by {_signal_name(-code)}: {words[0]}{said}", kind_of_signal(-code))
    kind = "disk full" if "No space left on device" in text else RAISED
    raise TrialFailed(f"the command exited with status {code}: {words[0]}{said}", kind)
