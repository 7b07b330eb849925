"""What Batch's description of a job means: each attempt that has ended was a worker, with a reason for its death.

Pure: no I/O; the last lines of a log are read by a function that the caller passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starburst_executor.aws.stack.causes import start_advice
from starburst_executor.launch.aws.batch_handle import BatchHandle
from starburst_executor.launch.aws.options import BATCH_STARTS_MOST
from starburst_executor.launch.base import Death
from starburst_executor.launch.bootstrap import EXIT_DRAINED, SIGNALLED

__all__ = ["JobState", "read_job", "streams_of"]

_ENDED = ("SUCCEEDED", "FAILED")
# Batch's reason for an attempt whose machine was reclaimed: on Fargate Spot, and on an EC2 instance of any kind.
# Source: https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html, "Host EC2*"
_INTERRUPTED = re.compile(r"Spot Task was interrupted|^Host EC2 .*terminated", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as last described.

    Attributes:
        deaths: One for each attempt that has ended, in order.
        n_interrupted: The number of attempts that ended because their machine was reclaimed.
    """

    status: str
    reason: str = ""
    deaths: tuple[Death, ...] = ()
    n_interrupted: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether Batch starts it no more."""
        return self.status in _ENDED

    @property
    def is_running(self) -> bool:
        """Whether an attempt has begun and not ended."""
        return self.status == "RUNNING"

    @property
    def may_have_successor(self) -> bool:
        """Whether Batch has started it as often as it may, or it ended after an interruption: then its worker may have
        submitted a successor.
        """
        return len(self.deaths) >= BATCH_STARTS_MOST or (self.status == "FAILED" and self.n_interrupted > 0)


def read_job(
    launch: BatchHandle, job: Mapping[str, Any], before: JobState, last_lines: Callable[[str], str]
) -> JobState:
    """Return the state of a job from its description and its last state.

    `last_lines` is called with the log stream of each attempt that has failed since.
    """
    job_id, attempts = str(job["jobId"]), job.get("attempts", [])
    # Batch may list an attempt that is still running; the worker is dead once the attempt has stopped.
    # https://docs.aws.amazon.com/batch/latest/APIReference/API_AttemptDetail.html
    is_over = job.get("status") in _ENDED
    running = (i for i, attempt in enumerate(attempts) if not (is_over or attempt.get("stoppedAt")))
    n_stopped = next(running, len(attempts))
    deaths, n_interrupted = list(before.deaths), before.n_interrupted
    for number in range(len(deaths) + 1, n_stopped + 1):
        attempt = attempts[number - 1]
        container = attempt.get("container", {})
        exit_code = container.get("exitCode")
        status_reason = str(attempt.get("statusReason", ""))
        words = [status_reason, str(container.get("reason", ""))]
        words.append("" if exit_code is None else f"exit status {exit_code}")
        if exit_code not in (None, 0, EXIT_DRAINED) and container.get("logStreamName"):
            words.append(last_lines(str(container["logStreamName"])))
        words.append(start_advice("; ".join(words)))
        reason = f"{'; '.join(dict.fromkeys(filter(None, words)))}: job {job_id}, attempt {number}"
        # Unless the job is over, Batch restarts it by its own rules: no sign that workers cannot start.
        was_killed = type(exit_code) is int and exit_code > SIGNALLED
        was_interrupted = _INTERRUPTED.search(status_reason) is not None
        worker_id = launch.worker_id(job_id, number)
        deaths.append(Death(worker_id, reason, was_taken=was_interrupted or not is_over, was_killed=was_killed))
        n_interrupted += was_interrupted
    return JobState(str(job["status"]), str(job.get("statusReason", "")), tuple(deaths), n_interrupted)


def streams_of(launch: BatchHandle, job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the log stream and the worker's id of each attempt of a job, from its description."""
    containers = [attempt.get("container", {}) for attempt in job.get("attempts", [])]
    ended = [str(container["logStreamName"]) for container in containers if container.get("logStreamName")]
    running = str(job.get("container", {}).get("logStreamName", ""))
    for number, stream in enumerate(dict.fromkeys([*ended, *filter(None, [running])]), 1):
        yield stream, launch.worker_id(str(job["jobId"]), number)
