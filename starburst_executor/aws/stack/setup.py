"""`starburst setup`: from the user's choices to the parameters of the template, and their deployment.

Guarantee: running it again, after an interruption, a failure or an upgrade, changes what differs and nothing else;
choices that are not made again stay as they are. What an upgrade changes by itself is an output, never a tag; what would
take the ground from under workers that run is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from threading import Event
from typing import Any

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Clients, error_code, is_denied, meaning
from starburst_executor.aws.machines import batch_parameters, ec2_parameters
from starburst_executor.aws.stack.causes import is_too_early
from starburst_executor.aws.stack.changes import Change, Changes
from starburst_executor.aws.stack.contents import active_jobs, contents, ecs_tasks
from starburst_executor.aws.stack.outputs import Stack, find_stack, parameters_of, read_stack
from starburst_executor.aws.stack.private import needed_services, route_table_of, way_out
from starburst_executor.aws.stack.rights import rights_parameters
from starburst_executor.aws.stack.rules import refuse_lost_rights, rules_parameters, tags_of
from starburst_executor.clock import Clock
from starburst_executor.config import AwsSettings
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.version import __version__

__all__ = ["Wishes", "compact", "propose", "set_up", "template"]

# Services that act in an account by a role of their own, which is made at first use. CloudFormation is often too fast for
# that, so they are made before. https://docs.aws.amazon.com/IAM/latest/UserGuide/using-service-linked-roles.html
_LINKED = {
    "ecs.amazonaws.com": "always",
    "autoscaling.amazonaws.com": "ec2",
    "spot.amazonaws.com": "ec2",
    "batch.amazonaws.com": "batch",
}
_MANY_ZONES, _FEW_ZONES = 3, 2
# Where Fargate has no machines, by what a zone is called in every account.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AWS_Fargate-Regions.html
_WITHOUT_FARGATE = ("usw1-az2", "apne1-az3")
# A role is seen everywhere "a few seconds" after it was made, says
# https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency
_ROLE_S = 30.0
# Changes of these, in place, do not touch what runs.
_HARMLESS = ("AWS::IAM::", "AWS::S3::", "AWS::Logs::", "AWS::ECR::", "AWS::CodeBuild::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The user's choices for the stack. None: as it is, or the template's default where there is no stack yet.

    Attributes:
        ec2: Capacity providers of EC2 instances.
        instance_types: What they start, one to four types of one architecture; implies `ec2`.
        most_instances: How many at most, of each of the two capacity providers.
        disk_gb: Disk of each instance, those of Batch included.
        batch: Queues of AWS Batch.
        batch_instance_types: What Batch chooses from on EC2, types or families of one architecture; implies `batch`.
        batch_most_vcpus: How many vCPUs at most, in each of its compute environments.
        fair_share: Queues of Batch that share their capacity fairly between users; implies `batch`, only when they are made.
        shell: Shells in workers, for users.
        codebuild: A project that builds images.
        vpc: A VPC that exists, in place of one of the stack's own; only when the stack is made.
        private: Whether its subnets are private: workers get no public address, and leave by NAT or by endpoints.
        subnets: Subnets of that VPC, public unless `private`, in two zones or more. With EC2 or Batch they must give instances public addresses.
        session_days: How long objects of sessions are kept.
        log_days: How long log lines are kept.
        reads: Places in S3 that workers may read, as URLs. This and the next four replace what was given before; `none` alone
            takes all of it away.
        writes: The same to read, write and delete.
        worker_policies: ARNs of policies that workers get as well.
        pass_roles: ARNs of roles that users may give workers in place of the stack's.
        permissions_boundary: ARN of a policy that bounds every role of the stack. This and the next five: `none` for none.
        role_path: Path of roles and policies.
        role_prefix: What names of roles and policies begin with.
        worker_role: ARN of a role that exists, for workers.
        execution_role: ARN of a role that exists, for the start of workers.
        kms_key: ARN of a KMS key that encrypts bucket, logs and keys of sessions.
        tags: `KEY=VALUE` for everything in the stack, and for what launchers make; added to those that it has.
        secrets: Secrets that workers may be started with, and keys that they are encrypted by: ARNs, or names of parameters.
    """

    ec2: bool | None = None
    instance_types: tuple[str, ...] = ()
    most_instances: int | None = None
    disk_gb: int | None = None
    batch: bool | None = None
    batch_instance_types: tuple[str, ...] = ()
    batch_most_vcpus: int | None = None
    fair_share: bool | None = None
    codebuild: bool | None = None
    shell: bool | None = None
    vpc: str | None = None
    private: bool | None = None
    subnets: tuple[str, ...] = ()
    session_days: int | None = None
    log_days: int | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    worker_policies: tuple[str, ...] = ()
    pass_roles: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    permissions_boundary: str | None = None
    role_path: str | None = None
    role_prefix: str | None = None
    worker_role: str | None = None
    execution_role: str | None = None
    kms_key: str | None = None
    tags: tuple[str, ...] = ()


