"""What a dashboard may change with `--allow-actions`: retry, cancel, stop, scale, extend; each by the same calls as the command's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.finding import visit
from starburst_executor.client.tending import Tending
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.records import Manifest

__all__ = ["ACTIONS", "Action", "checked"]

_MOST_WORKERS = 10_000
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Action(NamedTuple):
    """One change of a session.

    Attributes:
        title: What the button says.
        question: The question before it is carried out.
        field: The name of a value that the user gives; empty for none.
        hint: What that value may be.
        run: Carries it out, and returns a sentence. Blocks.
    """

    title: str
    question: str
    field: str
    hint: str
    run: Callable[[str, str], str]


def _tasks(n: int) -> str:
    return f"{n:,} {'task' if n == 1 else 'tasks'}"


@contextmanager
def _attached(url: str, *, launcher: str | None) -> Iterator[DetachedExecutor]:
    executor = DetachedExecutor.reattach(url, launcher=launcher)
    try:
        yield executor
    finally:
        executor.detach()


def _retry(url: str, _: str) -> str:
    with _attached(url, launcher=None) as executor:
        return f"{_tasks(len(executor.retry_failed()))} to run again"


def _cancel(url: str, _: str) -> str:
    with _attached(url, launcher="none") as executor:
        return f"{_tasks(executor.cancel())} cancelled; those that workers hold end as usual"


def _stop(url: str, _: str) -> str:
    with _attached(url, launcher="none") as executor:
        return f"{_tasks(executor.cancel(running=True))} cancelled; workers on other machines stop theirs with their next beat"


def _scale(url: str, value: str) -> str:
    if not value.isdecimal() or not 1 <= int(value) <= _MOST_WORKERS:
        raise ConfigError(f"the number of tasks at once must be 1 to {_MOST_WORKERS:,}: {value[:20]!r}")
    with _attached(url, launcher=None) as executor, visit(url, SystemClock()) as visited:
        executor.scale(int(value))
        Tending(executor, visited.session).go_on()
        return f"up to {_tasks(int(value))} at once from now on"


def _extend(url: str, value: str) -> str:
    match = _TIME.fullmatch(value)
    if match is None:
        raise ConfigError(f"a time is a number with a unit, such as 30m, 12h or 7d: {value[:20]!r}")
    seconds = float(match[1]) * _UNITS[match[2]]
    with _attached(url, launcher="none") as executor:
        executor.extend(seconds)
    with visit(url, SystemClock()) as visited:
        deadline_at = visited.session.manifest.current.deadline_at
    return "the session never expires" if deadline_at is None else f"the session expires {value} later"


ACTIONS: Mapping[str, Action] = {
    "retry": Action("Retry failed tasks", "Run every failed task of this session again?", "", "", _retry),
    "cancel": Action(
        "Cancel waiting tasks", "Cancel every task of this session that no worker holds?", "", "", _cancel
    ),
    "stop": Action(
        "Cancel all tasks", "Cancel every unfinished task of this session, and stop those that run?", "", "", _stop
    ),
    "scale": Action(
        "Change workers", "How many tasks of this session may run at once?", "tasks at once", "1 to 10,000", _scale
    ),
    "extend": Action("Extend", "How much later may this session expire?", "time", "30m, 12h or 7d", _extend),
}


def checked(manifest: Manifest) -> None:
    """Refuse to change a session that is over. Raises: ConfigError."""
    if manifest.state.is_over:
        raise ConfigError(
            f"the session is {manifest.state.value}, so nothing of it can run again: session={manifest.session_id}"
        )
