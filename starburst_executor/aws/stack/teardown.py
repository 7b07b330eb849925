"""`starburst teardown`: everything that belongs to a stack is stopped, emptied and removed.

Beside the stack a few things bear its name, made by launchers: keys of sessions (SSM parameters), task definitions, job
definitions. The stack goes last of all: so whatever an interruption leaves behind, running the same again finds it.

What CloudFormation does not delete is made ready for it: a bucket and a repository that hold something, roles and a
policy that somebody attached by hand, instances that live.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Clients, error_code, is_denied, meaning
from starburst_executor.aws.stack.changes import Changes
from starburst_executor.aws.stack.contents import Contents, active_jobs, ecs_tasks
from starburst_executor.clock import Clock
from starburst_executor.errors import LaunchError

__all__ = ["tear_down"]

_STOP_S = 300.0  # ECS kills what has not ended two minutes after it was told to
_POLL_S = 3.0
_KEYS_AT_ONCE = 1_000
_IMAGES_AT_ONCE = 100
_TASKS_AT_ONCE = 100
_NAMES_AT_ONCE = 10
_TRIES = 3
_ROLES = ("WorkerRole", "ExecutionRole", "BuildRole", "InstanceRole", "BatchInstanceRole")
_GROUPS = ("Ec2Group", "Ec2SpotGroup")


def tear_down(clients: Clients, clock: Clock, has: Contents, say: Callable[[str], None]) -> list[str]:
    """Stop, empty and delete everything; what is left, in words, empty if nothing.

    Raises: LaunchError with the first cause; running the same again goes on from there.
    """
    _stop(clients, clock, has, say)
    removers = (_remove_parameters, _remove_task_definitions, _remove_job_definitions)
    left = [words for remove in removers for words in remove(clients, say)]
    left += _detach_policies(clients, has, say)
    _end_instances(clients, clock, has, say)
    for attempt in range(1, _TRIES + 1):
        _empty(clients, has, say)
        try:
            Changes(clients, clock, say).delete()
            break
        except LaunchError as error:
            # Somebody who did not hear of it wrote once more between emptying and deleting.
            if attempt == _TRIES or "not empty" not in str(error).lower():
                words = f"; left: {'; '.join(left)}" if left else ""
                raise LaunchError(f"{error}; running the same again goes on from there{words}") from error
    # Crash here: the config file names a stack that is gone; running the same again takes it out.
    config.forget_aws(config.AwsSettings(stack=clients.settings.stack, region=clients.region))
    return left


# ------------------------------------------------------------------------------------------------------ stop, empty


def _stop(clients: Clients, clock: Clock, has: Contents, say: Callable[[str], None]) -> None:
    """Stop what runs, and return when it has: a cluster with ECS tasks that are still stopping cannot be deleted."""
    never, deadline = threading.Event(), clock.monotonic() + _STOP_S
    told: set[str] = set()
    stopping: set[str] = set()
    while True:
        tasks, jobs = set(ecs_tasks(clients, has)), set(active_jobs(clients, has))
        fresh = (tasks | jobs) - told
        if fresh:
            say(f"stopping {len(fresh)} workers")
        try:
            for task in tasks - told:
                clients.get("ecs").stop_task(cluster=has.names["Cluster"], task=task, reason="starburst teardown")
            for job in jobs - told:
                clients.get("batch").terminate_job(jobId=job, reason="starburst teardown")
            stopping = _still_there(clients, has, stopping | tasks)
        except FOREIGN as error:
            raise meaning(error, "stopping workers") from error
        told |= fresh
        if not stopping and not jobs:
            return
        if clock.monotonic() >= deadline:
            raise LaunchError(
                f"{len(stopping) + len(jobs)} workers did not stop within {_STOP_S:.0f} s: run the same again"
            )
        clock.wait(never, _POLL_S)


def _still_there(clients: Clients, has: Contents, tasks: set[str]) -> set[str]:
    ordered = sorted(tasks)
    chunks = [ordered[first : first + _TASKS_AT_ONCE] for first in range(0, len(ordered), _TASKS_AT_ONCE)]
    return {
        task["taskArn"]
        for chunk in chunks
        for task in clients.get("ecs").describe_tasks(cluster=has.names["Cluster"], tasks=chunk)["tasks"]
        if task["lastStatus"] != "STOPPED"
    }


def _empty(clients: Clients, has: Contents, say: Callable[[str], None]) -> None:
    bucket, repository = has.get("Bucket"), has.get("Repository")
    try:
        if bucket is not None:
            n_objects = _empty_bucket(clients.get("s3"), bucket)
            if n_objects:
                say(f"deleted {n_objects} objects")
        if repository is not None:
            n_images = _empty_repository(clients.get("ecr"), repository)
            if n_images:
                say(f"deleted {n_images} images")
    except FOREIGN as error:
        raise meaning(error, "emptying the bucket and the repository") from error


def _empty_bucket(s3: Any, bucket: str) -> int:
    """Every version, every marker of a deletion, every upload that was never finished; how many."""
    n_deleted = 0
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            doomed = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]
            for first in range(0, len(doomed), _KEYS_AT_ONCE):
                batch = {"Objects": doomed[first : first + _KEYS_AT_ONCE], "Quiet": True}
                refused = s3.delete_objects(Bucket=bucket, Delete=batch).get("Errors", [])
                if refused:
                    raise LaunchError(
                        f"an object cannot be deleted: {refused[0].get('Code')}: {refused[0].get('Message')}: "
                        f"bucket={bucket}, key={refused[0].get('Key')}"
                    )
            n_deleted += len(doomed)
        for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for upload in page.get("Uploads", []):
                s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except FOREIGN as error:
        if error_code(error) != "NoSuchBucket":
            raise
    return n_deleted


def _empty_repository(ecr: Any, repository: str) -> int:
    """Every image, by its digest; how many. Of one that is several manifests the list that names them goes first.

    Source: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_ImageFailure.html, ImageReferencedByManifestList
    """
    n_deleted = 0
    while True:
        try:
            pages = ecr.get_paginator("list_images").paginate(repositoryName=repository)
            digests = sorted({str(one["imageDigest"]) for page in pages for one in page["imageIds"]})
        except FOREIGN as error:
            if error_code(error) == "RepositoryNotFoundException":
                return n_deleted
            raise
        refused: list[dict[str, Any]] = []
        for first in range(0, len(digests), _IMAGES_AT_ONCE):
            doomed = [{"imageDigest": digest} for digest in digests[first : first + _IMAGES_AT_ONCE]]
            refused += ecr.batch_delete_image(repositoryName=repository, imageIds=doomed).get("failures", [])
        held = {str(one.get("imageId", {}).get("imageDigest")) for one in refused}
        n_now = len(set(digests) - held)
        n_deleted += n_now
        if not held:
            return n_deleted
        if not n_now:
            raise LaunchError(
                f"images cannot be deleted: {refused[0].get('failureCode')}: {refused[0].get('failureReason')}: "
                f"repository={repository}, images={len(held)}"
            )


# ------------------------------------------------------------------------------------- what holds on to the stack's own


def _detach_policies(clients: Clients, has: Contents, say: Callable[[str], None]) -> Iterator[str]:
    """The policies for people and for workers are attached by hand to users and to roles of theirs, and roles of the stack may
    have been given more: IAM deletes none of them so.
    """
    iam = clients.get("iam")
    own = set(filter(None, map(has.get, _ROLES)))
    policies = [has.get("ClientPolicy"), has.get("WorkerPolicy")]
    for policy in filter(None, policies):
        try:
            # From roles of the stack CloudFormation detaches what it has attached.
            n_detached = _detach_everywhere(iam, policy, but=own)
            if n_detached:
                say(f"detached {policy.rpartition('/')[2]} from {n_detached} users, groups and roles")
        except FOREIGN as error:
            if error_code(error) != "NoSuchEntity":
                yield _left(
                    error, f"attachments of {policy}: detach it from users, groups and roles, then run this again"
                )
    for name in sorted(own):
        try:
            pages = iam.get_paginator("list_attached_role_policies").paginate(RoleName=name)
            attached = [one["PolicyArn"] for page in pages for one in page["AttachedPolicies"]]
            for arn in [arn for arn in attached if arn and arn not in policies]:
                iam.detach_role_policy(RoleName=name, PolicyArn=arn)
                say(f"detached {arn} from the role {name}")
        except FOREIGN as error:
            if error_code(error) != "NoSuchEntity":
                yield _left(
                    error, f"policies that were attached to the role {name} by hand: detach them, run this again"
                )


def _detach_everywhere(iam: Any, policy: str, but: set[str]) -> int:
    """From whom it was detached; its other versions go too, since IAM wants that. How many had it attached."""
    pages = list(iam.get_paginator("list_entities_for_policy").paginate(PolicyArn=policy))
    n_detached = 0
    for kind in ("User", "Group", "Role"):
        detach = getattr(iam, f"detach_{kind.lower()}_policy")
        names = [one[f"{kind}Name"] for page in pages for one in page[f"Policy{kind}s"]]
        for name in [name for name in names if kind != "Role" or name not in but]:
            detach(**{f"{kind}Name": name, "PolicyArn": policy})
            n_detached += 1
    for version in iam.list_policy_versions(PolicyArn=policy)["Versions"]:
        if not version["IsDefaultVersion"]:
            iam.delete_policy_version(PolicyArn=policy, VersionId=version["VersionId"])
    return n_detached


def _end_instances(clients: Clients, clock: Clock, has: Contents, say: Callable[[str], None]) -> None:
    """End the instances, and return when they have: a group that still has some is deleted only after it waited for them,
    and so are the addresses that keep the gateway.
    """
    groups = list(filter(None, map(has.get, _GROUPS)))
    if not groups:
        return
    scaling, never, deadline = clients.get("autoscaling"), threading.Event(), clock.monotonic() + _STOP_S
    try:
        there = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=groups)["AutoScalingGroups"]
        for group in there:
            name = group["AutoScalingGroupName"]
            # What was to keep instances warm would raise it again.
            for action in scaling.describe_scheduled_actions(AutoScalingGroupName=name)["ScheduledUpdateGroupActions"]:
                scaling.delete_scheduled_action(
                    AutoScalingGroupName=name, ScheduledActionName=action["ScheduledActionName"]
                )
            scaling.update_auto_scaling_group(AutoScalingGroupName=name, MinSize=0, MaxSize=0, DesiredCapacity=0)
        n_told = 0
        while n_left := sum(len(group["Instances"]) for group in there):
            if n_left != n_told:
                say(f"ending {n_left} instances")
            n_told = n_left
            if clock.monotonic() >= deadline:
                raise LaunchError(f"{n_left} instances did not end within {_STOP_S:.0f} s: run the same again")
            clock.wait(never, _POLL_S)
            there = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=groups)["AutoScalingGroups"]
    except FOREIGN as error:
        raise meaning(error, "ending instances") from error


# --------------------------------------------------------------------------------------- what bears the stack's name


def _remove_parameters(clients: Clients, say: Callable[[str], None]) -> Iterator[str]:
    path = f"/starburst/{clients.settings.stack}/"
    ssm = clients.get("ssm")
    try:
        pages = ssm.get_paginator("describe_parameters").paginate(
            ParameterFilters=[{"Key": "Name", "Option": "BeginsWith", "Values": [path]}]
        )
        names = [one["Name"] for page in pages for one in page["Parameters"]]
        for first in range(0, len(names), _NAMES_AT_ONCE):
            ssm.delete_parameters(Names=names[first : first + _NAMES_AT_ONCE])
        if names:
            say(f"deleted {len(names)} keys of sessions")
    except FOREIGN as error:
        yield _left(error, f"SSM parameters under {path}")


def _remove_task_definitions(clients: Clients, say: Callable[[str], None]) -> Iterator[str]:
    prefix = f"{clients.settings.stack}_"
    ecs = clients.get("ecs")
    try:
        pages = ecs.get_paginator("list_task_definition_families").paginate(familyPrefix=prefix)
        families = [family for page in pages for family in page["families"]]
        found = [
            arn
            for family in families
            for page in ecs.get_paginator("list_task_definitions").paginate(familyPrefix=family)
            for arn in page["taskDefinitionArns"]
        ]
        for arn in found:
            ecs.deregister_task_definition(taskDefinition=arn)
        if found:
            say(f"deregistered {len(found)} task definitions")
    except FOREIGN as error:
        yield _left(error, f"task definitions {prefix}*, which cost nothing")


def _remove_job_definitions(clients: Clients, say: Callable[[str], None]) -> Iterator[str]:
    prefix = f"{clients.settings.stack}_"
    batch = clients.get("batch")
    try:
        pages = batch.get_paginator("describe_job_definitions").paginate(status="ACTIVE")
        found = [
            one["jobDefinitionArn"]
            for page in pages
            for one in page["jobDefinitions"]
            if one["jobDefinitionName"].startswith(prefix)
        ]
        for arn in found:
            batch.deregister_job_definition(jobDefinition=arn)
        if found:
            say(f"deregistered {len(found)} job definitions")
    except FOREIGN as error:
        yield _left(error, f"job definitions {prefix}*, which cost nothing")


def _left(error: Exception, what: str) -> str:
    why = "these credentials may not remove them" if is_denied(error) else str(error)
    return f"{what}: {why}"
