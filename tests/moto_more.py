"""What moto's CloudFormation lacks of our template: importing this module before a stack is made adds it.

Each resource is put where its service keeps it in moto, so that the service's own calls see it.
"""

from __future__ import annotations

import json
from typing import Any

from moto.batch.models import ComputeEnvironment as BatchEnvironment
from moto.batch.models import batch_backends
from moto.cloudformation import parsing
from moto.codebuild.models import codebuild_backends
from moto.core.common_models import CloudFormationModel
from moto.ecs.models import ecs_backends
from moto.s3.models import s3_backends


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


_clean_json = parsing.clean_json


def _cleaned(value: Any, resources: Any) -> Any:
    """As moto's, which leaves a None in a list where the template says `AWS::NoValue`."""
    if isinstance(value, list):
        return [one for one in (_cleaned(one, resources) for one in value) if one is not None]
    return _clean_json(value, resources)


parsing.clean_json = _cleaned
for known in (parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map):
    known.cache_clear()
