"""The checks of `starburst doctor`: one function per check, each usable alone.

A check returns a description of the state, or raises `Wrong`. `doctor.py` handles refusals by AWS.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from starburst_executor import config
from starburst_executor.aws.billing.quotas import KINDS, read_quota
from starburst_executor.aws.clients import FOREIGN, Clients, error_code
from starburst_executor.aws.image.codebuild import NO_BUILDS_ADVICE
from starburst_executor.aws.stack.outputs import Stack, find_stack, parameters_of
from starburst_executor.aws.stack.private import needed_services, route_table_of, way_out
from starburst_executor.aws.stack.rights import granted
from starburst_executor.clock import Clock
from starburst_executor.errors import AccessDenied, PreconditionFailed, SessionNotFound, StarburstError
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store

__all__ = ["CHECKS", "Patient", "Wrong"]

_FEW_VCPUS = 16.0


@dataclass(frozen=True, slots=True)
class Patient:
    """The subject of the checks: a stack, with clients for its account."""

    clients: Clients
    clock: Clock
    stack: Stack


class Wrong(Exception):
    """Ends a check with the problem and what to do about it."""

    def __init__(self, words: str, todo: str) -> None:
        super().__init__(words)
        self.words = words
        self.todo = todo


def _key_file(_: Patient) -> str:
    return "exists" if config.user_key(create=False) is not None else "none yet: the first session creates it"


def _bucket(patient: Patient) -> str:
    s3, bucket, is_own = patient.clients.get("s3"), patient.stack.bucket, patient.stack.bucket_is_own
    again = "run `starburst setup` again; if that does not help, the bucket was changed by hand: undo the change"
    todo = again if is_own else "ask the bucket's owner to change it: docs/howto/aws-setup.md lists what it needs"
    _refuse_missing(s3, bucket, is_own=is_own)
    try:
        blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    except FOREIGN as error:
        if error_code(error) != "NoSuchPublicAccessBlockConfiguration":
            raise
        blocked = {}
    if not blocked or not all(blocked.values()):
        raise Wrong("public access is not completely blocked", todo)
    rules = _lifecycle(s3, bucket, todo)
    is_versioned = s3.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"
    if is_versioned and not any("NoncurrentVersionExpiration" in rule for rule in rules):
        raise Wrong("it is versioned, and each rewrite of a status object keeps a version, which costs money", todo)
    return f"{bucket}: no public access, lifecycle rules in force{'' if is_own else '; the stack did not create it'}"


def _express(patient: Patient) -> str:
    bucket, url = patient.stack.express_bucket, patient.stack.express_url(patient.clients.settings.profile)
    if bucket is None or url is None:
        return "not set up: `starburst setup --express ZONE` adds it"
    s3 = patient.clients.get("s3")
    _refuse_missing(s3, bucket, is_own=True)
    _lifecycle(s3, bucket, "run `starburst setup` again")
    return f"{bucket}: lifecycle rules in force, conditional writes {_probed(patient, url, is_guarded=False)}"


def _refuse_missing(s3: Any, bucket: str, *, is_own: bool) -> None:
    try:
        s3.head_bucket(Bucket=bucket)
    except FOREIGN as error:
        if error_code(error) in ("404", "NoSuchBucket"):
            todo = (
                "`starburst teardown`, then `starburst setup`" if is_own else "ask its owner, or set up another stack"
            )
            raise Wrong(f"there is no bucket {bucket}", todo) from error
        raise


def _lifecycle(s3: Any, bucket: str, todo: str) -> list[dict[str, Any]]:
    """Return the lifecycle rules. Raises: Wrong if incomplete uploads are kept."""
    try:
        rules = list(s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"])
    except FOREIGN as error:
        if error_code(error) != "NoSuchLifecycleConfiguration":
            raise
        rules = []
    if not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        raise Wrong("incomplete uploads are kept, and cost money", todo)
    return rules


def _conditional_writes(patient: Patient) -> str:
    """Check the guarantee of S3 on which the protocol relies, with the rights and from the network of this client."""
    url = patient.stack.store_url(patient.clients.settings.profile)
    return _probed(patient, url, is_guarded=patient.stack.bucket_is_own)


def _probed(patient: Patient, url: str, *, is_guarded: bool) -> str:
    keys = SessionKeys(f"doctor-{patient.clock.new_id(4)}")
    with closing(open_store(url)) as store:
        try:
            return _proved(store, keys.client("doctor"), is_guarded=is_guarded)
        finally:
            store.delete([keys.client("doctor")])


def _proved(store: ObjectStore, key: str, *, is_guarded: bool) -> str:
    """Describe the store's conditional writes. Raises: Wrong if a condition is ignored.

    Args:
        is_guarded: Whether the stack's policy of the bucket refuses writes without a condition.
    """
    broken = "use a bucket of Amazon S3, and no proxy that drops headers"
    first = store.create(key, b"first")
    if not _is_refused(lambda: store.create(key, b"again")):
        raise Wrong("an existing object was created again (If-None-Match)", broken)
    store.swap(key, b"second", first)
    if not _is_refused(lambda: store.swap(key, b"late", first)):
        raise Wrong("an object was replaced with an old ETag (If-Match)", broken)
    try:
        store.put(key, b"blind")
    except AccessDenied:
        return "honoured, and writes without a condition are refused"
    if not is_guarded:
        # A policy of a directory bucket knows no writes, and another owner's policy is not the stack's.
        return "honoured; no policy refuses writes without a condition"
    raise Wrong(
        "a write without a condition was accepted", "run `starburst setup` again: the bucket's policy is not in force"
    )


def _is_refused(write: Callable[[], object]) -> bool:
    try:
        write()
    except PreconditionFailed:
        return True
    return False


def _network(patient: Patient) -> str:
    ec2 = patient.clients.get("ec2")
    subnets = ec2.describe_subnets(SubnetIds=list(patient.stack.subnets))["Subnets"]
    zones = sorted({subnet["AvailabilityZone"] for subnet in subnets})
    vpc = [{"Name": "vpc-id", "Values": [subnets[0]["VpcId"]]}]
    tables = ec2.describe_route_tables(Filters=vpc)["RouteTables"]
    is_private = patient.stack.public_addresses == "DISABLED"
    if not is_private and not any(
        str(route.get("GatewayId", "")).startswith("igw-") for table in tables for route in table["Routes"]
    ):
        raise Wrong("the subnets have no route to the internet", "add a route to an internet gateway")
    s3 = f"com.amazonaws.{patient.stack.region}.s3"
    endpoints = ec2.describe_vpc_endpoints(Filters=vpc)["VpcEndpoints"]
    if not any(endpoint["ServiceName"] == s3 and endpoint["State"].lower() == "available" for endpoint in endpoints):
        raise Wrong("no endpoint for S3", "run `starburst setup` again, or add a gateway endpoint: it is free")
    express = f"com.amazonaws.{patient.stack.region}.s3express"
    if patient.stack.express_bucket and not any(endpoint["ServiceName"] == express for endpoint in endpoints):
        raise Wrong("no endpoint for S3 Express One Zone", f"add a gateway endpoint for {express}: it is free")
    words = f"{len(subnets)} subnets in {', '.join(zones)}, with an endpoint for S3"
    if not is_private:
        return words
    used = {str(subnet["SubnetId"]): route_table_of(str(subnet["SubnetId"]), tables) for subnet in subnets}
    needed = needed_services(parameters_of(find_stack(patient.clients)))
    way = way_out(used, endpoints, needed, region=patient.stack.region, n_zones=len(zones))
    if way.problem:
        raise Wrong(
            f"{words}, and no route to {', '.join(way.missing) or 'the services that workers use'}", way.problem
        )
    return f"{words}; {way.words}"


def _roles(patient: Patient) -> str:
    iam = patient.clients.get("iam")
    for arn in (patient.stack.worker_role_arn, patient.stack.execution_role_arn):
        name = arn.rpartition("/")[2]
        try:
            iam.get_role(RoleName=name)
        except FOREIGN as error:
            if error_code(error) == "NoSuchEntity":
                raise Wrong(f"there is no role {name}", "`starburst teardown`, then `starburst setup`") from error
            raise
    return "the worker role and the execution role exist"


def _worker_rights(patient: Patient) -> str:
    """Return the additional rights of tasks, from the stack's parameters alone."""
    return str(granted(parameters_of(find_stack(patient.clients))))


