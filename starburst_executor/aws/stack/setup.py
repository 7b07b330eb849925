"""`starburst setup`: creates the stack, or changes it to the user's choices.

Guarantee: another run, after an interruption, a failure or an upgrade, changes only what differs, and keeps choices that
are not made again. An upgrade by itself changes an output, never a tag. A change that would take the resources of running
workers, or a bucket with sessions in it, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from threading import Event

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Clients, error_code, is_denied, meaning
from starburst_executor.aws.stack.causes import is_too_early
from starburst_executor.aws.stack.changes import Change, Changes
from starburst_executor.aws.stack.contents import Contents, active_jobs, contents, ecs_tasks
from starburst_executor.aws.stack.emptying import empty_express_bucket
from starburst_executor.aws.stack.express import zone_of_bucket
from starburst_executor.aws.stack.outputs import Stack, find_stack, read_stack
from starburst_executor.aws.stack.rules import tags_of
from starburst_executor.aws.stack.template import compact, template
from starburst_executor.aws.stack.wishes import Wishes, parameters_for
from starburst_executor.clock import Clock
from starburst_executor.config import AwsSettings
from starburst_executor.errors import LaunchError
from starburst_executor.protocol.keys import SESSIONS
from starburst_executor.store.open import open_store

__all__ = ["propose", "set_up"]

# Services that act in an account by a role of their own, which is created at first use. CloudFormation is often too fast for
# that, so setup creates them before. https://docs.aws.amazon.com/IAM/latest/UserGuide/using-service-linked-roles.html
_LINKED = {
    "ecs.amazonaws.com": "always",
    "autoscaling.amazonaws.com": "ec2",
    "spot.amazonaws.com": "ec2",
    "batch.amazonaws.com": "batch",
}
# A role is visible everywhere "a few seconds" after its creation, says
# https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency
_ROLE_S = 30.0
# Changes of these in place do not affect running workers.
_HARMLESS = ("AWS::IAM::", "AWS::S3::", "AWS::S3Express::", "AWS::Logs::", "AWS::ECR::", "AWS::CodeBuild::")
_NAMED_MOST = 5


def propose(clients: Clients, clock: Clock, wishes: Wishes, say: Callable[[str], None]) -> list[Change] | None:
    """Return the resources that `set_up` would change, None if nothing differs; change nothing. Raises: LaunchError, ConfigError."""
    changes = Changes(clients, clock, say)
    try:
        return changes.propose(compact(template()), parameters_for(clients, wishes), _tags(clients, wishes))
    finally:
        changes.discard()


def set_up(clients: Clients, clock: Clock, wishes: Wishes, say: Callable[[str], None]) -> Stack:
    """Create the stack or change it to the user's choices, write its name into the config file, and return it.

    Args:
        say: Called with each line of progress.

    Raises: LaunchError with the first cause and what to do, or because the changes would end running workers or remove a
        bucket with sessions; ConfigError.
    """
    settings = clients.settings
    parameters = parameters_for(clients, wishes)
    _link_services(clients, wishes, say)
    changes, tags = Changes(clients, clock, say), _tags(clients, wishes)
    try:
        _apply(clients, changes, parameters, tags, say)
    except LaunchError as error:
        if not is_too_early(str(error)):
            raise
        say(f"a role was used before it was visible everywhere: trying again in {_ROLE_S:.0f} s")
        clock.wait(Event(), _ROLE_S)
        _apply(clients, changes, parameters, tags, say)
    stack = read_stack(clients)
    # Crash here: the stack is whole and the config file does not name it; running the same again writes it.
    path = config.remember_aws(AwsSettings(stack=settings.stack, region=clients.region, profile=settings.profile))
    say(f"wrote [aws] to {path}")
    if stack.express_bucket is not None:
        _say_where(clients, stack, stack.express_bucket, say)
    return stack


def _apply(
    clients: Clients, changes: Changes, parameters: dict[str, str], tags: dict[str, str], say: Callable[[str], None]
) -> None:
    proposed = changes.propose(compact(template()), parameters, tags)
    if proposed is None:
        changes.discard()
        say("nothing to change")
        return
    try:
        _refuse_while_workers_run(clients, proposed)
        _give_up_express_bucket(clients, proposed, say)
    except LaunchError:
        changes.discard()
        raise
    say(f"{len(proposed)} resources to add or change in {clients.region}" if proposed else "the outputs to change")
    changes.apply()


def _refuse_while_workers_run(clients: Clients, proposed: list[Change]) -> None:
    """Refuse changes that would end running workers, which CloudFormation would make without asking. Raises: LaunchError.

    A compute environment of Batch that is changed while jobs run in it may become invalid, and its queue with it:
    https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2463
    """
    touched = [change for change in proposed if change.action != "Add"]
    of_batch = [change for change in touched if change.kind.startswith("AWS::Batch::")]
    lost = [
        change
        for change in touched
        if change.is_lost and not (change.action == "Modify" and change.kind.startswith(_HARMLESS))
    ]
    has = contents(clients) if of_batch or lost else None
    if has is None:
        return
    jobs = list(active_jobs(clients, has))
    tasks = list(ecs_tasks(clients, has)) if lost else []
    if jobs or tasks:
        running = " and ".join(
            f"{len(workers)} {kind}" for workers, kind in ((jobs, "jobs of Batch"), (tasks, "ECS tasks")) if workers
        )
        names = ", ".join(dict.fromkeys(change.resource for change in (*of_batch, *lost)))
        raise LaunchError(
            f"{running} run in the stack {clients.settings.stack!r}, and the update would change what they run on ({names}): "
            "wait until they are done (`starburst sessions`), or end their sessions (`starburst cleanup SESSION`), then run "
            "the same again; nothing was changed"
        )


def _give_up_express_bucket(clients: Clients, proposed: list[Change], say: Callable[[str], None]) -> None:
    """Empty the bucket in S3 Express One Zone if a change removes it: CloudFormation keeps one with contents, and says nothing.

    Raises: LaunchError if sessions are in it.
    Crash here: the bucket has lost the users' zipped modules, which its next session writes again.
    """
    has = (
        contents(clients) if any(change.resource == "ExpressBucket" and change.is_lost for change in proposed) else None
    )
    bucket = has.get("ExpressBucket") if has is not None else None
    if bucket is None:
        return
    url = Contents.url_of(clients, bucket)
    with closing(open_store(url)) as store:
        session_ids = sorted(store.list_folders(SESSIONS))
    if session_ids:
        raise LaunchError(
            f"{len(session_ids)} sessions are in the bucket {bucket}, which the update would remove: "
            f"{', '.join(session_ids[:_NAMED_MOST])}; delete them with `starburst cleanup --force --store '{url}' SESSION`, then run "
            "the same again; nothing was changed"
        )
    try:
        n_deleted = empty_express_bucket(clients.get("s3"), bucket)
    except FOREIGN as error:
        raise meaning(error, f"emptying the bucket {bucket}") from error
    if n_deleted:
        say(f"deleted {n_deleted} objects without a session from {bucket}")


def _say_where(clients: Clients, stack: Stack, bucket: str, say: Callable[[str], None]) -> None:
    """Say which subnet is in the zone of the bucket in S3 Express One Zone: from another zone each request takes longer."""
    try:
        subnets = clients.get("ec2").describe_subnets(SubnetIds=list(stack.subnets))["Subnets"]
    except FOREIGN as error:
        raise meaning(error, "reading the subnets of the stack") from error
    zone = zone_of_bucket(bucket)
    if zone not in {subnet.get("AvailabilityZoneId") for subnet in subnets}:
        say(
            f"note: no subnet of the stack is in {zone}, so each request of a worker to {bucket} crosses zones, which takes "
            "longer; subnets are chosen when a stack is created"
        )


def _tags(clients: Clients, wishes: Wishes) -> dict[str, str]:
    """Return the tags of the stack, which CloudFormation puts on each of its resources that can have tags.

    Present tags are kept: CloudFormation replaces a compute environment of Batch whose tags change.
    Source: https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2270
    """
    record = find_stack(clients) or {}
    kept = {str(tag["Key"]): str(tag["Value"]) for tag in record.get("Tags", [])}
    return {**kept, **tags_of(wishes.tags), "starburst:stack": clients.settings.stack}


# --------------------------------------------------------------------------------------------------------- service roles


def _link_services(clients: Clients, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Create the service-linked roles, of which an account has one each. Without the right to, leave that to the services."""
    needed = {"always"}
    needed |= {"ec2"} if wishes.wants_ec2 or wishes.wants_batch else set()
    needed |= {"batch"} if wishes.wants_batch else set()
    iam = clients.get("iam")
    for service in (service for service, when in _LINKED.items() if when in needed):
        try:
            if not iam.list_roles(PathPrefix=f"/aws-service-role/{service}/")["Roles"]:
                iam.create_service_linked_role(AWSServiceName=service)
                say(f"made the account's role for {service}")
        except FOREIGN as error:
            # InvalidInput: another client has just created it.
            if error_code(error) != "InvalidInput" and not is_denied(error):
                raise meaning(error, f"making the account's role for {service}") from error
