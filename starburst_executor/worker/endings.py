"""The ends of tasks that their worker decides: the errors of those whose runner died, and results that are too large to store."""

from __future__ import annotations

from starburst_executor.errors import PayloadError, StarburstError, TaskCrashed, TaskOutOfMemory, TaskTimeout
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.protocol.resources import MEMORY, amounts_of
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.placed import Placed
from starburst_executor.worker.runner.jobs import Died, Finished

__all__ = ["death_of", "of_storable_size"]


def death_of(session: SessionStore, placed: Placed, event: Died) -> StarburstError:
    """Return the error of a task whose runner died while it ran it."""
    where = f"task={placed.task_id}, session={session.session_id}"
    if event.timed_out is not None:
        name, limit_s = "timeout", placed.claim.options.timeout
        if limit_s is None:
            name, limit_s = "task_timeout", session.manifest.current.task_timeout
        return TaskTimeout(f"the task ran longer than {name}={limit_s:g} s and was stopped: {where}")
    wanted = dict(amounts_of(placed.claim.ref.resources)).get(MEMORY)
    if wanted is not None and (event.over is not None or event.may_lack_memory):
        how = "was stopped" if event.over is not None else f"its process died: {event.reason}"
        return TaskOutOfMemory(
            f"the task used {event.peak_bytes / 1e9:.2f} GB of memory, asked for {wanted / 1e9:.2f} GB, and {how}: {where}"
        )
    return TaskCrashed(f"the process that ran the task died: {event.reason}: {where}")


def of_storable_size(placed: Placed, event: Finished, limit: int) -> Finished:
    """Return the end of a task, or its failure if its result is larger than `limit` bytes."""
    if len(event.outcome) <= limit:
        return event
    reason = PayloadError(
        f"the task's result is too large to store: bytes={len(event.outcome)}, max_result_bytes={limit}, "
        f"task={placed.task_id}; return less, write it to your own storage, or raise max_result_bytes"
    )
    return event._replace(ok=False, outcome=dump_reason(reason))
