"""`starburst teardown`: stops, empties and removes all resources of a stack.

Launchers create resources with the stack's name outside the stack: keys of sessions (SSM parameters), task definitions, job
definitions. The stack is deleted last. Guarantee: after an interruption, running the same command again finds the rest.

CloudFormation does not delete a bucket or repository with contents, roles and policies with attachments made by hand, or
running instances, so these are emptied, detached and ended first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Clients, error_code, is_denied, meaning
from starburst_executor.aws.stack.changes import Changes
from starburst_executor.aws.stack.contents import Contents, active_jobs, ecs_tasks
from starburst_executor.aws.stack.emptying import empty_bucket, empty_express_bucket
from starburst_executor.clock import Clock
from starburst_executor.errors import LaunchError

__all__ = ["tear_down"]

_STOP_S = 300.0  # ECS kills a container two minutes after SIGTERM
_POLL_S = 3.0
_IMAGES_AT_ONCE = 100
_TASKS_AT_ONCE = 100
_NAMES_AT_ONCE = 10
_TRIES = 3
_ROLES = ("WorkerRole", "ExecutionRole", "BuildRole", "InstanceRole", "BatchInstanceRole")
_GROUPS = ("Ec2Group", "Ec2SpotGroup")


def tear_down(clients: Clients, clock: Clock, has: Contents, say: Callable[[str], None]) -> list[str]:
    """Stop, empty and delete everything; return descriptions of what is left, empty if nothing.

    Raises: LaunchError with the first cause; running the same command again continues.
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
            # A client or worker may have written again between emptying and deleting.
            if attempt == _TRIES or "not empty" not in str(error).lower():
                words = f"; left: {'; '.join(left)}" if left else ""
                raise LaunchError(f"{error}; running the same command again continues{words}") from error
    # Crash here: the config file names a deleted stack; running the same command again removes the entry.
    config.forget_aws(config.AwsSettings(stack=clients.settings.stack, region=clients.region))
    return [*left, *_not_ours(has)]


def _not_ours(has: Contents) -> Iterator[str]:
    """Describe the resources that existed before the stack, and what it left in them."""
    if has.given_bucket:
        yield (
            f"the bucket {has.given_bucket}, with the objects under sessions/, names/, code/ and builds/: sessions of other stacks and of "
            "other clients may be among them"
        )
    if has.given_cluster:
        yield f"the cluster {has.given_cluster}"


# ------------------------------------------------------------------------------------------------------ stop, empty


def _stop(clients: Clients, clock: Clock, has: Contents, say: Callable[[str], None]) -> None:
    """Stop all workers, and return when they have ended: a cluster whose ECS tasks are still stopping cannot be deleted."""
    handled: set[str] = set()
    stopping: set[str] = set()

    def stop_and_count() -> int:
        nonlocal handled, stopping
        tasks, jobs = set(ecs_tasks(clients, has)), set(active_jobs(clients, has))
        if fresh := (tasks | jobs) - handled:
            say(f"stopping {len(fresh)} workers")
        try:
            for task in tasks - handled:
                clients.get("ecs").stop_task(cluster=has.cluster, task=task, reason="starburst teardown")
            for job in jobs - handled:
                clients.get("batch").terminate_job(jobId=job, reason="starburst teardown")
            stopping = _still_there(clients, has, stopping | tasks)
        except FOREIGN as error:
            raise meaning(error, "stopping workers") from error
        handled |= fresh
        return len(stopping) + len(jobs)

    _wait_until_none(clock, stop_and_count, "workers did not stop")


def _wait_until_none(clock: Clock, count: Callable[[], int], words: str) -> None:
    """Poll `count` until it is 0. Raises: LaunchError after `_STOP_S`."""
    never, deadline = threading.Event(), clock.monotonic() + _STOP_S
    while n_left := count():
        if clock.monotonic() >= deadline:
            raise LaunchError(f"{n_left} {words} within {_STOP_S:.0f} s: run the same command again")
        clock.wait(never, _POLL_S)


def _still_there(clients: Clients, has: Contents, tasks: set[str]) -> set[str]:
    ordered = sorted(tasks)
    pages = [ordered[first : first + _TASKS_AT_ONCE] for first in range(0, len(ordered), _TASKS_AT_ONCE)]
    return {
        task["taskArn"]
        for page in pages
        for task in clients.get("ecs").describe_tasks(cluster=has.cluster, tasks=page)["tasks"]
        if task["lastStatus"] != "STOPPED"
    }


