"""Reads the output of a session: tasks' captured output from the store, workers' own lines from CloudWatch.

Both are read in rounds. Each round gives the lines that are new since the one before, so that a caller can follow them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from starburst_executor.client.handles import handle_of
from starburst_executor.client.reading import no_such_task
from starburst_executor.errors import ConfigError, ObjectNotFound, PayloadError, RecordInvalid, VersionMismatch
from starburst_executor.launch.aws.on_aws import AwsLauncher
from starburst_executor.protocol.keys import task_id
from starburst_executor.protocol.logged import decode_logged
from starburst_executor.protocol.spans.record import State, Status
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["LogLine", "TaskLogs", "WorkerLogs", "has_ended"]

_log = logging.getLogger(__name__)

# The common prefix of the log streams of all workers.
_ALL = "worker/"
# CloudWatch shows lines some seconds late and out of order: each round reads this much of the time before it again.
_LATE_S = 60.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line, without its end.

    Attributes:
        source: The task's or worker's id.
        is_error: Whether it was written to standard error; False for all lines of workers, where this is unknown.
    """

    source: str
    text: str
    is_error: bool = False


def has_ended(session: SessionStore) -> bool:
    """Whether no more output will follow: the session is over, or all its tasks have ended. Store: 1 GET, 1 LIST."""
    return session.manifest.refresh().state.is_over or all(
        listed.size_class.has_ended for listed in session.statuses.all()
    )


@dataclass(slots=True)
class _Printed:
    """What was printed of the output of one status object's tasks.

    Attributes:
        etag: The version that was read; empty before the first.
        up_to_run: All runs up to this one were printed, of every task; -1 for none.
        runs: The latest printed run of single tasks, by index.
    """

    etag: str = ""
    up_to_run: int = -1
    runs: dict[int, int] = field(default_factory=dict)

    def has(self, index: int, run: int) -> bool:
        """Whether this run of a task was printed."""
        return run <= max(self.up_to_run, self.runs.get(index, -1))

    def add(self, index: int, run: int) -> None:
        """Note that this run of a task is printed."""
        self.runs[index] = run

    def settle(self, status: Status) -> None:
        """Forget the single tasks once all have ended in the same run. An explicit retry of some opens the next one."""
        runs = {span.run for span in status.spans}
        if len(runs) == 1 and all(span.has_ended for span in status.spans):
            self.up_to_run = max(self.up_to_run, *runs)
            self.runs.clear()


class TaskLogs:
    """Reads the captured output of tasks that have ended.

    Args:
        task: One task's id; None for all.
        failed: Only of tasks that failed.
        since: Only of tasks that have ended since then, UTC epoch seconds.
    Raises:
        ConfigError: that is not a task's id.
    """

    def __init__(
        self, session: SessionStore, task: str | None = None, *, failed: bool = False, since: float = 0.0
    ) -> None:
        self._failed = failed
        self._since = since
        self._session = session
        self._task = None if task is None else _parsed(task)
        self._printed: dict[str, _Printed] = {}  # by the status object's key

    def fresh(self) -> Iterator[LogLine]:
        """Yield the lines of tasks that have ended since the last round, in submission order; standard output first.

        Raises: ConfigError: the session has no such task.
        Store: 1 LIST per 1,000 status objects, 1 GET for each changed one, 1 GET for each task with output.
        """
        known = self._session.statuses.all()
        listing = [listed for listed in known if self._is_asked(listed)]
        if self._task is not None and not listing:
            raise no_such_task(task_id(*self._task), known)
        # Guarantee: bounded by the listing. Of a status object whose tasks have all ended, one record stays, not one a task.
        self._printed = {listed.key: self._printed.get(listed.key) or _Printed() for listed in listing}
        for listed in listing:
            printed = self._printed[listed.key]
            if printed.etag != listed.etag:
                yield from self._of(listed, printed)
                printed.etag = listed.etag

    def _is_asked(self, listed: ListedStatus) -> bool:
        ref = listed.ref
        if self._task is None:
            return True
        ordinal, index = self._task
        return ref.ordinal == ordinal and ref.first <= index < ref.first + ref.n_tasks

    def _of(self, listed: ListedStatus, printed: _Printed) -> Iterator[LogLine]:
        try:
            stored = self._session.statuses.read(listed.key)
        except (ObjectNotFound, RecordInvalid, VersionMismatch) as error:
            _log.warning("no output of these tasks: %s", error)
            return
        for index, entry in enumerate(stored.status.entries, listed.ref.first):
            name = f"{listed.ref.ordinal}-{index}"
            if entry.log is None or not entry.has_ended or printed.has(index, entry.run):
                continue
            if entry.at < self._since or (self._failed and entry.state != State.FAILED):
                continue
            if self._task is not None and self._task != (listed.ref.ordinal, index):
                continue
            printed.add(index, entry.run)
            try:
                output = self._session.payloads.output(listed.ref.status_id, entry.log)
            except (PayloadError, RecordInvalid) as error:
                _log.warning("no output of this task: task=%s: %s", name, error)
                continue
            for text, is_error in ((output.stdout, False), (output.stderr, True), (_recorded(output.records), True)):
                yield from (LogLine(name, line, is_error) for line in text.splitlines())
        printed.settle(stored.status)


