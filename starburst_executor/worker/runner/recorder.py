"""Records what tasks log: `logging` records and warnings, on request (`task_logs`), beside what they print.

    logger.info(…) ──► Logger.callHandlers ──► Recorder ──one write──► the file of notes ──► the agent, with the task's outcome
    warnings.warn(…) ──► warnings.showwarning ──┘

No handler is installed: `logging.basicConfig` in a task works as ever, and what a task prints does not change. Only the root logger's level is
lowered to the requested one, or no logger would pass such records on.

Guarantee: a task's records are in the file before its outcome is recorded, and a crash loses none. A record is one write, so that threads and
forked processes do not mix them. Errors of a record's own `__str__` stay in the record.
"""

from __future__ import annotations

import logging
import os
import struct
import traceback
import warnings
from contextlib import suppress
from typing import Any, TextIO

from starburst_executor.protocol.logged import MOST_BYTES, Logged, encode_logged

__all__ = ["HEAD", "Recorder"]

# Before each record: the number of its job, and its length.
HEAD = struct.Struct("<QI")
_OWN = __name__.partition(".")[0]


class Recorder:
    """Records what is logged in this process and in those that it forks.

    Args:
        fd: The file, open for appending.
        level: The lowest level that is recorded.
    """

    def __init__(self, fd: int, level: int) -> None:
        self._fd = fd
        self._level = level
        self._number = 0  # the running job
        self._left = MOST_BYTES
        self._n_dropped = 0

    def begin(self, number: int) -> None:
        """Count what follows for this job."""
        self._number, self._left, self._n_dropped = number, MOST_BYTES, 0

    def end(self) -> None:
        """Say what was dropped. Call it when the job has ended, before its outcome is recorded."""
        if self._n_dropped:
            words = f"{self._n_dropped:,} further records of this task were dropped: more than {MOST_BYTES // 1024} KB"
            self._write(encode_logged(Logged(logging.WARNING, _OWN, words, 0.0)))
        self._number = 0

    def install(self) -> None:
        """Record from now on whatever loggers pass to their handlers, and warnings that are shown."""
        handle, show = logging.Logger.callHandlers, warnings.showwarning

        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            self._record(record)
            handle(logger, record)

        def show_warning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if self._level <= logging.WARNING:
                words = f"{category.__name__}: {_text(message)}"
                self._add(Logged(logging.WARNING, "py.warnings", words, _now(), filename, lineno))
            show(message, category, filename, lineno, file, line)

        logging.Logger.callHandlers = call_handlers  # type: ignore[assignment,method-assign]
        warnings.showwarning = show_warning
        root = logging.getLogger()
        if root.level == logging.NOTSET or root.level > self._level:
            root.setLevel(self._level)

    def _record(self, record: logging.LogRecord) -> None:
        if record.levelno < self._level or record.name.partition(".")[0] == _OWN:
            return
        try:
            message = record.getMessage()
        except Exception as error:  # user code runs here: the arguments' own __str__
            message = f"{_text(record.msg)} (its arguments cannot be shown: {type(error).__name__})"
        trace = record.exc_text or ""
        if not trace and record.exc_info and record.exc_info[0] is not None:
            with suppress(Exception):
                trace = "".join(traceback.format_exception(*record.exc_info))
        self._add(
            Logged(
                record.levelno, record.name, message, record.created, record.pathname, record.lineno,
                record.funcName or "", trace.rstrip("\n"),
            )
        )  # fmt: skip

    def _add(self, logged: Logged) -> None:
        if not self._number:
            return
        with suppress(Exception):  # a record that is not text, or a closed file: the task goes on
            body = encode_logged(logged)
            if len(body) > self._left:
                self._left = 0  # no small one after a big one that was dropped
                self._n_dropped += 1
                return
            self._left -= len(body)
            self._write(body)

    def _write(self, body: bytes) -> None:
        with suppress(OSError):
            os.write(self._fd, HEAD.pack(self._number, len(body)) + body)


def _now() -> float:
    # The time as `logging` takes it.
    return logging.makeLogRecord({}).created


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # user code runs here
        return f"<{type(value).__name__} without text: {type(error).__name__}>"
