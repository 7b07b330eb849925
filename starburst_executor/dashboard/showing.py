"""Shows a task's call and result as text: plain values at once, everything else in a process of its own, on request.

    record ──plain?──► text                                   an unpickler that knows no class and no function
         └──else─────► "on request" ──► shown.py ──► text     a process that may hang, crash or exit; killed after 60 s

Assumes: a pickle of plain values names nothing, so that an unpickler which refuses every name runs no code of anybody.
"""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from starburst_executor.client.reading import Block, Reading, Task
from starburst_executor.errors import KeyNotFound, PayloadError, RecordInvalid
from starburst_executor.protocol import calls, pieces
from starburst_executor.protocol.spans.record import State
from starburst_executor.store.url import join_url
from starburst_executor.texts import shortened

__all__ = ["Shown", "plain_call", "plain_result", "plain_text", "unpickled"]

_MOST_CHARACTERS = 4000
_MOST_DEPTH = 30
# Bigger ones are read on request only: every page of a task would fetch them.
_MOST_BYTES = 256 * 1024
_CHILD_S = 60.0
_RESULT = b"V"


class Shown(NamedTuple):
    """A value as text, or why there is none.

    Attributes:
        text: The text; empty if it cannot be shown.
        problem: Why.
        may_run: Whether it can be shown on request, by a process that unpickles it.
    """

    text: str
    problem: str = ""
    may_run: bool = False


_ON_REQUEST = Shown(
    "", "it is not made of plain values only, so to show it, code of the session must run", may_run=True
)
_TOO_BIG = Shown("", "it is too big to be read for every visit of this page", may_run=True)


def plain_call(reading: Reading, block: Block, task: Task) -> Shown:
    """Return the arguments of a task, if they are plain values. Store: at most 1 GET."""
    if task.state == State.COMPLETED:
        return Shown("", "the arguments of completed tasks are not kept")
    try:
        record, _ = reading.call_record(block, task)
    except (PayloadError, RecordInvalid, KeyNotFound) as error:
        return Shown("", str(error))
    if pieces.decode(record) is not None or len(record) > _MOST_BYTES:
        return _TOO_BIG
    try:
        args, kwargs = calls.read_call(_Plain(io.BytesIO(record)))
        return Shown(_call_text(args, kwargs))
    except Exception:  # whatever a pickle with names, or a damaged one, leads to
        return _ON_REQUEST


def plain_result(reading: Reading, block: Block, task: Task, stored: int) -> Shown:
    """Return the result of a completed task, if it is a plain value. Store: 1 GET if it is not inline.

    Args:
        stored: Its size in bytes.
    """
    if stored > _MOST_BYTES:
        return _TOO_BIG
    try:
        body = reading.outcome(block, task)
    except (PayloadError, RecordInvalid, KeyNotFound) as error:
        return Shown("", str(error))
    if body is None or bytes(body[:1]) != _RESULT:
        return Shown("", "it has none")
    try:
        return Shown(plain_text(_Plain(io.BytesIO(bytes(body[1:]))).load()))
    except Exception:  # as above
        return _ON_REQUEST


class _Plain(pickle.Unpickler):
    """Loads plain values only: it refuses each name, so it can call nothing."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"not a plain value: {module_name}.{global_name}")

    def persistent_load(self, pid: Any, /) -> NoReturn:
        raise pickle.UnpicklingError(f"not a plain value: {type(pid).__name__}")


def plain_text(value: object, most: int = _MOST_CHARACTERS) -> str:
    """Return plain values as text of bounded length: lists that contain each other many times stay short."""
    parts: list[str] = []
    left = most
    for part in _parts(value, _MOST_DEPTH):
        parts.append(part)
        left -= len(part)
        if left <= 0:
            return "".join(parts)[:most] + "…"
    return "".join(parts)


def _call_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    texts = [plain_text(arg) for arg in args] + [f"{name}={plain_text(value)}" for name, value in kwargs.items()]
    return plain_cut(", ".join(texts)) or "(no arguments)"


def plain_cut(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return the beginning of a text."""
    return shortened(text, most)


_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), frozenset: ("frozenset({", "})"), dict: ("{", "}"),
}  # fmt: skip


def _parts(value: object, depth: int) -> Iterator[str]:
    kind = type(value)
    if kind not in _BRACKETS:
        yield _atom(value)
        return
    opening, closing = _BRACKETS[kind]
    yield opening
    if depth == 0:
        yield "…"
    elif isinstance(value, dict):
        for i, (key, item) in enumerate(value.items()):
            yield ", " if i else ""
            yield from _parts(key, depth - 1)
            yield ": "
            yield from _parts(item, depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for i, item in enumerate(value):
            yield ", " if i else ""
            yield from _parts(item, depth - 1)
        if kind is tuple and len(value) == 1:
            yield ","
    yield closing


def _atom(value: object) -> str:
    if isinstance(value, (str, bytes, bytearray)) and len(value) > _MOST_CHARACTERS:
        return f"{value[:_MOST_CHARACTERS]!r}… ({len(value):,} in all)"
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"(a {type(value).__name__} that is too long to be printed)"


def unpickled(reading: Reading, tasks: list[str], kind: str) -> list[Shown]:
    """Return calls or results as text, by a process that unpickles them. Blocks, up to 60 s.

    Args:
        tasks: Ids of tasks.
        kind: `call` or `result`.
    """
    url = join_url(reading.session.store.url, reading.session.session_id)
    order = {"url": url, "tasks": tasks, "kind": kind}
    # The current folder is on the path of `-m`, so that modules beside the user's scripts are found.
    command = [sys.executable, "-m", "starburst_executor.dashboard.shown"]
    try:
        done = subprocess.run(
            command, input=json.dumps(order).encode(), capture_output=True, timeout=_CHILD_S, check=False
        )
    except subprocess.TimeoutExpired:
        problem = f"it took longer than {_CHILD_S:.0f} s, and was stopped"
        return [Shown("", problem, may_run=True) for _ in tasks]
    try:
        texts = json.loads(done.stdout.rpartition(b"\n")[2])
        return [Shown(plain_cut(str(text), 4 * _MOST_CHARACTERS)) for text in texts]
    except ValueError:
        return [
            Shown("", f"the process that unpickled it ended with status {done.returncode}", may_run=True) for _ in tasks
        ]
