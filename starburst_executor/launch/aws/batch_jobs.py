"""Looks at the jobs of AWS Batch. The questions of clients are answered from the latest poll."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from starburst_executor.aws.clients import FOREIGN, meaning
from starburst_executor.clock import Clock
from starburst_executor.errors import StarburstError
from starburst_executor.launch.aws.batch_attempts import JobState, read_job, streams_of
from starburst_executor.launch.aws.batch_handle import BatchHandle
from starburst_executor.launch.aws.batch_queue import JobQueues
from starburst_executor.launch.aws.launches_seen import LaunchesSeen
from starburst_executor.launch.aws.remote import Account, LastLines

__all__ = ["BatchJobs"]

_log = logging.getLogger(__name__)

_DESCRIBE_MOST = 100
_SUBMITTED = JobState("SUBMITTED")


@dataclass(slots=True)
class _BatchLaunch:
    """The state of a launch.

    Attributes:
        jobs: The states of its jobs, by id.
        successors: The ids of the jobs that its workers submitted, as Batch still lists them.
        ended: The jobs that were ended with the session.
    """

    jobs: dict[str, JobState] = field(default_factory=dict)
    successors: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    next_poll_at: float = float("-inf")
    asked_at: float = 0.0


class BatchJobs:
    """The jobs of one launcher. Called by one thread at a time."""

    def __init__(self, account: Account, queues: JobQueues, clock: Clock) -> None:
        self._account = account
        self._queues = queues
        self._launches = LaunchesSeen(clock, _BatchLaunch)

    def add(self, launch: BatchHandle) -> None:
        """Take note of a launch whose job has just been submitted. No request: Batch may not know it yet."""
        self._launches.postpone(self._launches.of(launch.launch_id))

    def look(self, launch: BatchHandle) -> Iterator[tuple[str, JobState]]:
        """Yield the jobs of a launch with their states. Batch: 1 DescribeJobs per 100 jobs, at most every 15 s."""
        if not launch.job_id:
            return
        state = self._launches.of(launch.launch_id)
        if self._launches.is_due(state):
            self._ask(launch, state)
        for job_id in (*launch.children, *state.successors):
            yield job_id, state.jobs.get(job_id, _SUBMITTED)

    def _ask(self, launch: BatchHandle, state: _BatchLaunch) -> None:
        """Describe the jobs that have not ended. Errors are logged: without an answer, no worker counts as dead."""
        jobs = (*launch.children, *state.successors)
        unended = [job_id for job_id in jobs if not state.jobs.get(job_id, _SUBMITTED).has_ended]
        logs = LastLines(self._account)
        for i in range(0, len(unended), _DESCRIBE_MOST):
            try:
                answer = self._account.clients.get("batch").describe_jobs(jobs=unended[i : i + _DESCRIBE_MOST])
            except (*FOREIGN, StarburstError) as error:
                _log.info("the Batch jobs could not be described; retrying later: %s", error)
                return
            for job in answer.get("jobs", []):
                job_id = str(job["jobId"])
                state.jobs[job_id] = read_job(launch, job, state.jobs.get(job_id, _SUBMITTED), logs)
        # After the jobs, so that a job that has just ended and its successor count as one worker.
        self._look_for_successors(launch, state)

    def _look_for_successors(self, launch: BatchHandle, state: _BatchLaunch) -> None:
        """Find the jobs that workers submitted at their last allowed start. Batch: 1 or 2, if a job may have a successor."""
        if not any(job.may_have_successor for job in state.jobs.values()):
            return
        try:
            state.successors = self._queues.successors(launch)
        except (*FOREIGN, StarburstError) as error:
            _log.info("the session's Batch jobs could not be listed; retrying later: %s", error)
            return
        # Guarantee: bounded. Batch lists a job for a week after its end; of older ones nothing is remembered.
        listed = {*launch.children, *state.successors}
        state.jobs = {job_id: job for job_id, job in state.jobs.items() if job_id in listed}

    def log_streams(self, launch: BatchHandle) -> Iterator[tuple[str, str]]:
        """Yield the log stream and the worker's id of each attempt. Raises: LaunchError, ConfigError. Batch: 1 per 100 jobs."""
        if not launch.job_id:
            return
        try:
            jobs = [*launch.children, *self._queues.successors(launch)]
        except FOREIGN as error:
            raise meaning(error, "listing a launch's Batch jobs") from error
        for i in range(0, len(jobs), _DESCRIBE_MOST):
            try:
                answer = self._account.clients.get("batch").describe_jobs(jobs=jobs[i : i + _DESCRIBE_MOST])
            except FOREIGN as error:
                raise meaning(error, "reading the log streams of Batch jobs") from error
            for job in answer.get("jobs", []):
                yield from streams_of(launch, job)

    def end(self, launch: BatchHandle, reason: str) -> None:
        """End the launch's job and all successors; each once. Errors are logged. Batch: 1 or 2, and 1 for each."""
        try:
            # The handle lacks the job's id if the client died after it submitted the job.
            jobs = [launch.job_id or self._queues.find(launch), *self._queues.successors(launch)]
        except (*FOREIGN, StarburstError) as error:
            _log.warning("the session's Batch jobs could not be listed: %s", error)
            return
        ended = self._launches.of(launch.launch_id).ended
        for job_id in jobs:
            if job_id and job_id not in ended:
                ended.add(job_id)
                self._queues.terminate(job_id, reason)