def _cluster(patient: Patient) -> str:
    stack, ecs = patient.stack, patient.clients.get("ecs")
    clusters = ecs.describe_clusters(clusters=[stack.cluster])["clusters"]
    if not clusters or clusters[0]["status"] != "ACTIVE":
        todo = "`starburst teardown`, then `starburst setup`" if stack.cluster_is_own else "ask its owner"
        raise Wrong(f"there is no cluster {stack.cluster}", todo)
    wanted = {"FARGATE", "FARGATE_SPOT", *filter(None, (stack.ec2_provider, stack.ec2_spot_provider))}
    missing = sorted(wanted - set(clusters[0].get("capacityProviders", [])))
    if missing:
        todo = "run `starburst setup` again" if stack.cluster_is_own else "ask the cluster's owner to add them"
        raise Wrong(f"the cluster lacks capacity providers: {', '.join(missing)}", todo)
    n_running = clusters[0].get("runningTasksCount", 0)
    return f"{stack.cluster}: {', '.join(sorted(wanted))}; {n_running} ECS tasks run"


def _images(patient: Patient) -> str:
    ecr, repository = patient.clients.get("ecr"), patient.stack.repository
    try:
        pages = ecr.get_paginator("describe_images").paginate(repositoryName=repository)
        tags = [tag for page in pages for image in page["imageDetails"] for tag in image.get("imageTags", [])]
    except FOREIGN as error:
        if error_code(error) == "RepositoryNotFoundException":
            raise Wrong(
                f"there is no repository {repository}", "`starburst teardown`, then `starburst setup`"
            ) from error
        raise
    if not tags and patient.stack.codebuild_project is None:
        raise Wrong("no images, and no way to build one", "run `starburst setup --codebuild`")
    return f"{len(tags)} in {repository}" if tags else "none yet: `starburst image build` builds one"


