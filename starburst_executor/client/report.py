"""What a detached session tells of itself: its status, and its outcomes as records."""

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
    """How a session stands, at one moment; prints well.

    Attributes:
        id: The session's id.
        state: `open`, `terminated`, `expired`, `broken` or `deleted`.
        total: Tasks submitted; the sum of pending, claimed, completed, failed and cancelled.
        pending: Waiting for a worker.
        claimed: Held by a worker, running or next to run.
        running: Of those, the ones that a worker's last beat says are running.
        completed: Ended with a value.
        failed: Ended with an exception.
        cancelled: Never run.
        workers: Workers alive, as far as their beats tell.
        slots: Tasks that these can run at once.
        per_s: Tasks ended per second, lately.
        seconds_left: Estimated from that; None if nothing ends.
        cost: What it has cost so far.
        vcpus: Of the workers alive that a launcher on AWS has started; 0 where nothing is known of their machines.
        memory_gb: The same.
        gpus: The same.
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
    """How one task ended.

    Attributes:
        task_id: Unique in the session.
        index: The task's place among the calls of its client.
        state: `completed`, `failed` or `cancelled`.
        value: What it returned; None unless completed.
        error: What it raised, with the remote traceback as its cause; None if completed.
    """

    task_id: str
    index: int
    state: str
    value: Any
    error: BaseException | None

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.error is None


def outcome_of(future: StarburstFuture[Any]) -> TaskOutcome:
    """The record of a future that is done."""
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
        dead: Tells which of the workers with these beats are certainly dead, whatever the beats say.
        cost_of: What manifest and beats say that it has cost.

    Store: 1 LIST per 1,000 status objects, 1 GET for each that is partly ended or did not end well; what `beats_of`
    asks; 1 GET.
    """
    manifest = session.refresh()
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
    """For people to read: a beat that is older, by its writer's clock, than a lost worker's would be, is not counted."""
    timings = session.manifest.timings
    age_s = session.clock.now() - beat.at
    return beat.state != WorkerState.LEFT and age_s < timings.look_s * (timings.looks_until_lost + 1)


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 60 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - an hour
