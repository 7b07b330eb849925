"""Lists the resources of a stack and its running workers, from the services rather than from the stack's outputs.

So it also works on a stack that was never complete, or is partly removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.aws.stack.outputs import find_stack, parameters_of
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
# An older beat belongs to a lost worker: workers beat every 15 s.
_BEAT_S = 120.0


@dataclass(frozen=True, slots=True)
class Contents:
    """The resources that a stack still has: their physical names by their names in the template.

    Attributes:
        given_cluster: The name of the cluster that existed before the stack, which uses it; empty if it has its own.
        given_bucket: The name of such a bucket, likewise.
    """

    stack_id: str
    names: dict[str, str]
    given_cluster: str = ""
    given_bucket: str = ""

    def get(self, logical: str) -> str | None:
        return self.names.get(logical)

    @property
    def cluster(self) -> str:
        """The name of the cluster of its ECS tasks; empty if there is none any more."""
        return self.given_cluster or self.names.get("Cluster", "")

    @property
    def buckets(self) -> list[str]:
        """The names of its own buckets, which are deleted with it."""
        return [self.names[name] for name in ("Bucket", "ExpressBucket") if name in self.names]

    @staticmethod
    def url_of(clients: Clients, bucket: str) -> str:
        """Return the URL of the store in a bucket."""
        profile = f"&profile={clients.settings.profile}" if clients.settings.profile else ""
        return f"s3://{bucket}?region={clients.region}{profile}"


@dataclass(frozen=True, slots=True)
class Running:
    """The running parts of a stack: ECS tasks, Batch jobs, and sessions whose workers beat, on any machine."""

    ecs_tasks: tuple[str, ...]
    jobs: tuple[str, ...]
    sessions: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.ecs_tasks or self.jobs or self.sessions)

    def __str__(self) -> str:
        counts = (
            (self.ecs_tasks, "ECS tasks"),
            (self.jobs, "Batch jobs"),
            (self.sessions, "sessions with live workers"),
        )
        return ", ".join(f"{len(items)} {words}" for items, words in counts if items) or "no workers"


def contents(clients: Clients) -> Contents | None:
    """Return the resources that the stack still has; None if there is no stack. Raises: LaunchError, ConfigError."""
    record = find_stack(clients)
    if record is None:
        return None
    names: dict[str, str] = {}
    try:
        pages = (
            clients.get("cloudformation").get_paginator("list_stack_resources").paginate(StackName=record["StackId"])
        )
        for page in pages:
            for resource in page["StackResourceSummaries"]:
                if resource["ResourceStatus"] != "DELETE_COMPLETE" and resource.get("PhysicalResourceId"):
                    names[resource["LogicalResourceId"]] = resource["PhysicalResourceId"]
    except FOREIGN as error:
        raise meaning(error, "listing the stack's resources") from error
    parameters = parameters_of(record)
    return Contents(
        str(record["StackId"]),
        names,
        given_cluster=parameters.get("ClusterName", ""),
        given_bucket=parameters.get("BucketArn", "").rpartition(":")[2],
    )


def running(clients: Clients, has: Contents, clock: Clock) -> Running:
    """Return the running parts of the stack. Raises: LaunchError, ConfigError, StoreError."""
    return Running(
        tuple(ecs_tasks(clients, has)), tuple(active_jobs(clients, has)), tuple(_sessions_alive(clients, has, clock))
    )


def ecs_tasks(clients: Clients, has: Contents) -> Iterator[str]:
    """Yield the ARNs of the stack's ECS tasks whose desired status is RUNNING.

    ECS: 1 ListTasks per 100; in a cluster that others use too, 1 for each task definition family of the stack.
    """
    if not has.cluster:
        return
    try:
        pages = clients.get("ecs").get_paginator("list_tasks")
        for family in _families(clients) if has.given_cluster else ({},):
            for page in pages.paginate(cluster=has.cluster, desiredStatus="RUNNING", **family):
                yield from page["taskArns"]
    except FOREIGN as error:
        if error_code(error) != "ClusterNotFoundException":
            raise meaning(error, "listing ECS tasks") from error


def _families(clients: Clients) -> Iterator[dict[str, str]]:
    """Yield the families of the stack's task definitions, as a filter of ECS tasks; also those that were deregistered."""
    pages = clients.get("ecs").get_paginator("list_task_definition_families")
    for page in pages.paginate(familyPrefix=f"{clients.settings.stack}_", status="ALL"):
        yield from ({"family": family} for family in page["families"])


def active_jobs(clients: Clients, has: Contents) -> Iterator[str]:
    """Yield the ids of Batch jobs that have not ended. Batch: 5 ListJobs per queue."""
    for queue in filter(None, map(has.get, _QUEUES)):
        for status in _ACTIVE_JOBS:
            try:
                pages = clients.get("batch").get_paginator("list_jobs").paginate(jobQueue=queue, jobStatus=status)
                for page in pages:
                    yield from (job["jobId"] for job in page["jobSummaryList"])
            except FOREIGN as error:
                # The queue was already removed, by an interrupted teardown or by hand.
                if error_code(error) == "ClientException" and "not found" in str(error).lower():
                    break
                raise meaning(error, "listing Batch jobs") from error


def _sessions_alive(clients: Clients, has: Contents, clock: Clock) -> Iterator[str]:
    """Yield the sessions in the stack's own buckets with a worker that beats; it may run on any machine."""
    for bucket in has.buckets:
        with closing(open_store(Contents.url_of(clients, bucket))) as store:
            for session_id in store.list_folders(SESSIONS):
                if is_session_id(session_id) and _is_alive(store, session_id, clock):
                    yield session_id


def _is_alive(store: ObjectStore, session_id: str, clock: Clock) -> bool:
    session = SessionStore(store, session_id, Sealer(b"", session_id), clock)
    try:
        if session.manifest.refresh().state.is_over:
            return False
        beats = [read_beat(session, sign.key) for sign in list_workers(session) if not sign.has_left]
    except (SessionNotFound, RecordInvalid, VersionMismatch):
        return False
    return any(beat is not None and clock.now() - beat[0].at < _BEAT_S for beat in beats)