def _empty(clients: Clients, has: Contents, say: Callable[[str], None]) -> None:
    repository = has.get("Repository")
    try:
        for name, empty in (("Bucket", empty_bucket), ("ExpressBucket", _empty_express_bucket)):
            bucket = has.get(name)
            n_objects = empty(clients.get("s3"), bucket) if bucket is not None else 0
            if n_objects:
                say(f"deleted {n_objects} objects from {bucket}")
        if repository is not None:
            n_images = _empty_repository(clients.get("ecr"), repository)
            if n_images:
                say(f"deleted {n_images} images")
    except FOREIGN as error:
        raise meaning(error, "emptying the bucket and the repository") from error


def _empty_express_bucket(s3: Any, bucket: str) -> int:
    try:
        return empty_express_bucket(s3, bucket)
    except FOREIGN as error:
        if error_code(error) != "NoSuchBucket":
            raise
    return 0


def _empty_repository(ecr: Any, repository: str) -> int:
    """Delete every image, by digest; return how many. A manifest list must be deleted before the manifests that it names.

    Source: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_ImageFailure.html, ImageReferencedByManifestList
    """
    n_deleted = 0
    while True:
        try:
            pages = ecr.get_paginator("list_images").paginate(repositoryName=repository)
            digests = sorted({str(image["imageDigest"]) for page in pages for image in page["imageIds"]})
        except FOREIGN as error:
            if error_code(error) == "RepositoryNotFoundException":
                return n_deleted
            raise
        refused: list[dict[str, Any]] = []
        for first in range(0, len(digests), _IMAGES_AT_ONCE):
            doomed = [{"imageDigest": digest} for digest in digests[first : first + _IMAGES_AT_ONCE]]
            refused += ecr.batch_delete_image(repositoryName=repository, imageIds=doomed).get("failures", [])
        held = {str(failure.get("imageId", {}).get("imageDigest")) for failure in refused}
        n_now = len(set(digests) - held)
        n_deleted += n_now
        if not held:
            return n_deleted
        if not n_now:
            raise LaunchError(
                f"images cannot be deleted: {refused[0].get('failureCode')}: {refused[0].get('failureReason')}: "
                f"repository={repository}, images={len(held)}"
            )


# ------------------------------------------------------------------------------------- what keeps the stack's resources


def _detach_policies(clients: Clients, has: Contents, say: Callable[[str], None]) -> Iterator[str]:
    """Detach the stack's policies from users, groups and roles outside the stack, and other policies from the stack's roles:
    IAM deletes no policy or role with attachments. Yield descriptions of failures.
    """
    iam = clients.get("iam")
    own = set(filter(None, map(has.get, _ROLES)))
    policies = [has.get("ClientPolicy"), has.get("ClientOptionsPolicy"), has.get("WorkerPolicy")]
    for policy in filter(None, policies):
        try:
            # CloudFormation itself detaches policies from the stack's roles.
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
            attached = [policy["PolicyArn"] for page in pages for policy in page["AttachedPolicies"]]
            for arn in [arn for arn in attached if arn and arn not in policies]:
                iam.detach_role_policy(RoleName=name, PolicyArn=arn)
                say(f"detached {arn} from the role {name}")
        except FOREIGN as error:
            if error_code(error) != "NoSuchEntity":
                yield _left(
                    error, f"policies that were attached to the role {name} by hand: detach them, run this again"
                )


def _detach_everywhere(iam: Any, policy: str, but: set[str]) -> int:
    """Detach a policy and delete its other versions, as IAM requires; return the number of detached users, groups, roles."""
    pages = list(iam.get_paginator("list_entities_for_policy").paginate(PolicyArn=policy))
    n_detached = 0
    for kind in ("User", "Group", "Role"):
        detach = getattr(iam, f"detach_{kind.lower()}_policy")
        names = [entity[f"{kind}Name"] for page in pages for entity in page[f"Policy{kind}s"]]
        for name in [name for name in names if kind != "Role" or name not in but]:
            detach(**{f"{kind}Name": name, "PolicyArn": policy})
            n_detached += 1
    for version in iam.list_policy_versions(PolicyArn=policy)["Versions"]:
        if not version["IsDefaultVersion"]:
            iam.delete_policy_version(PolicyArn=policy, VersionId=version["VersionId"])
    return n_detached


