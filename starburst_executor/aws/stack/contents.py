"""What is in a stack and what runs in it, read from the services themselves rather than from the stack's outputs.

So it works on a stack that was never whole, or is half removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.aws.stack.outputs import find_stack
from starburst_executor.clock import Clock
from starburst_executor.errors import RecordInvalid, SessionNotFound, VersionMismatch
from starburst_executor.protocol.keys import SESSIONS, is_session_id
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.beats import list_workers, read_beat
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store

__all__ = ["Contents", "Running", "active_jobs", "contents", "ecs_tasks", "running"]

_ACTIVE_JOBS = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")
_QUEUES = ("BatchFargateQueue", "BatchFargateSpotQueue", "BatchEc2Queue", "BatchEc2SpotQueue")
# A beat that is older is nobody's: workers beat every 15 s.
_BEAT_S = 120.0


@dataclass(frozen=True, slots=True)
class Contents:
    """What a stack still has: names of its resources by their names in the template."""

    stack_id: str
    names: dict[str, str]

    def get(self, logical: str) -> str | None:
        return self.names.get(logical)


@dataclass(frozen=True, slots=True)
class Running:
    """What runs in a stack: ECS tasks, jobs of Batch, and sessions whose workers beat, wherever these are."""

    ecs_tasks: tuple[str, ...]
    jobs: tuple[str, ...]
    sessions: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.ecs_tasks or self.jobs or self.sessions)

    def __str__(self) -> str:
        counts = (
            (self.ecs_tasks, "ECS tasks"),
            (self.jobs, "jobs of Batch"),
            (self.sessions, "sessions with live workers"),
        )
        return ", ".join(f"{len(found)} {words}" for found, words in counts if found) or "nothing runs"


def contents(clients: Clients) -> Contents | None:
    """What the stack still has; None if there is no stack. Raises: LaunchError, ConfigError."""
    found = find_stack(clients)
    if found is None:
        return None
    names: dict[str, str] = {}
    try:
        pages = clients.get("cloudformation").get_paginator("list_stack_resources").paginate(StackName=found["StackId"])
        for page in pages:
            for one in page["StackResourceSummaries"]:
                if one["ResourceStatus"] != "DELETE_COMPLETE" and one.get("PhysicalResourceId"):
                    names[one["LogicalResourceId"]] = one["PhysicalResourceId"]
    except FOREIGN as error:
        raise meaning(error, "listing what the stack has") from error
    return Contents(str(found["StackId"]), names)


def running(clients: Clients, has: Contents, clock: Clock) -> Running:
    """What runs in the stack. Raises: LaunchError, ConfigError, StoreError."""
    return Running(
        tuple(ecs_tasks(clients, has)), tuple(active_jobs(clients, has)), tuple(_sessions_alive(clients, has, clock))
    )


def ecs_tasks(clients: Clients, has: Contents) -> Iterator[str]:
    """The ARNs of ECS tasks that are wanted to run. ECS: 1 ListTasks per 100."""
    cluster = has.get("Cluster")
    if cluster is None:
        return
    try:
        for page in clients.get("ecs").get_paginator("list_tasks").paginate(cluster=cluster, desiredStatus="RUNNING"):
            yield from page["taskArns"]
    except FOREIGN as error:
        if error_code(error) != "ClusterNotFoundException":
            raise meaning(error, "listing ECS tasks") from error


def active_jobs(clients: Clients, has: Contents) -> Iterator[str]:
    """The ids of Batch's jobs that have not ended. Batch: 5 ListJobs for each queue."""
    for queue in filter(None, map(has.get, _QUEUES)):
        for status in _ACTIVE_JOBS:
            try:
                pages = clients.get("batch").get_paginator("list_jobs").paginate(jobQueue=queue, jobStatus=status)
                for page in pages:
                    yield from (job["jobId"] for job in page["jobSummaryList"])
            except FOREIGN as error:
                # A queue that an interrupted teardown, or a person, has removed already.
                if error_code(error) == "ClientException" and "not found" in str(error).lower():
                    break
                raise meaning(error, "listing jobs of Batch") from error


def _sessions_alive(clients: Clients, has: Contents, clock: Clock) -> Iterator[str]:
    """Sessions with a worker that beats: it may be anywhere, joined by hand."""
    bucket = has.get("Bucket")
    if bucket is None:
        return
    profile = f"&profile={clients.settings.profile}" if clients.settings.profile else ""
    with closing(open_store(f"s3://{bucket}?region={clients.region}{profile}")) as store:
        for session_id in store.list_folders(SESSIONS):
            if is_session_id(session_id) and _is_alive(store, session_id, clock):
                yield session_id


def _is_alive(store: ObjectStore, session_id: str, clock: Clock) -> bool:
    session = SessionStore(store, session_id, Sealer(b"", session_id), clock)
    try:
        if session.refresh().state.is_over:
            return False
        beats = [read_beat(session, sign.key) for sign in list_workers(session) if not sign.has_left]
    except (SessionNotFound, RecordInvalid, VersionMismatch):
        return False
    return any(beat is not None and clock.now() - beat[0].at < _BEAT_S for beat in beats)
