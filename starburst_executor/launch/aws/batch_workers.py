"""The workers of one launch on AWS Batch, from any client's point of view: attempts of jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from starburst_executor.launch.aws.batch_attempts import JobState
from starburst_executor.launch.aws.batch_handle import BatchHandle
from starburst_executor.launch.aws.batch_jobs import BatchJobs
from starburst_executor.launch.aws.batch_queue import JobQueues
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.base import Death

__all__ = ["BatchWorkers"]

_FEWER = "fewer workers are needed"


class BatchWorkers:
    """See `Workers`. Batch: each question 1 DescribeJobs per 100 jobs, at most every 15 s.

    Args:
        launch: None if the handle was malformed: then there are no workers.
    """

    def __init__(self, account: Account, queues: JobQueues, jobs: BatchJobs, launch: BatchHandle | None) -> None:
        self._account = account
        self._queues = queues
        self._jobs = jobs
        self._launch = launch

    def _look(self) -> Iterator[tuple[str, JobState]]:
        return iter(()) if self._launch is None else self._jobs.look(self._launch)

    def deaths(self) -> list[Death]:
        """Return the attempts that have ended: each was a worker."""
        return [death for _, state in self._look() for death in state.deaths]

    def slots_alive(self) -> int:
        """Return the slots of all jobs that have not ended; Batch restarts those that were reclaimed."""
        n_each = 0 if self._launch is None else self._launch.n_slots_each
        return sum(n_each for _, state in self._look() if not state.has_ended)

    def interruptions(self) -> int:
        return sum(state.n_interrupted for _, state in self._look())

    def expected(self) -> list[str]:
        """Return the workers whose attempt has begun; the others still wait in the queue."""
        return list(self._begun())

    def _begun(self) -> dict[str, str]:
        """Return the jobs whose attempt has begun, by worker id."""
        launch = self._launch
        if launch is None:
            return {}
        return {
            launch.worker_id(job_id, len(state.deaths) + 1): job_id
            for job_id, state in self._look()
            if state.is_running
        }

    def describe(self) -> str:
        """Return the number of jobs in each state, and Batch's reason for one of them."""
        states = [state for _, state in self._look()]
        if not states:
            return ""
        counts = Counter(state.status for state in states)
        words = f"{len(states)} jobs: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())
        reasons = [state.reason for state in states if state.reason]
        reasons += [state.deaths[-1].words for state in states if state.deaths]
        return "; ".join([words, *reasons[-1:]])

    def log_streams(self) -> dict[str, str]:
        """Return the workers by their log streams. Raises: LaunchError, ConfigError. Batch: 1 per 100 jobs."""
        return {} if self._launch is None else dict(self._jobs.log_streams(self._launch))

    # --- stopping -----------------------------------------------------------------------------------------------------

    def give_up(self, worker_id: str, words: str) -> bool:
        """End its job, which Batch does not restart; fails for a child of an array, see `shed`. Batch: 1."""
        job_id = self._begun().get(worker_id)
        return job_id is not None and self._queues.terminate(job_id, words)

    def shed(self, n_slots: int) -> int:
        """End the last children, with at most `n_slots` slots; return the number of slots that will end.

        Children have no tags, and users' rights depend on tags: with those rights only a whole array can be ended.
        Surplus children then leave when they have no tasks.
        Source: https://docs.aws.amazon.com/batch/latest/userguide/using-tags.html
        """
        launch = self._launch
        if launch is None:
            return 0
        unended = [job_id for job_id, state in self._look() if not state.has_ended]
        n_chosen = min(len(unended), n_slots // launch.n_slots_each)
        if n_chosen == len(unended) and launch.job_id:
            return n_chosen * launch.n_slots_each if self._queues.terminate(launch.job_id, _FEWER) else 0
        n_ended = 0
        for job_id in reversed(unended):
            if n_ended == n_chosen or not self._queues.terminate(job_id, _FEWER):
                break
            n_ended += 1
        return n_ended * launch.n_slots_each

    def drained(self) -> tuple[str, ...]:
        """Return none: `shed` leaves as many as are needed."""
        return ()

    def drain(self) -> None:
        """End the jobs: SIGTERM, then SIGKILL. Batch restarts none of them."""
        self._end("the session stops its workers")

    def kill(self) -> None:
        """As `drain`: Batch always sends SIGTERM first, and SIGKILL after half a minute."""
        self._end("the session's workers are killed")

    def _end(self, reason: str) -> None:
        if self._launch is not None:
            self._jobs.end(self._launch, reason)

    def end_session(self) -> None:
        """Delete the session's key, so that no further worker starts, and end the launch's jobs."""
        if self._launch is not None:
            self._account.delete_key(self._launch.session_id)
            self._end("the session has ended")

    def let_go(self) -> None:
        """End the session of an attached client."""
        if self._launch is not None and not self._launch.detached:
            self.end_session()

    def forget(self) -> None:
        """Do nothing: only logs remain, which expire in CloudWatch."""