def template() -> str:
    """The template's text, with this library's version among its outputs."""
    text = resources.files("starburst_executor.aws.stack").joinpath("template.yaml").read_text(encoding="utf-8")
    return text.replace("@VERSION@", __version__)


def compact(text: str) -> str:
    """The template without comments, each level indented as little as YAML allows: CloudFormation takes 51,200 bytes as a text.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    """
    columns = [(0, 0)]  # of the levels that are open: as written, as sent
    sent = []
    for line in text.splitlines():
        words = line.strip()
        if not words or words == "#" or words.startswith("# "):
            continue
        column = len(line) - len(line.lstrip())
        while columns[-1][0] > column:
            columns.pop()
        if columns[-1][0] < column:
            # A list may stand in the column of its own key.
            columns.append((column, columns[-1][1] + (0 if words.startswith("- ") else 1)))
        sent.append(" " * columns[-1][1] + words)
        if words.startswith("- "):
            columns.append((column + 2, columns[-1][1] + 2))
    return "\n".join(sent) + "\n"


def propose(clients: Clients, clock: Clock, wishes: Wishes, say: Callable[[str], None]) -> list[Change] | None:
    """The resources that setting up would change, None if nothing differs; nothing is changed. Raises: LaunchError, ConfigError."""
    changes = Changes(clients, clock, say)
    try:
        return changes.propose(compact(template()), _parameters(clients, wishes), _tags(clients, wishes))
    finally:
        changes.discard()


def set_up(clients: Clients, clock: Clock, wishes: Wishes, say: Callable[[str], None]) -> Stack:
    """Make the stack, or change it to what is wished, and write its name into the config file.

    Args:
        say: Called with each line of progress.

    Raises: LaunchError with the first cause and what to do, or because workers run that the changes would end; ConfigError.
    """
    settings = clients.settings
    parameters = _parameters(clients, wishes)
    _link_services(clients, wishes, say)
    changes, tags = Changes(clients, clock, say), _tags(clients, wishes)
    try:
        _apply(clients, changes, parameters, tags, say)
    except LaunchError as error:
        if not is_too_early(str(error)):
            raise
        say(f"a role was used before it was seen everywhere: once more in {_ROLE_S:.0f} s")
        clock.wait(Event(), _ROLE_S)
        _apply(clients, changes, parameters, tags, say)
    stack = read_stack(clients)
    # Crash here: the stack is whole and the config file does not name it; running the same again writes it.
    path = config.remember_aws(AwsSettings(stack=settings.stack, region=clients.region, profile=settings.profile))
    say(f"wrote [aws] to {path}")
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
    except LaunchError:
        changes.discard()
        raise
    say(f"{len(proposed)} resources to add or change in {clients.region}" if proposed else "the outputs to change")
    changes.apply()