class WorkerLogs:
    """Reads workers' own lines.

    Args:
        launcher: The session's launcher.
        worker: One worker's id; None for all.
    Raises:
        ConfigError: the session's workers do not log to CloudWatch.
    """

    def __init__(self, session: SessionStore, launcher: object, worker: str | None = None) -> None:
        if not isinstance(launcher, AwsLauncher):
            raise ConfigError(
                f"only workers on AWS log to CloudWatch: launcher={session.manifest.current.launcher!r}; a local worker of a detached "
                "session writes to a file in logs/ of the data folder, any other one to its standard error"
            )
        self._session = session
        self._launcher = launcher
        self._worker = worker
        self._since = session.manifest.current.created_at
        self._printed: dict[str, float] = {}  # the time of each event, by its id

    def fresh(self) -> Iterator[LogLine]:
        """Yield the lines since the last round, oldest first.

        Raises: ConfigError: the session has no such worker; LaunchError.
        Store: 1 GET, 1 LIST. CloudWatch Logs: 1 request for 10,000 lines; Batch: 1 for 100 jobs.
        """
        streams = self._streams()
        (prefix,) = streams if self._worker is not None else (_ALL,)
        # Whole seconds: CloudWatch counts in milliseconds, and the remembered events must cover the requested time exactly.
        since = math.floor(max(self._session.manifest.current.created_at, self._since - _LATE_S))
        self._printed = {event_id: at for event_id, at in self._printed.items() if at >= since}
        for event in self._launcher.log_events(prefix, since):
            # None: other sessions of the stack log to the same group.
            worker = next((owner for begins, owner in streams.items() if event.stream.startswith(begins)), None)
            if worker is None or event.event_id in self._printed:
                continue
            self._printed[event.event_id] = event.at
            self._since = max(self._since, event.at)
            yield LogLine(worker, event.text)

    def _streams(self) -> dict[str, str]:
        session = self._session
        launches = [launch for launch in session.manifest.refresh().launches if launch.launcher == self._launcher.name]
        handles = [handle for launch in launches if (handle := handle_of(session.sealer, launch))]
        heard = [line.key.rpartition("/")[2] for line in session.store.list(session.keys.workers)]
        streams = self._launcher.log_streams(handles, heard)
        if self._worker is None:
            return streams
        wanted = {stream: owner for stream, owner in streams.items() if owner == self._worker}
        if not wanted:
            known = ", ".join(sorted(set(streams.values()))[:10]) or "none"
            raise ConfigError(f"the session has no such worker on AWS: worker={self._worker}; known are {known}")
        return wanted


def _recorded(records: bytes) -> str:
    """Return the records that a task logged as text, as `logging` prints them by default."""
    lines = []
    for logged in decode_logged(records):
        lines.append(f"{logging.getLevelName(logged.level)}:{logged.name}:{logged.message}")
        lines += [logged.traceback] if logged.traceback else []
    return "\n".join(lines)


def _parsed(task: str) -> tuple[int, int]:
    ordinal, _, index = task.partition("-")
    if not (ordinal.isdecimal() and index.isdecimal()):
        raise ConfigError(f"not a task's id: {task!r}; it is ordinal and index, such as 0-17")
    return int(ordinal), int(index)
