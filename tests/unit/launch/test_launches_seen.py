"""What launchers on AWS remember of their launches: enough for the next poll, and not for ever."""

from __future__ import annotations

from typing import Any

from starburst_executor.launch.aws.batch_handle import BatchHandle
from starburst_executor.launch.aws.batch_jobs import BatchJobs
from starburst_executor.launch.aws.ecs_handle import EcsHandle
from starburst_executor.launch.aws.ecs_tasks import EcsTasks
from starburst_executor.launch.aws.launches_seen import POLL_S
from starburst_executor.launch.aws.options import BATCH_STARTS_MOST
from starburst_executor.testing import FakeClock

WEEK_S = 7 * 24 * 3600.0


class FakeAccount:
    """An account whose every client is one object."""

    def __init__(self, client: Any) -> None:
        self.stack = self
        self.cluster = "cluster"
        self.clients = self.once = self
        self._client = client

    def get(self, _service: str) -> Any:
        return self._client


class FakeEcs:
    """Says of each ECS task that it runs, unless it was interrupted."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.interrupted: set[str] = set()

    def describe_tasks(self, *, cluster: str, tasks: list[str]) -> dict[str, Any]:
        assert cluster == "cluster"
        self.n_calls += 1
        return {"tasks": [self._task(task_id) for task_id in tasks]}

    def _task(self, task_id: str) -> dict[str, Any]:
        if task_id in self.interrupted:
            return {"taskArn": f"a/{task_id}", "lastStatus": "STOPPED", "stopCode": "SpotInterruption"}
        return {"taskArn": f"a/{task_id}", "lastStatus": "RUNNING", "desiredStatus": "RUNNING"}


def ecs_launch(number: int) -> EcsHandle:
    task_id = f"{number:032x}"
    return EcsHandle("session", f"launch-{number}", 1, 1, True, n_calls=1, tasks=((task_id, 1),))


def test_a_client_that_replaces_workers_for_weeks_remembers_those_it_still_asks_about() -> None:
    clock, ecs = FakeClock(), FakeEcs()
    tasks = EcsTasks(FakeAccount(ecs), clock)  # type: ignore[arg-type]  # the part of an account that it uses
    stays = ecs_launch(0)
    ecs.interrupted.add(stays.tasks[0][0])
    for number in range(1, 1000):
        replaced = ecs_launch(number)
        tasks.add(replaced)
        clock.advance(POLL_S * 4)
        assert [state.status for _, _, state in tasks.look(replaced)] == ["RUNNING"]
        assert [state.was_interrupted for _, _, state in tasks.look(stays)] == [True]
    assert len(list(tasks._launches)) < 50
    assert tasks.n_interrupted() == 1


def test_a_launch_that_was_forgotten_is_asked_about_again() -> None:
    clock, ecs = FakeClock(), FakeEcs()
    tasks = EcsTasks(FakeAccount(ecs), clock)  # type: ignore[arg-type]  # the part of an account that it uses
    old = ecs_launch(0)
    ecs.interrupted.add(old.tasks[0][0])
    assert [state.death is not None for _, _, state in tasks.look(old)] == [True]
    clock.advance(WEEK_S)
    tasks.add(ecs_launch(1))
    assert len(list(tasks._launches)) == 1
    n_before = ecs.n_calls
    assert [state.death is not None for _, _, state in tasks.look(old)] == [True]
    assert ecs.n_calls == n_before + 1


def test_between_two_polls_nothing_is_asked() -> None:
    clock, ecs = FakeClock(), FakeEcs()
    tasks = EcsTasks(FakeAccount(ecs), clock)  # type: ignore[arg-type]  # the part of an account that it uses
    launch = ecs_launch(0)
    tasks.add(launch)
    for _ in range(100):
        clock.advance(POLL_S / 10)
        list(tasks.look(launch))
    assert ecs.n_calls == 10


class FakeQueue:
    """A queue in which each job ends after its last attempt, and has a successor, which is listed for a while."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    def successors(self, launch: BatchHandle) -> list[str]:
        assert launch.launch_id == "launch"
        return self.listed

    def describe_jobs(self, *, jobs: list[str]) -> dict[str, Any]:
        attempt = {"stoppedAt": 1, "container": {"exitCode": 143}, "statusReason": "Your Spot Task was interrupted."}
        return {
            "jobs": [
                {"jobId": job_id, "status": "FAILED", "attempts": [attempt] * BATCH_STARTS_MOST} for job_id in jobs
            ]
        }


def test_of_successors_that_batch_no_longer_lists_nothing_is_remembered() -> None:
    clock, queue = FakeClock(), FakeQueue()
    jobs = BatchJobs(FakeAccount(queue), queue, clock)  # type: ignore[arg-type]  # the part of both that it uses
    launch = BatchHandle("session", "launch", 1, 1, True, job_id=f"{0:08x}")
    for number in range(1, 200):
        queue.listed = [f"{job:08x}" for job in range(max(1, number - 5), number)]
        states = dict(jobs.look(launch))
        clock.advance(POLL_S)
    assert list(states) == [launch.job_id, *queue.listed]
    assert sum(state.n_interrupted for state in states.values()) >= BATCH_STARTS_MOST
    (remembered,) = jobs._launches
    assert len(remembered.jobs) <= 7