def _refuse_while_workers_run(clients: Clients, proposed: list[Change]) -> None:
    """Raises: LaunchError if a change would end what runs: CloudFormation does not ask.

    A compute environment of Batch that is changed while jobs run in it may end as invalid, and its queue with it:
    https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2463
    """
    touched = [one for one in proposed if one.action != "Add"]
    of_batch = [one for one in touched if one.kind.startswith("AWS::Batch::")]
    lost = [one for one in touched if one.is_lost and not (one.action == "Modify" and one.kind.startswith(_HARMLESS))]
    has = contents(clients) if of_batch or lost else None
    if has is None:
        return
    jobs = list(active_jobs(clients, has))
    tasks = list(ecs_tasks(clients, has)) if lost else []
    if jobs or tasks:
        running = " and ".join(
            f"{len(found)} {words}" for found, words in ((jobs, "jobs of Batch"), (tasks, "ECS tasks")) if found
        )
        names = ", ".join(dict.fromkeys(one.resource for one in (*of_batch, *lost)))
        raise LaunchError(
            f"{running} run in the stack {clients.settings.stack!r}, and the update would change what they run on ({names}): "
            "wait until they are done (`starburst sessions`), or end their sessions (`starburst cleanup SESSION`), then run "
            "the same again; nothing was changed"
        )


def _tags(clients: Clients, wishes: Wishes) -> dict[str, str]:
    """What CloudFormation puts on all that can have any, also on what the template does not tag.

    A stack's tags stay as they were made, whatever they are: a compute environment of Batch is replaced when they change.
    Source: https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2270
    """
    found = find_stack(clients) or {}
    kept = {str(tag["Key"]): str(tag["Value"]) for tag in found.get("Tags", [])}
    return {**kept, **tags_of(wishes.tags), "starburst:stack": clients.settings.stack}


# ------------------------------------------------------------------------------------------------- wishes to parameters


def _parameters(clients: Clients, wishes: Wishes) -> dict[str, str]:
    """The template's parameters that have to be set; others keep their values or defaults."""
    found = find_stack(clients)
    exists = found is not None and found.get("Outputs")
    settled: dict[str, str] = {}
    for name, wish in (
        ("Ec2", wishes.ec2),
        ("Batch", wishes.batch),
        ("CodeBuild", wishes.codebuild),
        ("Shell", wishes.shell),
    ):
        if wish is not None:
            settled[name] = "yes" if wish else "no"
    for name, days in (("SessionDays", wishes.session_days), ("LogDays", wishes.log_days)):
        if days is not None:
            settled[name] = str(days)
    for name, number in (
        ("Ec2MostInstances", wishes.most_instances),
        ("Ec2DiskGb", wishes.disk_gb),
        ("BatchMostVcpus", wishes.batch_most_vcpus),
    ):
        if number is not None:
            settled[name] = str(number)
    if wishes.instance_types:
        if wishes.ec2 is False:
            raise ConfigError(
                f"instance_type={','.join(wishes.instance_types)!r}: means nothing without EC2; leave one out"
            )
        settled |= {"Ec2": "yes", **ec2_parameters(clients, wishes.instance_types)}
    if wishes.batch_instance_types:
        if wishes.batch is False:
            raise ConfigError(
                f"batch_instance_type={','.join(wishes.batch_instance_types)!r}: means nothing without Batch; leave one out"
            )
        settled |= {"Batch": "yes", **batch_parameters(clients, wishes.batch_instance_types)}
    before = parameters_of(found)
    if wishes.fair_share is not None:
        settled |= _fair_share(wishes, before)
    if wishes.private and not wishes.vpc and not exists:
        raise ConfigError("--private: name the VPC and its subnets (--vpc, --subnet); one of the stack's own is public")
    if wishes.vpc or wishes.subnets or wishes.private:
        if exists:
            raise ConfigError(
                "a stack's network is chosen when it is made: tear it down first, or set up another one (--stack NAME)"
            )
        settled |= _network(clients, wishes)
    elif not exists:
        zones = _zones(clients)
        settled |= {"Zones": str(len(zones)), "ZoneNames": ",".join(zones)}
    has_own_vpc = not (settled.get("VpcId") or (found and _is_in_given_vpc(found)))
    is_private = (before | settled).get("Private") == "yes"
    if not has_own_vpc and not is_private and "yes" in (settled.get("Ec2"), settled.get("Batch")):
        _refuse_without_addresses(clients, settled.get("SubnetIds") or str(_outputs(found)["Subnets"]))
    rules = rules_parameters(
        {
            "PermissionsBoundary": wishes.permissions_boundary,
            "RolePath": wishes.role_path,
            "RolePrefix": wishes.role_prefix,
            "WorkerRoleArn": wishes.worker_role,
            "ExecutionRoleArn": wishes.execution_role,
            "KmsKeyArn": wishes.kms_key,
        }
    )
    settled |= rules | _rights(clients, wishes, before)
    refuse_lost_rights(before | settled)
    return settled


