"""What moto lacks of our template: importing this module before a stack is made adds it.

Resources that its CloudFormation does not know are put where their service keeps them in moto, so that the service's own
calls see them. Conditions of bucket policies, which moto does not look at, are judged.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from moto.batch.models import ComputeEnvironment as BatchEnvironment
from moto.batch.models import JobQueue, batch_backends
from moto.cloudformation import parsing
from moto.cloudformation.models import Change, ChangeSet, CloudFormationBackend, Stack
from moto.cloudformation.responses import CloudFormationResponse
from moto.codebuild.models import codebuild_backends
from moto.core.common_models import CloudFormationModel
from moto.ec2.models.internet_gateways import InternetGateway
from moto.ec2.models.route_tables import RouteTable
from moto.ec2.models.vpcs import VPCEndPoint
from moto.ecs.models import Cluster, ecs_backends
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.models import ManagedPolicy, Role, iam_backends
from moto.s3.models import FakeBucket, s3_backends
from moto.s3.responses import S3Response
from moto.servicequotas.models import ServiceQuotasBackend
from moto.servicequotas.responses import ServiceQuotasResponse


class _Made:
    """A resource that was made: its physical id and attributes."""

    def __init__(self, physical_id: str, **attributes: str) -> None:
        self.physical_resource_id = physical_id
        self._attributes = attributes

    def is_created(self) -> bool:
        return True

    def get_cfn_attribute(self, name: str) -> str:
        return self._attributes[name]


class _Lacking:
    """What all these have in common: they are made, and an update leaves them as they are."""

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return True

    @classmethod
    def update_from_cloudformation_json(cls, original_resource: Any, *args: Any, **kwargs: Any) -> Any:
        return original_resource

    @classmethod
    def delete_from_cloudformation_json(cls, *args: Any) -> None:
        pass


class BucketPolicy(_Lacking, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::S3::BucketPolicy"

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        properties = record["Properties"]
        policy = json.dumps(properties["PolicyDocument"]).encode()
        s3_backends[account_id]["aws"].put_bucket_policy(properties["Bucket"], policy)
        return _Made(properties["Bucket"])


class DirectoryBucket(_Lacking, CloudFormationModel):
    """moto has no directory buckets: here it is another bucket, whose name is that of a directory bucket."""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::S3Express::DirectoryBucket"

    @staticmethod
    def is_replacement_update(_: Any) -> bool:
        return False

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        properties = record["Properties"]
        bucket = f"{name.lower()[:30]}--{properties['LocationName']}--x-s3"
        backend = s3_backends[account_id]["aws"]
        backend.create_bucket(bucket, region)
        backend.put_bucket_lifecycle_configuration(bucket, _rules_of(properties))
        made = _Made(bucket, Arn=f"arn:aws:s3express:{region}:{account_id}:bucket/{bucket}")
        made.zone = properties["LocationName"]
        return made

    @classmethod
    def update_from_cloudformation_json(
        cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name
    ):
        if cloudformation_json["Properties"]["LocationName"] == original_resource.zone:
            return original_resource
        cls.delete_from_cloudformation_json(original_resource.physical_resource_id, None, account_id, region_name)
        return cls.create_from_cloudformation_json(new_resource_name, cloudformation_json, account_id, region_name)

    @classmethod
    def delete_from_cloudformation_json(cls, bucket, record, account_id, region):
        assert s3_backends[account_id]["aws"].delete_bucket(bucket), "the bucket is not empty"


class ExpressBucketPolicy(_Lacking, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::S3Express::BucketPolicy"

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        return _Made(record["Properties"]["Bucket"])


class CapacityProvider(_Lacking, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::ECS::CapacityProvider"

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        details = record["Properties"]["AutoScalingGroupProvider"]
        ecs_backends[account_id][region].create_capacity_provider(name, details, None)
        return _Made(name)


class ClusterProviders(_Lacking, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::ECS::ClusterCapacityProviderAssociations"

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        properties = record["Properties"]
        backend = ecs_backends[account_id][region]
        backend.put_cluster_capacity_providers(properties["Cluster"], properties["CapacityProviders"], [])
        return _Made(name)

    update_from_cloudformation_json = classmethod(
        lambda cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name: (
            cls.create_from_cloudformation_json(new_resource_name, cloudformation_json, account_id, region_name)
        )
    )


class Project(_Lacking, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::CodeBuild::Project"

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        properties = record["Properties"]
        codebuild_backends[account_id][region].create_project(
            name,
            properties["Description"],
            {"type": "S3", "location": properties["Source"]["Location"]},
            {"type": "NO_ARTIFACTS"},
            {
                "type": "LINUX_CONTAINER",
                "image": properties["Environment"]["Image"],
                "computeType": "BUILD_GENERAL1_MEDIUM",
            },
            properties["ServiceRole"],
            *([None] * 7),
        )
        return _Made(name, Arn=f"arn:aws:codebuild:{region}:{account_id}:project/{name}")

    @classmethod
    def delete_from_cloudformation_json(cls, name, record, account_id, region):
        codebuild_backends[account_id][region].delete_project(name)


class ComputeEnvironment(_Lacking, CloudFormationModel):
    """moto's own wants a role, where Batch has one linked to the service."""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Batch::ComputeEnvironment"

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        properties = record["Properties"]
        resources = {key[0].lower() + key[1:]: value for key, value in properties["ComputeResources"].items()}
        backend = batch_backends[account_id][region]
        made = BatchEnvironment(
            name, "MANAGED", "ENABLED", resources, "linked", account_id=account_id, region_name=region
        )
        made.set_ecs(f"arn:aws:ecs:{region}:{account_id}:cluster/{name}_Batch", f"{name}_Batch")
        backend._compute_environments[made.arn] = made
        return _Made(made.arn)

    @classmethod
    def delete_from_cloudformation_json(cls, arn, record, account_id, region):
        del batch_backends[account_id][region]._compute_environments[arn]


