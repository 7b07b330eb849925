"""Reports on a detached session: its status, and its outcomes as records."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from starburst_executor.client.counting import census
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.money import Cost
from starburst_executor.protocol.records import Manifest, WorkerBeat, WorkerState
from starburst_executor.protocol.status import State
from starburst_executor.session.store import SessionStore

__all__ = ["SessionStatus", "TaskOutcome", "outcome_of", "status_of"]


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """The state of a session at one moment; `str()` gives a summary for people.

    Attributes:
        id: The session's id.
        state: `open`, `terminated`, `expired`, `broken` or `deleted`.
        total: The number of submitted tasks: pending, claimed, completed, failed and cancelled.
        pending: Tasks that wait for a worker.
        claimed: Tasks that a worker holds, running or next to run.
        running: The claimed tasks that are running by their worker's last beat.
        completed: Tasks that returned a value.
        failed: Tasks that ended with an exception.
        cancelled: Tasks that were cancelled.
        workers: The number of live workers, as far as their beats show.
        slots: The number of tasks that these workers can run at once.
        per_s: Tasks that ended per second, recently.
        seconds_left: An estimate from `per_s`; None if no tasks end or none are left.
        cost: The cost so far.
        vcpus: The vCPUs of live workers that a launcher on AWS has started; 0 if their machines are unknown.
        memory_gb: The memory of these workers, in GB.
        gpus: The GPUs of these workers.
    """

    id: str
    state: str
    total: int
    pending: int
    claimed: int
    running: int
    completed: int
    failed: int
    cancelled: int
    workers: int
    slots: int
    per_s: float
    seconds_left: float | None
    cost: Cost
    vcpus: float = 0.0
    memory_gb: float = 0.0
    gpus: int = 0

    def __str__(self) -> str:
        ended = self.completed + self.failed + self.cancelled
        share = f" ({ended / self.total:.0%})" if self.total else ""
        left = "" if self.seconds_left is None else f", about {_duration(self.seconds_left)} left"
        return "\n".join(
            [
                f"session {self.id}: {self.state}",
                f"  tasks    {ended:,} of {self.total:,} ended{share}",
                f"           {self.completed:,} completed, {self.failed:,} failed, {self.cancelled:,} cancelled",
                f"           {self.pending:,} pending, {self.claimed:,} claimed, {self.running:,} running",
                f"  workers  {self.workers:,} alive with {self.slots:,} slots; {self.per_s:,.1f} tasks/s{left}",
                *([f"           {self.vcpus:g} vCPUs, {self.memory_gb:g} GB, {self.gpus} GPUs"] if self.vcpus else []),
                *([f"  cost     {self.cost}"] if self.cost.total_usd else []),
            ]
        )


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """The outcome of one task.

    Attributes:
        task_id: Unique in the session.
        index: The task's position among the calls of its client.
        state: `completed`, `failed` or `cancelled`.
        value: The value that it returned; None unless completed.
        error: The exception that it raised, with the remote traceback as its cause; None if completed.
    """

    task_id: str
    index: int
    state: str
    value: Any
    error: BaseException | None

    @property
    def ok(self) -> bool:
        """Whether the task completed."""
        return self.error is None


def outcome_of(future: StarburstFuture[Any]) -> TaskOutcome:
    """Return the record of a future that is done."""
    if future.cancelled():
        error: BaseException | None = CancelledError(f"the task was cancelled: task={future.task_id}")
        return TaskOutcome(future.task_id, future.index, "cancelled", None, error)
    error = future.exception()
    if isinstance(error, CancelledError):
        return TaskOutcome(future.task_id, future.index, "cancelled", None, error)
    if error is not None:
        return TaskOutcome(future.task_id, future.index, "failed", None, error)
    return TaskOutcome(future.task_id, future.index, "completed", future.result(), None)


def status_of(
    session: SessionStore,
    beats_of: Callable[[], list[WorkerBeat]],
    dead: Callable[[list[WorkerBeat]], Collection[str]],
    cost_of: Callable[[Manifest, list[WorkerBeat]], Cost],
) -> SessionStatus:
    """Count tasks and workers.

    Args:
        beats_of: Reads the newest beats of all workers.
        dead: Returns which of the workers with these beats are certainly dead, regardless of the beats.
        cost_of: Returns the cost by manifest and beats.

    Store: 1 LIST per 1,000 status objects, 1 GET for each that is partly ended or did not end well; the requests
    of `beats_of`; 1 GET.
    """
    manifest = session.manifest.refresh()
    counts = census(session)
    beats = beats_of()
    buried = dead(beats)
    alive = [beat for beat in beats if _is_alive(beat, session) and beat.worker_id not in buried]
    per_s = sum(beat.per_s for beat in alive)
    n_left = counts[State.PENDING] + counts[State.CLAIMED]
    return SessionStatus(
        id=manifest.session_id,
        state=manifest.state.value,
        total=sum(counts.values()),
        pending=counts[State.PENDING],
        claimed=counts[State.CLAIMED],
        running=min(sum(len(beat.running) for beat in alive), counts[State.CLAIMED]),
        completed=counts[State.COMPLETED],
        failed=counts[State.FAILED],
        cancelled=counts[State.CANCELLED],
        workers=len(alive),
        slots=sum(beat.slots for beat in alive),
        per_s=per_s,
        seconds_left=n_left / per_s if per_s > 0 and n_left else None,
        cost=cost_of(manifest, beats),
        vcpus=sum(beat.vcpus for beat in alive),
        memory_gb=sum(beat.memory_gb for beat in alive),
        gpus=sum(beat.gpus for beat in alive),
    )


def _is_alive(beat: WorkerBeat, session: SessionStore) -> bool:
    """Whether a worker counts as alive in a report: its beat, by its own clock, is younger than that of a lost worker.

    No decision of the protocol depends on this comparison of clocks.
    """
    timings = session.manifest.current.timings
    age_s = session.clock.now() - beat.at
    return beat.state != WorkerState.LEFT and age_s < timings.look_s * (timings.looks_until_lost + 1)


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 60 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - an hour