def _fair_share(wishes: Wishes, before: dict[str, str]) -> dict[str, str]:
    """Whether the queues of Batch have a fair-share policy. Raises: ConfigError if they are there and it would change.

    Source: https://docs.aws.amazon.com/batch/latest/APIReference/API_CreateJobQueue.html, schedulingPolicyArn
    """
    if wishes.fair_share and wishes.batch is False:
        raise ConfigError("--fair-share: means nothing without Batch; leave one out")
    wanted = "yes" if wishes.fair_share else "no"
    has_queues = before.get("Batch") == "yes" and wishes.batch is not False
    if has_queues and before.get("BatchFairShare", "no") != wanted:
        flag = "--fair-share" if wishes.fair_share else "--no-fair-share"
        raise ConfigError(
            f"{flag}: Batch decides this for a queue when the queue is made: run `starburst setup --no-batch`, then `starburst "
            f"setup --batch {flag}`; nothing was changed"
        )
    return {"BatchFairShare": wanted, **({"Batch": "yes"} if wishes.fair_share else {})}


def _rights(clients: Clients, wishes: Wishes, before: dict[str, str]) -> dict[str, str]:
    return rights_parameters(
        reads=wishes.reads,
        writes=wishes.writes,
        policies=wishes.worker_policies,
        secrets=wishes.secrets,
        pass_roles=wishes.pass_roles,
        now=before,
        partition=clients.partition,
        region=clients.region,
        # Asked only where a name has to become an ARN.
        account_id=clients.account_id() if any(not each.startswith("arn:") for each in wishes.secrets) else "",
    )


def _zones(clients: Clients) -> list[str]:
    """Two or three zones for a network of the stack's own, named: what the template would pick by itself are those alone
    where the account has a default subnet.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference-getavailabilityzones.html
    """
    wanted = [
        {"Name": "zone-type", "Values": ["availability-zone"]},
        {"Name": "state", "Values": ["available"]},
    ]
    try:
        found = clients.get("ec2").describe_availability_zones(Filters=wanted)["AvailabilityZones"]
    except FOREIGN as error:
        raise meaning(error, "listing the availability zones") from error
    names = sorted(str(one["ZoneName"]) for one in found if one.get("ZoneId") not in _WITHOUT_FARGATE)
    if len(names) < _FEW_ZONES:
        raise ConfigError(f"{clients.region} has fewer than two zones that can be used: zones={', '.join(names)}")
    return names[:_MANY_ZONES]


def _is_in_given_vpc(found: dict[str, Any]) -> bool:
    return any(one["ParameterKey"] == "VpcId" and one.get("ParameterValue") for one in found.get("Parameters", []))


def _outputs(found: dict[str, Any] | None) -> dict[str, str]:
    return {one["OutputKey"]: one["OutputValue"] for one in (found or {}).get("Outputs", [])}


def _refuse_without_addresses(clients: Clients, subnets: str) -> None:
    """Instances, unlike ECS tasks on Fargate, have a public address only if their subnet gives it. Raises: ConfigError.

    Source: https://docs.aws.amazon.com/batch/latest/userguide/job_stuck_in_runnable.html
    """
    try:
        found = clients.get("ec2").describe_subnets(SubnetIds=subnets.split(","))["Subnets"]
    except FOREIGN as error:
        raise meaning(error, f"looking at the subnets {subnets}") from error
    without = [str(one["SubnetId"]) for one in found if not one.get("MapPublicIpOnLaunch")]
    if without:
        raise ConfigError(
            "instances there would have no public address, and so no way to ECS and S3: name subnets that give them one, or "
            f"have them give it (`aws ec2 modify-subnet-attribute --map-public-ip-on-launch --subnet-id {without[0]}`), or "
            f"leave out EC2 and Batch: subnets={', '.join(without)}"
        )