def _builds(patient: Patient) -> str:
    """Check that CodeBuild may run builds: in a new account it may not, which otherwise shows only in a build."""
    if patient.stack.codebuild_project is None:
        return "not set up: `starburst setup --codebuild` adds it"
    try:
        quotas = patient.clients.get("service-quotas").get_paginator("list_service_quotas")
        pages = quotas.paginate(ServiceCode="codebuild")
        limits = {str(quota["QuotaName"]): float(quota["Value"]) for page in pages for quota in page["Quotas"]}
    except FOREIGN:
        limits = {}
    most = next((value for name, value in limits.items() if "linux/medium" in name.lower()), None)
    if most is None:
        return f"{patient.stack.codebuild_project}; the number of allowed builds is unknown"
    if most < 1:
        raise Wrong("the quota of CodeBuild allows no builds in this account", NO_BUILDS_ADVICE)
    return f"{patient.stack.codebuild_project}: {most:g} concurrent builds"


def _logs(patient: Patient) -> str:
    logs, name = patient.clients.get("logs"), patient.stack.log_group
    groups = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    matching: list[dict[str, Any]] = [group for group in groups if group["logGroupName"] == name]
    if not matching:
        raise Wrong(f"there is no log group {name}", "`starburst teardown`, then `starburst setup`")
    if "retentionInDays" not in matching[0]:
        raise Wrong(f"{name} is kept forever, and costs money", "run `starburst setup --log-days 30`")
    return f"{name}, kept for {matching[0]['retentionInDays']} days"


