"""The workers of one launch on Amazon ECS, from any client's point of view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from starburst_executor.aws.logs import stream_of
from starburst_executor.launch.aws.ecs_handle import EcsHandle
from starburst_executor.launch.aws.ecs_stopped import TaskState
from starburst_executor.launch.aws.ecs_tasks import EcsTasks
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.base import Death

__all__ = ["EcsWorkers"]


class EcsWorkers:
    """See `Workers`. ECS: each question 1 DescribeTasks per 100 tasks, at most every 15 s.

    Args:
        launch: None if the handle was malformed: then there are no workers.
        at_end: Called with the number of ECS tasks when the launch is stopped with its session.
    """

    def __init__(
        self, account: Account, tasks: EcsTasks, launch: EcsHandle | None, at_end: Callable[[int], None]
    ) -> None:
        self._account = account
        self._tasks = tasks
        self._launch = launch
        self._at_end = at_end

    def _look(self) -> Iterator[tuple[str, int, TaskState]]:
        return iter(()) if self._launch is None else self._tasks.look(self._launch)

    def deaths(self) -> list[Death]:
        return [state.death for _, _, state in self._look() if state.death is not None]

    def slots_alive(self) -> int:
        return sum(n_slots for _, n_slots, state in self._look() if state.stays)

    def interruptions(self) -> int:
        return sum(state.was_interrupted for _, _, state in self._look())

    def expected(self) -> list[str]:
        return list(self._staying())

    def _staying(self) -> dict[str, str]:
        """Return the ECS tasks that are not stopped or stopping, by worker id, oldest first."""
        launch = self._launch
        if launch is None:
            return {}
        return {launch.worker_id(task_id): task_id for task_id, _, state in self._look() if state.stays}

    def describe(self) -> str:
        """Return the number of ECS tasks in each state, and why one stopped."""
        states = [state for _, _, state in self._look()]
        if not states:
            return ""
        counts = Counter(state.status for state in states)
        words = f"{len(states)} ECS tasks: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())
        deaths = [state.death.words for state in states if state.death is not None]
        return "; ".join([words, *deaths[-1:]])

    def streams(self) -> dict[str, str]:
        """Return the workers by the log streams of their ECS tasks. No request."""
        launch = self._launch
        tasks = () if launch is None else launch.tasks
        return {} if launch is None else {stream_of(task_id): launch.worker_id(task_id) for task_id, _ in tasks}

    # --- stopping -----------------------------------------------------------------------------------------------------

    def give_up(self, worker_id: str, words: str) -> bool:
        """ECS: 1. The worker's death repeats `words`, which ECS keeps as the reason."""
        task_id = self._staying().get(worker_id)
        if task_id is None or self._launch is None:
            return False
        self._tasks.stop(self._launch, [task_id], words)
        return worker_id not in self._staying()

    def shed(self, n_slots: int) -> int:
        """Drain the newest workers, with at most `n_slots` slots: a worker with four slots is not drained to remove one."""
        chosen: list[str] = []
        n_shed = 0
        for task_id, n_each, state in reversed(list(self._look())):
            if state.stays and n_shed + n_each <= n_slots:
                chosen.append(task_id)
                n_shed += n_each
        if self._launch is not None:
            self._tasks.stop(self._launch, chosen, "fewer workers are needed")
        return n_shed

    def drained(self) -> tuple[str, ...]:
        """Return none: `shed` leaves as many as are needed."""
        return ()

    def drain(self) -> None:
        self._stop("the session stops its workers")

    def kill(self) -> None:
        """As `drain`: ECS always sends SIGTERM first, and SIGKILL after two minutes."""
        self._stop("the session's workers are killed")

    def _stop(self, reason: str) -> None:
        if self._launch is not None:
            self._tasks.stop(self._launch, list(self._staying().values()), reason)

    def end_session(self) -> None:
        """Delete the session's key, so that no further worker starts, and stop all its ECS tasks, also those in no handle."""
        launch = self._launch
        if launch is None:
            return
        self._account.delete_key(launch.session_id)
        named = list(self._staying().values())
        listed = self._tasks.of_session(launch.session_id)
        self._tasks.stop(launch, list(dict.fromkeys([*named, *listed])), "the session has ended")
        if self._tasks.end(launch):
            self._at_end(len(launch.tasks))

    def let_go(self) -> None:
        """End the session of an attached client."""
        launch = self._launch
        if launch is not None and not launch.detached and not self._tasks.has_ended(launch):
            self.end_session()

    def forget(self) -> None:
        """Do nothing: only logs remain, which expire in CloudWatch."""