def _network(clients: Clients, wishes: Wishes) -> dict[str, str]:
    """A VPC that exists: its subnets are looked at before anything is made, since what is wrong shows only later."""
    if not wishes.vpc or len(wishes.subnets) < _FEW_ZONES:
        raise ConfigError("a VPC that exists needs --vpc and at least two --subnet, in different zones")
    ec2 = clients.get("ec2")
    try:
        subnets = ec2.describe_subnets(SubnetIds=list(wishes.subnets))["Subnets"]
        of_vpc = [{"Name": "vpc-id", "Values": [wishes.vpc]}]
        tables = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
        endpoints = ec2.describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
    except FOREIGN as error:
        raise meaning(error, f"looking at the VPC {wishes.vpc}") from error
    for subnet in subnets:
        if subnet["VpcId"] != wishes.vpc:
            raise ConfigError(f"not a subnet of that VPC: subnet={subnet['SubnetId']}, vpc={wishes.vpc}")
    if len({subnet["AvailabilityZone"] for subnet in subnets}) < _FEW_ZONES:
        raise ConfigError(f"all subnets are in one zone, where capacity may run out: add another: vpc={wishes.vpc}")
    used = {subnet["SubnetId"]: route_table_of(subnet["SubnetId"], tables) for subnet in subnets}
    if wishes.private:
        asked = {
            "Ec2": "yes" if wishes.ec2 or wishes.instance_types else "",
            "Batch": "yes" if _wants_batch(wishes) else "",
        }
        asked["Shell"] = "yes" if wishes.shell else ""
        needed = needed_services({**asked, "Secrets": ",".join(wishes.secrets)})
        zones = {subnet["AvailabilityZone"] for subnet in subnets}
        way = way_out(used, endpoints, needed, region=clients.region, n_zones=len(zones))
        if way.problem:
            raise ConfigError(way.problem)
    for subnet_id, table in used.items() if not wishes.private else ():
        routes = [] if table is None else table.get("Routes", [])
        if not any(str(route.get("GatewayId", "")).startswith("igw-") for route in routes):
            raise ConfigError(
                f"not a public subnet, workers there would reach neither S3 nor ECR: give its route table a route to an "
                f"internet gateway, or name another: subnet={subnet_id}"
            )
    s3 = f"com.amazonaws.{clients.region}.s3"
    with_endpoint = {
        table_id
        for one in endpoints
        if one["ServiceName"] == s3 and not one["State"].lower().startswith("delet")
        for table_id in one.get("RouteTableIds", [])
    }
    without = {table["RouteTableId"] for table in used.values() if table is not None} - with_endpoint
    return {
        "VpcId": wishes.vpc,
        "SubnetIds": ",".join(wishes.subnets),
        "RouteTableIds": ",".join(sorted(without)),
        "Private": "yes" if wishes.private else "no",
    }


def _wants_batch(wishes: Wishes) -> bool:
    return bool(wishes.batch or wishes.batch_instance_types or wishes.fair_share)


# --------------------------------------------------------------------------------------------------------- service roles


def _link_services(clients: Clients, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Make the roles that services need and an account has once. Without the right to do so it is left to the services."""
    needed = {"always"}
    batch = _wants_batch(wishes)
    needed |= {"ec2"} if wishes.ec2 or wishes.instance_types or batch else set()
    needed |= {"batch"} if batch else set()
    iam = clients.get("iam")
    for service in (service for service, when in _LINKED.items() if when in needed):
        try:
            if not iam.list_roles(PathPrefix=f"/aws-service-role/{service}/")["Roles"]:
                iam.create_service_linked_role(AWSServiceName=service)
                say(f"made the account's role for {service}")
        except FOREIGN as error:
            # InvalidInput: another client just created it.
            if error_code(error) != "InvalidInput" and not is_denied(error):
                raise meaning(error, f"making the account's role for {service}") from error