class SchedulingPolicy(_Lacking, CloudFormationModel):
    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Batch::SchedulingPolicy"

    @classmethod
    def create_from_cloudformation_json(cls, name, record, account_id, region, **_):
        policy = record["Properties"]["FairsharePolicy"]
        fair_share = {key[0].lower() + key[1:]: value for key, value in policy.items()}
        made = batch_backends[account_id][region].create_scheduling_policy(name, fair_share, None)
        return _Made(made.arn)

    @classmethod
    def delete_from_cloudformation_json(cls, arn, record, account_id, region):
        batch_backends[account_id][region].delete_scheduling_policy(arn)


_create_queue = JobQueue.create_from_cloudformation_json.__func__


def _made_queue(cls: type[JobQueue], name: str, record: Any, account_id: str, region: str, **others: Any) -> JobQueue:
    """moto leaves out its scheduling policy."""
    queue = _create_queue(cls, name, record, account_id, region, **others)
    queue.schedule_policy = record["Properties"].get("SchedulingPolicyArn")
    return queue  # type: ignore[no-any-return]


JobQueue.create_from_cloudformation_json = classmethod(_made_queue)


def _delete_route_table(self: RouteTable, account_id: str, region: str) -> None:
    """moto never does, and keeps the VPC for it."""
    self.associations.clear()
    self.ec2_backend.delete_route_table(self.id)


RouteTable.delete = _delete_route_table
# These neither.
VPCEndPoint.delete = lambda self, *_: self.ec2_backend.vpc_end_points.pop(self.id)
InternetGateway.delete = lambda self, *_: self.ec2_backend.internet_gateways.pop(self.id)
Cluster.delete = lambda self, account_id, region: ecs_backends[account_id][region].delete_cluster(self.name)
JobQueue.delete = lambda self, account_id, region: batch_backends[account_id][region].delete_job_queue(self.name)

# ------------------------------------------------------------------------------------------------------------- quotas

VCPUS: dict[str, float] = {}  # by quota code; a test that changes it puts it back
_MANY_VCPUS = 640.0


