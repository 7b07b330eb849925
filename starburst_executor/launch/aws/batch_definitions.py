"""Registers the job definition of a launcher's workers."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from starburst_executor.aws.clients import FOREIGN, meaning
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.options import EPHEMERAL_GB_LEAST
from starburst_executor.launch.aws.remote import Account

__all__ = ["JobDefinition"]


class JobDefinition:
    """The job definition of one launcher. Its name is a digest of its contents, as for `TaskDefinition`."""

    def __init__(self, account: Account, options: Batch) -> None:
        self._account = account
        self._options = options

    @cached_property
    def name(self) -> str:
        """The name, which is registered if necessary. Batch: 1, and 1 to register it. Raises: LaunchError, ConfigError."""
        stack, batch = self._account.stack, self._account.clients.get("batch")
        definition = {
            "type": "container",
            "platformCapabilities": [self._options.on.upper()],
            "containerProperties": self._container(),
        }
        digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:20]
        name = f"{stack.task_family_prefix}{digest}"
        try:
            active = batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")
            if not active.get("jobDefinitions"):
                batch.register_job_definition(jobDefinitionName=name, tags=stack.all_tags, **definition)
        except FOREIGN as error:
            raise meaning(error, f"registering the job definition {name}") from error
        return name

    def _container(self) -> dict[str, Any]:
        account, options, stack = self._account, self._options, self._account.stack
        needs = [("VCPU", f"{options.size.vcpu:g}"), ("MEMORY", str(options.size.mib))]
        needs += [("GPU", str(options.gpus))] if options.gpus else []
        container: dict[str, Any] = {
            "image": account.image_for(options.arch),
            "executionRoleArn": stack.execution_role_arn,
            "jobRoleArn": account.worker_role_arn,
            "resourceRequirements": [{"type": kind, "value": value} for kind, value in needs],
            "logConfiguration": account.log_configuration(),
            "linuxParameters": {"initProcessEnabled": True},
            **account.given(options.size, options.gpus),
            **account.volumes(),
        }
        if stack.has_shell:
            container["enableExecuteCommand"] = True
        if options.ephemeral_gb != EPHEMERAL_GB_LEAST:
            container["ephemeralStorage"] = {"sizeInGiB": options.ephemeral_gb}
        if options.on == "fargate":
            container["networkConfiguration"] = {"assignPublicIp": stack.public_addresses}
            container["runtimePlatform"] = {"operatingSystemFamily": "LINUX", "cpuArchitecture": options.arch.upper()}
        return container