def _end_instances(clients: Clients, clock: Clock, has: Contents, say: Callable[[str], None]) -> None:
    """End the instances, and return when they have ended: the deletion of a group, and of the gateway that their addresses
    use, would wait for them.
    """
    groups = list(filter(None, map(has.get, _GROUPS)))
    if not groups:
        return
    scaling = clients.get("autoscaling")
    try:
        records = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=groups)["AutoScalingGroups"]
        for group in records:
            name = group["AutoScalingGroupName"]
            # A scheduled action that keeps instances warm would raise the size again.
            for action in scaling.describe_scheduled_actions(AutoScalingGroupName=name)["ScheduledUpdateGroupActions"]:
                scaling.delete_scheduled_action(
                    AutoScalingGroupName=name, ScheduledActionName=action["ScheduledActionName"]
                )
            scaling.update_auto_scaling_group(AutoScalingGroupName=name, MinSize=0, MaxSize=0, DesiredCapacity=0)
    except FOREIGN as error:
        raise meaning(error, "ending instances") from error
    n_reported = 0

    def report_and_count() -> int:
        nonlocal n_reported
        try:
            records = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=groups)["AutoScalingGroups"]
        except FOREIGN as error:
            raise meaning(error, "ending instances") from error
        n_left = sum(len(group["Instances"]) for group in records)
        if n_left not in (0, n_reported):
            say(f"ending {n_left} instances")
        n_reported = n_left
        return n_left

    _wait_until_none(clock, report_and_count, "instances did not end")


# ----------------------------------------------------------------------------------- resources with the stack's name


def _remove_parameters(clients: Clients, say: Callable[[str], None]) -> Iterator[str]:
    path = f"/starburst/{clients.settings.stack}/"
    ssm = clients.get("ssm")
    try:
        pages = ssm.get_paginator("describe_parameters").paginate(
            ParameterFilters=[{"Key": "Name", "Option": "BeginsWith", "Values": [path]}]
        )
        names = [parameter["Name"] for page in pages for parameter in page["Parameters"]]
        for first in range(0, len(names), _NAMES_AT_ONCE):
            ssm.delete_parameters(Names=names[first : first + _NAMES_AT_ONCE])
        if names:
            say(f"deleted {len(names)} keys of sessions")
    except FOREIGN as error:
        yield _left(error, f"SSM parameters under {path}")


def _remove_task_definitions(clients: Clients, say: Callable[[str], None]) -> Iterator[str]:
    ecs, prefix = clients.get("ecs"), f"{clients.settings.stack}_"

    def listed() -> list[str]:
        pages = ecs.get_paginator("list_task_definition_families").paginate(familyPrefix=prefix)
        return [
            arn
            for family in [family for page in pages for family in page["families"]]
            for page in ecs.get_paginator("list_task_definitions").paginate(familyPrefix=family)
            for arn in page["taskDefinitionArns"]
        ]

    return _deregister(
        "task definitions", prefix, listed, lambda arn: ecs.deregister_task_definition(taskDefinition=arn), say
    )


def _remove_job_definitions(clients: Clients, say: Callable[[str], None]) -> Iterator[str]:
    batch, prefix = clients.get("batch"), f"{clients.settings.stack}_"

    def listed() -> list[str]:
        pages = batch.get_paginator("describe_job_definitions").paginate(status="ACTIVE")
        return [
            definition["jobDefinitionArn"]
            for page in pages
            for definition in page["jobDefinitions"]
            if definition["jobDefinitionName"].startswith(prefix)
        ]

    return _deregister(
        "job definitions", prefix, listed, lambda arn: batch.deregister_job_definition(jobDefinition=arn), say
    )


def _deregister(
    kind: str,
    prefix: str,
    listed: Callable[[], list[str]],
    deregister: Callable[[str], object],
    say: Callable[[str], None],
) -> Iterator[str]:
    """Deregister the definitions that `listed` returns. Yield a description of a failure."""
    try:
        arns = listed()
        for arn in arns:
            deregister(arn)
        if arns:
            say(f"deregistered {len(arns)} {kind}")
    except FOREIGN as error:
        yield _left(error, f"{kind} {prefix}*, which cost nothing")


def _left(error: Exception, what: str) -> str:
    why = "these credentials may not remove them" if is_denied(error) else str(error)
    return f"{what}: {why}"