def _quota(self: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
    """moto knows those of VPCs alone."""
    value = VCPUS.get(quota_code, _MANY_VCPUS)
    return {"ServiceCode": service_code, "QuotaCode": quota_code, "QuotaName": quota_code, "Value": value}


ServiceQuotasBackend.get_service_quota = _quota

BUILDS: dict[str, float] = {"Concurrently running builds for Linux/Medium environment": 20.0}  # as VCPUS


def _quotas(self: ServiceQuotasResponse) -> str:
    """moto has no quotas that were applied."""
    quotas = [{"ServiceCode": "codebuild", "QuotaName": name, "Value": value} for name, value in BUILDS.items()]
    return json.dumps({"Quotas": quotas})


ServiceQuotasResponse.list_service_quotas = _quotas

# ------------------------------------------------------------------------------------------------------------- buckets

_create_bucket = FakeBucket.create_from_cloudformation_json.__func__


def _made_bucket(
    cls: type[FakeBucket], name: str, record: Any, account_id: str, region: str, **others: Any
) -> FakeBucket:
    """moto leaves out who may see a bucket, and how long its objects live."""
    bucket = _create_bucket(cls, name, record, account_id, region, **others)
    properties = record["Properties"]
    backend = s3_backends[account_id]["aws"]
    if "PublicAccessBlockConfiguration" in properties:
        backend.put_public_access_block(name, properties["PublicAccessBlockConfiguration"])
    if rules := _rules_of(properties):
        backend.put_bucket_lifecycle_configuration(name, rules)
    return bucket


def _rules_of(properties: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lifecycle rules of a template, as S3's own request has them."""
    return [
        {
            "ID": rule["Id"],
            "Status": rule["Status"],
            "Filter": {"Prefix": rule.get("Prefix", "")},
            **({"Expiration": {"Days": rule["ExpirationInDays"]}} if "ExpirationInDays" in rule else {}),
            **{key: rule[key] for key in ("AbortIncompleteMultipartUpload",) if key in rule},
        }
        for rule in properties.get("LifecycleConfiguration", {}).get("Rules", [])
    ]


_bucket_get = S3Response._bucket_response_get


def _with_session(self: S3Response, bucket_name: str, querystring: Mapping[str, Any]) -> Any:
    """CreateSession, which begins all work in a directory bucket; `express_bucket.py` imitates the rest."""
    if "session" not in querystring:
        return _bucket_get(self, bucket_name, querystring)
    credentials = "".join(
        f"<{name}>{value}</{name}>"
        for name, value in (
            ("AccessKeyId", "session"),
            ("SecretAccessKey", "secret"),
            ("SessionToken", "token"),
            ("Expiration", "2100-01-01T00:00:00Z"),
        )
    )
    return 200, {}, f"<CreateSessionResult><Credentials>{credentials}</Credentials></CreateSessionResult>"


_has_bucket_in_host = S3Response.subdomain_based_buckets


def _named_in_host(request: Any) -> bool:
    """What is asked about directory buckets, and not of one, names the bucket in its path."""
    return "s3express-control." not in request.url and _has_bucket_in_host(request)


S3Response._bucket_response_get = _with_session
S3Response.subdomain_based_buckets = staticmethod(_named_in_host)

FakeBucket.create_from_cloudformation_json = classmethod(_made_bucket)
_update_bucket = FakeBucket.update_from_cloudformation_json.__func__


def _updated_bucket(
    cls: type[FakeBucket], original_resource: Any, name: str, record: Any, *where: str, **more: str
) -> Any:
    """moto wants the name of one that it has named itself."""
    named = {**record, "Properties": {**record["Properties"], "BucketName": original_resource.name}}
    return _update_bucket(cls, original_resource, name, named, *where, **more)


FakeBucket.update_from_cloudformation_json = classmethod(
    lambda cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name: _updated_bucket(
        cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name
    )
)

# --------------------------------------------------------------------------------------------------------- change sets

_create_change_set = CloudFormationBackend.create_change_set


def _as_given(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as texts: moto keeps some as what it made of them."""
    return {key: ",".join(value) if isinstance(value, list) else str(value) for key, value in parameters.items()}


def _proposed(self: CloudFormationBackend, *args: Any, **kwargs: Any) -> Any:
    """Of a stack that was only ever proposed, moto makes a second one of the same name."""
    if kwargs["change_set_type"] == "CREATE":
        for stack in [stack for stack in self.stacks.values() if stack.name == kwargs["stack_name"]]:
            assert stack.status == "REVIEW_IN_PROGRESS"
            del self.stacks[stack.stack_id]
    return _create_change_set(self, *args, **{**kwargs, "parameters": _as_given(kwargs["parameters"])})


def _executed(self: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
    """As creating or updating the stack directly: moto's forgets parameters, conditions and outputs."""
    change_set = next(
        candidate
        for candidate in self.change_sets.values()
        if (candidate.change_set_name, candidate.stack_name) == (change_set_name, stack_name)
        and candidate.stack_id in self.stacks
    )
    stack = self.stacks[change_set.stack_id]
    if change_set.change_set_type == "UPDATE":
        # What was not given before had its default: it changes only if it differs from that.
        stack.resource_map.input_parameters = _as_given(stack.resource_map.resolved_parameters)
        adds, removes = _by_condition(change_set)
        stack.update(change_set.template, parameters=_as_given(change_set.parameters), tags=change_set.tags)
        for name in adds:
            assert stack.resource_map[name]
        _remove(stack.resource_map, removes)
        return
    made = Stack(
        change_set.stack_id,
        stack.name,
        change_set.template,
        change_set.parameters,
        self.account_id,
        self.region_name,
        tags=change_set.tags,
    )
    made.events = stack.events
    self.stacks[change_set.stack_id] = made
    made._add_stack_event("CREATE_IN_PROGRESS", resource_status_reason="User Initiated")
    made.create_resources()


def _by_condition(change_set: ChangeSet) -> tuple[list[str], list[str]]:
    """Resources that other parameters add or remove by their conditions, which moto does not look at."""
    stack = change_set.stack
    after = parsing.ResourceMap(
        stack.stack_id,
        stack.name,
        _as_given(change_set.parameters),
        {},
        stack.region_name,
        stack.account_id,
        change_set.template_dict,
        stack.cross_stack_resources,
    )
    after.load()
    before = stack.resource_map._parsed_resources
    records = change_set.template_dict["Resources"].items()
    wanted = {name for name, record in records if after.lazy_condition_map.get(record.get("Condition"), True)}
    return (
        [name for name, _ in records if name in wanted and name not in before],
        [name for name, _ in records if name not in wanted and name in before],
    )


def _remove(resources: parsing.ResourceMap, names: list[str]) -> None:
    """In any order that works, as CloudFormation knows it."""
    while names:
        kept = []
        for name in names:
            try:
                resources._delete_resource(resources._parsed_resources[name], resources._resource_json_map[name])
                del resources._parsed_resources[name]
            except Exception:
                kept.append(name)
        if len(kept) == len(names):
            raise AssertionError(f"cannot be removed: {kept}")
        names = kept


_diff = ChangeSet.diff


def _whole_diff(self: ChangeSet) -> list[Change]:
    changes = _diff(self)
    if self.change_set_type == "UPDATE":
        adds, removes = _by_condition(self)
        kinds = {name: record["Type"] for name, record in self.template_dict["Resources"].items()}
        changes = [change for change in changes if change.logical_resource_id not in {*adds, *removes}]
        changes += [Change("Add", name, kinds[name]) for name in adds]
        changes += [Change("Remove", name, kinds[name]) for name in removes]
    return changes


ChangeSet.diff = _whole_diff


def _has_parameters(self: Stack, other: Mapping[str, Any]) -> bool:
    now = _as_given(self.resource_map.resolved_parameters)
    return now == {**now, **_as_given(other)}


# moto shows lists as Python writes them.
Stack.stack_parameters = property(lambda self: _as_given(self.resource_map.resolved_parameters))
Stack.parameter_list = property(
    lambda self: [
        {"ParameterKey": key, "ParameterValue": value}
        for key, value in _as_given(self.resource_map.resolved_parameters).items()
    ]
)
CloudFormationBackend.create_change_set = _proposed
CloudFormationBackend.execute_change_set = _executed
# A change set without changes is made, and says so.
CloudFormationResponse._validate_different_update = lambda *_: None
Stack.has_parameters = _has_parameters

# ------------------------------------------------------------------------------------------ conditions of bucket policies

_HEADERS = {"s3:if-match": "If-Match", "s3:if-none-match": "If-None-Match"}
_request = threading.local()
_key_response = S3Response._key_response


def _noted_key_response(self: S3Response, request: Any, full_url: str) -> Any:
    _request.headers = request.headers
    return _key_response(self, request, full_url)


def _permission(self: FakeBucket, action: str, resource: str) -> Any:
    if self.policy is None:
        return PermissionResult.NEUTRAL
    policy = json.loads(self.policy)
    # A thread that only ever deleted several objects at once has none.
    headers = getattr(_request, "headers", {})
    in_force = [statement for statement in policy["Statement"] if _holds(statement.pop("Condition", {}), headers)]
    if not in_force:
        return PermissionResult.NEUTRAL
    return IAMPolicy(json.dumps({**policy, "Statement": in_force})).is_action_permitted(action, resource)


def _holds(condition: dict[str, dict[str, str]], headers: Mapping[str, str]) -> bool:
    """Whether a request with these headers, over TLS, is one that the condition means."""
    for operator, operands in condition.items():
        for key, value in operands.items():
            if operator == "Null":
                if (_HEADERS[key] not in headers) is not (value == "true"):
                    return False
            elif (operator, key) == ("Bool", "aws:SecureTransport"):
                if value == "false":
                    return False
            else:
                # A policy with a condition that is not judged here must not pass.
                raise AssertionError(
                    f"this bucket's policy has a condition that is not judged here: {operator} on {key}"
                )
    return True


S3Response._key_response = _noted_key_response
FakeBucket.get_permission = _permission

# ------------------------------------------------------------------------------------------- absent values, updates

_clean_json = parsing.clean_json


def _cleaned(value: Any, resources: Any) -> Any:
    """As moto's, which leaves a None in a list where the template says `AWS::NoValue`."""
    if isinstance(value, list):
        return [item for item in (_cleaned(item, resources) for item in value) if item is not None]
    return _clean_json(value, resources)


_load_parameters = parsing.ResourceMap.load_parameters


def _loaded(self: parsing.ResourceMap) -> None:
    """moto leaves a list parameter without a value as the text of the template."""
    _load_parameters(self)
    for name, parameter in self._template.get("Parameters", {}).items():
        value = self.resolved_parameters[name]
        if parameter["Type"] == "CommaDelimitedList" and isinstance(value, str):
            self.resolved_parameters[name] = self._parsed_resources[name] = value.split(",")


parsing.ResourceMap.load_parameters = _loaded
_update_resource = parsing.parse_and_update_resource


def _updated(logical_id: str, record: Any, resources: Any, **where: str) -> Any:
    """moto forgets a resource that it does not know how to update, and updates what a condition leaves out."""
    before = resources[logical_id]
    return before and (_update_resource(logical_id, record, resources, **where) or before)


parsing.clean_json = _cleaned
parsing.parse_and_update_resource = _updated
for known in (parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map):
    known.cache_clear()

# --------------------------------------------------------------------------------------------------- roles and policies

_create_role = Role.create_from_cloudformation_json.__func__


def _with_policies(role: Role, properties: Mapping[str, Any], account_id: str) -> Role:
    """moto leaves out attached policies, and does not exchange what an update changes."""
    backend = iam_backends[account_id]["aws"]
    for name in list(role.policies):
        role.delete_policy(name)
    for policy in properties.get("Policies", []):
        role.put_policy(policy["PolicyName"], policy["PolicyDocument"])
    for arn in list(role.managed_policies):
        backend.detach_role_policy(arn, role.name)
    for arn in properties.get("ManagedPolicyArns", []):
        backend.attach_role_policy(arn, role.name)
    return role


def _made_role(cls: type[Role], name: str, record: Any, account_id: str, region: str, **others: Any) -> Role:
    role = _create_role(cls, name, record, account_id, region, **others)
    return _with_policies(role, record["Properties"], account_id)


def _changed_role(
    cls: type[Role],
    original_resource: Role,
    new_resource_name: str,
    cloudformation_json: Any,
    account_id: str,
    region_name: str,
) -> Role:
    return _with_policies(original_resource, cloudformation_json["Properties"], account_id)


def _changed_policy(
    cls: type[ManagedPolicy],
    original_resource: ManagedPolicy,
    new_resource_name: str,
    cloudformation_json: Any,
    account_id: str,
    region_name: str,
) -> ManagedPolicy:
    policy, document = original_resource, json.dumps(cloudformation_json["Properties"]["PolicyDocument"])
    if document == next(version.document for version in policy.versions if version.is_default):
        return policy
    del policy.versions[:-1]  # IAM keeps five, and CloudFormation removes what is too much
    version = iam_backends[account_id]["aws"].create_policy_version(policy.arn, document, "true")
    assert version.is_default
    return policy


def _delete_policy(self: ManagedPolicy, *_: str) -> None:
    """moto deletes in any order; CloudFormation the stack's roles first, which detaches what is attached to those."""
    backend = iam_backends[self.account_id]["aws"]
    stack = self.name.partition("-")[0]
    for role in [role for role in backend.roles.values() if role.name.startswith(f"{stack}-")]:
        if self.arn in role.managed_policies:
            backend.detach_role_policy(self.arn, role.name)
    backend.delete_policy(self.arn)


ManagedPolicy.delete = _delete_policy
Role.create_from_cloudformation_json = classmethod(_made_role)
Role.update_from_cloudformation_json = classmethod(_changed_role)
ManagedPolicy.update_from_cloudformation_json = classmethod(_changed_policy)
