"""Records of `logging` and warnings that a task wrote, as they are stored with its output: plain values, bounded.

    runner ──encode──► one msgpack list a record, one after the other ──► log object ──decode──► client

A process that can write into the store can write such records too, since output has no seal: a record is text for people, and decoding it runs
no code. What cannot be read ends the list.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import msgpack

__all__ = ["MOST_BYTES", "Logged", "decode_logged", "encode_logged"]

# Of one task; the records after that are counted and dropped.
MOST_BYTES = 64 * 1024
_TEXT_CHARS = 8 * 1024
_NAME_CHARS = 256
_PATH_CHARS = 1024
_ANY = "surrogatepass"


class Logged(NamedTuple):
    """One record.

    Attributes:
        level: Its number, as 20 for INFO.
        name: Of the logger.
        message: With its arguments.
        at: When it was made, UTC epoch seconds by the clock of the worker.
        path: The source file.
        line: The line in it.
        function: The function that logged.
        traceback: The text of an exception that was logged with it; empty if there was none.
    """

    level: int
    name: str
    message: str
    at: float
    path: str = ""
    line: int = 0
    function: str = ""
    traceback: str = ""


def encode_logged(record: Logged) -> bytes:
    """Return a record as bytes; long texts are cut."""
    packed: bytes = msgpack.packb(
        (
            record.level,
            record.name[:_NAME_CHARS],
            _cut(record.message),
            record.at,
            record.path[-_PATH_CHARS:],
            record.line,
            record.function[:_NAME_CHARS],
            _cut(record.traceback),
        ),
        unicode_errors=_ANY,
    )
    return packed


def _cut(text: str) -> str:
    if len(text) <= _TEXT_CHARS:
        return text
    # The last lines of a traceback tell most.
    return f"{text[: _TEXT_CHARS // 2]}\n…\n{text[-_TEXT_CHARS // 2 :]}"


def decode_logged(body: bytes) -> Iterator[Logged]:
    """Yield the records; stop at what is none."""
    unpacker = msgpack.Unpacker(io.BytesIO(body), use_list=False, unicode_errors="replace", strict_map_key=True)
    try:
        for fields in unpacker:
            if not isinstance(fields, tuple) or tuple(map(type, fields)) not in _KINDS:
                return
            yield Logged(*fields)
    except (ValueError, TypeError, msgpack.UnpackException):
        return


_KINDS = {(int, str, str, at, str, int, str, str) for at in (float, int)}
