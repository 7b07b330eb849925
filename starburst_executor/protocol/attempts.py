"""The errors of earlier tries: of tasks that failed and were, or will be, tried again. A column of their status object.

    a try fails, another is left ──► FailedTry ──► the swap that counts the failure ──► Status.more["errors"]

The column is a table of texts and a row for each try, deflated; most tries fail with few different errors. It has a bound: the oldest tries go
first, and once the texts are too many, further messages are left out. A task that is not tried again has its error in its outcome.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgpack

from starburst_executor.protocol.spans.record import Status
from starburst_executor.texts import shortened

__all__ = ["ERRORS", "Attempt", "FailedTry", "attempts_of", "with_errors"]

ERRORS = "errors"
_MOST_ROWS = 4096
_MOST_TEXT = 300
_MOST_TEXTS_BYTES = 64 * 1024
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try of a task that failed and was followed by another one, or will be.

    Attributes:
        attempt: Its number, as `current_task().attempt` in it.
        error: The exception's class and message, up to 300 characters.
        worker: The worker that made it.
        at: When it ended, UTC epoch seconds by that worker's clock.
    """

    attempt: int
    error: str
    worker: str
    at: float


class FailedTry(NamedTuple):
    """A try that failed, and the position of its task in its status object."""

    position: int
    run: int
    attempt: int
    error: str
    worker: str
    at: float


def with_errors(status: Status, tries: Iterable[FailedTry]) -> Status:
    """Return the status with these tries added; the same object if it has them all. Repeating it is harmless."""
    known = _unpacked(status)
    there = set(known)
    new = [one for one in (_cut(one) for one in tries) if one not in there]
    if not new:
        return status
    column = _packed([*known, *new][-_MOST_ROWS:])
    return replace(status, more={**(status.more or {}), ERRORS: column})


def attempts_of(status: Status) -> dict[int, list[Attempt]]:
    """Return the tries of each task that has any, by position, in order. A column that cannot be read counts as empty."""
    found: dict[int, list[Attempt]] = {}
    for position, _, attempt, error, worker, at in _unpacked(status):
        found.setdefault(position, []).append(Attempt(attempt, error, worker, at))
    return found


def _cut(one: FailedTry) -> FailedTry:
    return one._replace(error=shortened(one.error, _MOST_TEXT))


def _packed(tries: list[FailedTry]) -> bytes:
    texts: dict[str, int] = {}
    n_bytes = 0
    rows = []
    for position, run, attempt, error, worker, at in tries:
        text = error
        if text not in texts and n_bytes > _MOST_TEXTS_BYTES:
            text = error.partition(":")[0]
        n_bytes += 0 if text in texts else len(text)
        numbers = [texts.setdefault(one, len(texts)) for one in (text, worker)]
        rows.append((position, run, attempt, *numbers, at))
    return zlib.compress(msgpack.packb((list(texts), rows), unicode_errors="surrogatepass"))


def _unpacked(status: Status) -> list[FailedTry]:
    stored: Any = (status.more or {}).get(ERRORS)
    if type(stored) is not bytes:
        return []
    try:
        body = zlib.decompressobj().decompress(stored, _MOST_BYTES)
        texts, rows = msgpack.unpackb(body, unicode_errors="surrogatepass")
        return [
            FailedTry(int(position), int(run), int(attempt), str(texts[error]), str(texts[worker]), float(at))
            for position, run, attempt, error, worker, at in rows
        ]
    except (zlib.error, ValueError, TypeError, IndexError, msgpack.UnpackException):
        # For people only: no outcome depends on it.
        return []
