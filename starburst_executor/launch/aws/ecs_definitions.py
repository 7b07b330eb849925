"""Registers the task definition of a launcher's workers."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property

from starburst_executor.aws.clients import FOREIGN, Passing, error_code, is_throttled, is_unclear, meaning
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.aws.shape import Shape

__all__ = ["TaskDefinition"]

# The error if another client registers the same definition at the same time.
# https://github.com/dagster-io/dagster/pull/11192, https://github.com/PrefectHQ/prefect/issues/15865
_BEATEN = "too many concurrent attempts"


class TaskDefinition:
    """The task definition of one launcher.

    Its family is a digest of its contents. So clients need no coordination: an existing family has the right contents.
    """

    def __init__(self, account: Account, shape: Shape) -> None:
        self._account = account
        self._shape = shape

    @cached_property
    def family(self) -> str:
        """The family, which is registered if necessary. ECS: 1, and 1 to register it. Raises: Passing, LaunchError, ConfigError."""
        stack, ecs = self._account.stack, self._account.clients.get("ecs")
        definition = self._shape.definition()
        digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:20]
        family = f"{stack.task_family_prefix}{digest}"
        try:
            if not self._is_registered(family):
                tags = [{"key": key, "value": value} for key, value in stack.all_tags.items()]
                ecs.register_task_definition(family=family, tags=tags, **definition)
        except FOREIGN as error:
            if _BEATEN in str(error).lower():
                raise Passing(f"another client is registering the task definition {family}: {error}") from error
            raise meaning(error, f"registering the task definition {family}") from error
        return family

    def _is_registered(self, family: str) -> bool:
        try:
            answer = self._account.clients.get("ecs").describe_task_definition(taskDefinition=family)
        except FOREIGN as error:
            # ECS uses this code for a missing definition, but also when it is too busy.
            if error_code(error) != "ClientException" or is_throttled(error) or is_unclear(error):
                raise
            return False
        return bool(answer["taskDefinition"].get("status", "ACTIVE") == "ACTIVE")
