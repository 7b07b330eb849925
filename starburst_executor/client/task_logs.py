"""What tasks wrote and logged: read from the store for a future, and passed on to this process's own `logging`.

log object ──► output_of ──► future.log(), executor.output(future)
           ──► TaskLogger ──► the logger of the record's name, in this process         (`task_logs`)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import InvalidStateError
from typing import Any

from starburst_executor.client.completing import FoundBlock
from starburst_executor.errors import ConfigError, PayloadError, RecordInvalid, SessionNotFound
from starburst_executor.protocol.keys import StatusRef, task_id, worker_of
from starburst_executor.protocol.logged import Logged, decode_logged
from starburst_executor.session.payloads import Output
from starburst_executor.session.store import SessionStore

__all__ = ["TaskLogger", "level_number", "output_of"]

_log = logging.getLogger(__name__)


def level_number(level: int | str | None) -> int | None:
    """Return the number of a level that may be given by its name. Raises: ConfigError."""
    if not isinstance(level, str):
        return level
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ConfigError(
            f"task_logs={level!r} (an argument): must be a level of logging: a number 1..100, or a name such as INFO"
        )
    return number


def output_of(session: SessionStore, ordinal: int, index: int) -> Output:
    """Return what a task wrote and logged.

    Raises: InvalidStateError: the task has not ended; SessionNotFound: the session was deleted.
    Store: 1 GET, 1 LIST for each epoch of its submitter up to the task's, 1 GET; 1 GET if it wrote anything.
    """
    name = task_id(ordinal, index)
    manifest = session.manifest.refresh()
    submitters = manifest.submitters
    epochs = submitters[ordinal].epochs if ordinal < len(submitters) else 0
    for epoch in range(epochs):
        for listed in session.statuses.of_epochs([(ordinal, epoch)]):
            ref = listed.ref
            if ref.first <= index < ref.first + ref.n_tasks:
                entry = session.statuses.read(listed.key).status.entry(index - ref.first)
                if not entry.has_ended:
                    raise InvalidStateError(
                        f"the task has not ended, and its output is stored with its outcome: task={name}"
                    )
                return session.payloads.output(ref.status_id, entry.log)
    if manifest.state.is_over:
        raise SessionNotFound(f"the session is over, and the output of this task is not there: task={name}")
    raise InvalidStateError(f"the task is not stored yet: task={name}")


class TaskLogger:
    """Passes the records of tasks on to this process's `logging`, with task, worker and session. Thread-safe."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session

    def ended(self, ref: StatusRef, found: Sequence[FoundBlock]) -> None:
        """Log what tasks of one status object have logged: of these blocks of outcomes, those that futures wait for.

        Store: 1 GET for each log object, of all that these tasks wrote.
        """
        written = [
            (position, place, of_block.block.claim)
            for of_block in found
            if of_block.block.logs
            for position in of_block.positions()
            if (place := of_block.block.log(position)) is not None
        ]
        try:
            outputs = self._session.payloads.outputs(ref.status_id, [place for _, place, _ in written])
        except (PayloadError, RecordInvalid) as error:
            _log.warning("records of tasks cannot be read: %s", error)
            return
        for position, place, claim in written:
            for logged in decode_logged(outputs[place].records):
                self._pass_on(logged, task_id(ref.ordinal, ref.first + position), worker_of(claim))

    def _pass_on(self, logged: Logged, task: str, worker: str) -> None:
        logger = _logger(logged.name)
        if not logger.isEnabledFor(logged.level):
            return
        facts: dict[str, Any] = {
            "name": logged.name,
            "levelno": logged.level,
            "levelname": logging.getLevelName(logged.level),
            "msg": f"[{task}] {logged.message}",
            "pathname": logged.path,
            "filename": logged.path.rpartition("/")[2],
            "module": logged.path.rpartition("/")[2].partition(".")[0],
            "lineno": logged.line,
            "funcName": logged.function,
            "exc_text": logged.traceback or None,
            "created": logged.at,
            "msecs": logged.at % 1 * 1000,
            "process": None,
            "processName": worker,
            "thread": None,
            "threadName": "",
            "session": self._session.session_id,
            "task": task,
            "worker": worker,
        }
        try:
            logger.handle(logging.makeLogRecord(facts))
        except Exception as error:  # user code runs here: filters and handlers
            _log.warning("a record of a task was not logged: task=%s: %s: %s", task, type(error).__name__, error)


def _logger(name: str) -> logging.Logger:
    """Return the logger of this name, or the nearest above it that exists: names come from tasks, and a logger is never forgotten."""
    known = logging.root.manager.loggerDict
    while name:
        logger = known.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return logging.root