def _batch(patient: Patient) -> str:
    stack = patient.stack
    queues = [
        queue
        for queue in (
            stack.batch_fargate_queue,
            stack.batch_fargate_spot_queue,
            stack.batch_ec2_queue,
            stack.batch_ec2_spot_queue,
        )
        if queue is not None
    ]
    if not queues:
        return "not set up: `starburst setup --batch` adds it"
    batch = patient.clients.get("batch")
    records = batch.describe_job_queues(jobQueues=queues)["jobQueues"]
    bad = [
        f"{queue['jobQueueName']}: {queue.get('statusReason', queue['status'])}"
        for queue in records
        if queue["status"] != "VALID"
    ]
    if len(records) < len(queues):
        bad.append(f"{len(queues) - len(records)} queues are missing")
    environments = {env["computeEnvironment"] for queue in records for env in queue["computeEnvironmentOrder"]}
    answer = batch.describe_compute_environments(computeEnvironments=sorted(environments))
    bad += [
        f"{environment['computeEnvironmentName']}: {environment.get('statusReason', environment['status'])}"
        for environment in answer["computeEnvironments"]
        if environment["status"] != "VALID"
    ]
    if bad:
        raise Wrong("; ".join(bad), "correct the problem in the message, or run `starburst setup` again")
    return f"{len(queues)} queues"


def _quotas(patient: Patient) -> str:
    kinds = ["fargate", "fargate-spot", *(["ec2", "ec2-spot"] if patient.stack.ec2_provider else [])]
    quotas = {kind: read_quota(patient.clients, KINDS[kind], patient.clock) for kind in kinds}
    words = [f"{kind} {quota.limit:g} vCPUs" for kind, quota in quotas.items() if quota is not None]
    few = [kind for kind, quota in quotas.items() if quota is not None and quota.limit < _FEW_VCPUS]
    if few:
        raise Wrong(
            f"few workers can run at once: {', '.join(words)}",
            f"request a higher quota in the Service Quotas console: {', '.join(f'{kind} {KINDS[kind].code}' for kind in few)}",
        )
    return ", ".join(words) or "these credentials may not read quotas"


def _leftovers(patient: Patient) -> str:
    """Find keys of sessions that are over, whose client died before it could delete them."""
    path = patient.stack.parameter_prefix
    pages = (
        patient.clients.get("ssm")
        .get_paginator("describe_parameters")
        .paginate(ParameterFilters=[{"Key": "Name", "Option": "BeginsWith", "Values": [path]}])
    )
    session_ids = [parameter["Name"].removeprefix(path) for page in pages for parameter in page["Parameters"]]
    over: set[str] = set()
    missing = set(session_ids)
    profile = patient.clients.settings.profile
    for url in filter(None, (patient.stack.store_url(profile), patient.stack.express_url(profile))):
        with closing(open_store(url)) as store:
            states = {session_id: _is_over(store, session_id, patient.clock) for session_id in missing}
        over |= {session_id for session_id, is_over in states.items() if is_over}
        missing -= {session_id for session_id, is_over in states.items() if is_over is not None}
    if over or missing:
        names = [*sorted(over), *sorted(missing)]
        counts = ((over, "that are over"), (missing, "that are not in the stack's buckets"))
        kinds = " and ".join(f"{len(ids)} sessions {words}" for ids, words in counts if ids)
        unless = ", unless they are in another store" if missing else ""
        raise Wrong(
            f"keys of {kinds}: {', '.join(names[:3])}",
            f"delete them{unless}: `aws ssm delete-parameters --names {' '.join(path + name for name in names[:10])}`",
        )
    return f"none; {len(session_ids)} sessions have keys for their workers"


def _is_over(store: ObjectStore, session_id: str, clock: Clock) -> bool | None:
    """Whether a session is over; None if it is not in this store."""
    try:
        return SessionStore(store, session_id, Sealer(b"", session_id), clock).manifest.refresh().state.is_over
    except SessionNotFound:
        return None
    except StarburstError:
        return False


CHECKS: dict[str, Callable[[Patient], str]] = {
    "key file": _key_file,
    "bucket": _bucket,
    "conditional writes": _conditional_writes,
    "S3 Express": _express,
    "network": _network,
    "roles": _roles,
    "worker rights": _worker_rights,
    "cluster": _cluster,
    "images": _images,
    "builds": _builds,
    "logs": _logs,
    "Batch": _batch,
    "quotas": _quotas,
    "leftovers": _leftovers,
}
