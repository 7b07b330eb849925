"""Sorts the failures of a session by exception and place: how many, when first and last, one traceback, inputs to try."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from starburst_executor.client.reading import Block, Reading, Task
from starburst_executor.errors import VersionMismatch
from starburst_executor.protocol.attempts import Attempt
from starburst_executor.protocol.keys import UNPACKED
from starburst_executor.protocol.outcomes import Failure
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.texts import shortened

__all__ = ["FailureKind", "failure_kinds", "place_of", "shown_call"]

# Failures of further kinds are counted together: a message in a class's name could make each failure a kind of its own.
_MOST_KINDS = 1000
_EXAMPLES = 3
_SHOWN_CHARACTERS = 200
# A worker's own folder, into which it has unpacked the user's modules: its name differs from worker to worker.
_UNPACKED = re.compile(rf".*/{re.escape(UNPACKED)}[^/]+/[^/]+/")
_FRAME = re.compile(r'^ *File "(?P<file>[^"\n]*)", line (?P<line>\d+), in (?P<name>[^\n]*)$', re.MULTILINE)


@dataclass(slots=True)
class FailureKind:
    """Failures with the same exception at the same place.

    Attributes:
        type_name: The qualified name of the exception's class.
        place: File, line and function that raised it; empty for failures that user code did not raise.
        n_tasks: How many tasks failed so.
        message: The message of the first.
        traceback: The traceback of the first.
        first_at: When the first ended, UTC epoch seconds; 0 if unknown.
        last_at: When the last ended.
        tasks: The ids of the first few.
        inputs: The arguments of these, as text.
        attempts: The attempts of each of these that failed before the last one.
    """

    type_name: str
    place: str
    n_tasks: int = 0
    message: str = ""
    traceback: str = ""
    first_at: float = 0.0
    last_at: float = 0.0
    tasks: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    attempts: list[list[Attempt]] = field(default_factory=list)


def failure_kinds(reading: Reading, *, with_inputs: bool = True) -> list[FailureKind]:
    """Return the failures of a session, the most frequent first.

    Args:
        with_inputs: Whether to unpickle example inputs, which may run the user's code.

    Raises: KeyNotFound.
    Store: 1 GET, 1 LIST an epoch, 1 GET for each status object that did not end well, 1 GET for each failure that is too big to be
    inline, and for the arguments of three tasks a kind.
    """
    reading.check_key()
    kinds: dict[tuple[str, str], FailureKind] = {}
    for block, task, failure in _failures(reading):
        label = (failure.type_name, place_of(failure.traceback))
        if label not in kinds and len(kinds) >= _MOST_KINDS:
            label = ("other exceptions", "")
        _add(kinds.setdefault(label, FailureKind(*label)), block, task, failure, reading if with_inputs else None)
    return sorted(kinds.values(), key=lambda kind: -kind.n_tasks)


def _failures(reading: Reading) -> Iterator[tuple[Block, Task, Failure]]:
    for block in reading.all(lambda listed: listed.size_class not in (SizeClass.ALL_PENDING, SizeClass.ALL_COMPLETED)):
        for task in block.tasks:
            if task.state == State.FAILED:
                yield block, task, reading.failure(block, task) or Failure("unknown", "no reason is stored", "")


def _add(kind: FailureKind, block: Block, task: Task, failure: Failure, reading: Reading | None) -> None:
    kind.n_tasks += 1
    if kind.n_tasks == 1:
        kind.message, kind.traceback = failure.message, failure.traceback
        kind.first_at = kind.last_at = task.at
    kind.first_at = min(kind.first_at, task.at)
    kind.last_at = max(kind.last_at, task.at)
    if len(kind.tasks) < _EXAMPLES:
        kind.tasks.append(task.id)
        kind.attempts.append(list(block.attempts(task)))
        if reading is not None:
            kind.inputs.append(shown_call(reading, block, task))


def place_of(traceback: str) -> str:
    """Return the innermost frame of a traceback. The same line of the same module is one place, whichever worker ran it."""
    frames = list(_FRAME.finditer(traceback))
    return f"{_UNPACKED.sub('', frames[-1]['file'])}:{frames[-1]['line']} in {frames[-1]['name']}" if frames else ""


def shown_call(reading: Reading, block: Block, task: Task) -> str:
    """Return the arguments of a task as text: `3, name='x'`; the reason, if they cannot be shown here."""
    try:
        reading.session.manifest.check_python()
        args, kwargs = reading.call(block, task)
        return ", ".join([*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())])
    except VersionMismatch:
        return "(of another version of Python)"
    except Exception as error:  # user code runs here: __setstate__, __repr__
        return f"(cannot be shown: {type(error).__name__}: {error})"


def _shown(value: Any) -> str:
    return shortened(repr(value), _SHOWN_CHARACTERS)
