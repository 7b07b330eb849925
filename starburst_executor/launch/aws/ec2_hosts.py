"""The EC2 instances of a stack, for the launcher: the capacity of one instance, and how long instances are kept.

The stack has a capacity provider for one or more instance types, On-Demand and Spot. ECS managed scaling starts an
instance for each ECS task without one, and ends idle instances. One ECS task fills an instance of the smallest type.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any, NamedTuple

from starburst_executor.aws.billing.quotas import kind_of_instance
from starburst_executor.aws.clients import FOREIGN
from starburst_executor.aws.machines import describe_types
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.options import ARCHS
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.aws.sizes import Size, memory_mib

__all__ = ["Hosts", "Machine"]

_log = logging.getLogger(__name__)

# Memory for the kernel, the container engine and the ECS agent: about a twelfth, plus a constant for small machines.
_KEPT_PART, _KEPT_MIB = 12, 256
_WARM = "starburst-warm"


class Machine(NamedTuple):
    """The capacity of an instance type."""

    vcpus: int
    mib: int
    gpus: int

    @classmethod
    def of(cls, record: dict[str, Any]) -> Machine:
        """Parse EC2's description of a type."""
        gpus = sum(int(gpu.get("Count", 0)) for gpu in record.get("GpuInfo", {}).get("Gpus", []))
        return cls(int(record["VCpuInfo"]["DefaultVCpus"]), int(record["MemoryInfo"]["SizeInMiB"]), gpus)

    @property
    def usable_mib(self) -> int:
        """The memory that an ECS task may use, in MiB."""
        return self.mib - self.mib // _KEPT_PART - _KEPT_MIB


class Hosts:
    """The instances of one kind in a stack.

    Args:
        instance_type: The user's choice; None for any of the stack's types.
    """

    def __init__(self, account: Account, instance_type: str | None, *, spot: bool, warm_s: float) -> None:
        self._account = account
        self._asked = instance_type
        self._spot = spot
        self._warm_s = warm_s

    @property
    def instance_types(self) -> tuple[str, ...]:
        """The types that may start. Raises: ConfigError if the stack has none, or not the requested one."""
        stack = self._account.stack
        if not stack.ec2_instance_types:
            raise ConfigError(
                f"the stack {stack.name!r} has no EC2 instances: add them with `starburst setup --ec2`, or "
                "use Fargate(...)"
            )
        if self._asked is not None and self._asked not in stack.ec2_instance_types:
            raise ConfigError(
                f"instance_type={self._asked!r} (an argument): the stack {stack.name!r} starts "
                f"{', '.join(stack.ec2_instance_types)}; change it with `starburst setup --instance-type {self._asked}`, or "
                "name another stack"
            )
        return stack.ec2_instance_types

    @property
    def provider(self) -> str:
        """The capacity provider's name."""
        stack = self._account.stack
        name = stack.ec2_spot_provider if self._spot else stack.ec2_provider
        if name is None:
            raise ConfigError(
                f"the stack {stack.name!r} has no EC2 instances with spot={self._spot}: run `starburst setup --ec2`"
            )
        return name

    @property
    def quota_kind(self) -> str | None:
        return kind_of_instance(self.instance_types[0], spot=self._spot)

    @property
    def arch(self) -> str:
        """The instances' architecture, and that of the image."""
        return ARCHS[1] if self._account.stack.ec2_arch == ARCHS[1] else ARCHS[0]

    @cached_property
    def machines(self) -> dict[str, Machine]:
        """The capacity of each type. Raises: LaunchError, ConfigError. EC2: 1, once."""
        records = describe_types(self._account.clients, self.instance_types)
        return {str(record["InstanceType"]): Machine.of(record) for record in records}

    @property
    def machine(self) -> Machine:
        """The capacity that an instance of any of the types has at least. Raises and requests: as `machines`."""
        machines = self.machines.values()
        return Machine(*(min(machine[i] for machine in machines) for i in range(len(Machine._fields))))

    def definition(self, *, memory: str | None, gpus: int) -> dict[str, Any]:
        """Return a task definition that fills one instance. Raises: ConfigError if the instance is too small."""
        stack, machine = self._account.stack, self.machine
        types = " or ".join(self.instance_types)
        mib = machine.usable_mib if memory is None else memory_mib(memory)
        if mib > machine.usable_mib:
            raise ConfigError(
                f"memory={memory!r} (an argument): an instance {types} has {machine.mib} MiB, of which an ECS "
                f"task may have {machine.usable_mib}"
            )
        if gpus > machine.gpus:
            raise ConfigError(f"gpus={gpus} (an argument): an instance {types} has {machine.gpus}")
        container = self._account.container(self._account.image_for(self.arch), Size(machine.vcpus, mib), gpus)
        if gpus:
            container["resourceRequirements"] = [{"type": "GPU", "value": str(gpus)}]
        return {
            "requiresCompatibilities": ["EC2"],
            # A network interface of its own would have no public IP address, and so no route to the internet.
            "networkMode": "bridge",
            "cpu": str(machine.vcpus * 1024),
            "memory": str(mib),
            "executionRoleArn": stack.execution_role_arn,
            "taskRoleArn": self._account.worker_role_arn,
            "containerDefinitions": [container],
            **self._account.volumes(),
        }

    def keep_warm(self, n_instances: int) -> None:
        """Keep `n_instances` for `warm_s`, even if this client dies: AWS itself ends the period. Errors are logged. ECS: 1,
        Auto Scaling: 2.
        """
        if not self._warm_s or not n_instances:
            return
        clients = self._account.clients
        try:
            answer = clients.get("ecs").describe_capacity_providers(capacityProviders=[self.provider])
            arn = answer["capacityProviders"][0]["autoScalingGroupProvider"]["autoScalingGroupArn"]
            group = str(arn).rpartition("/")[2]
            scaling = clients.get("autoscaling")
            ends = datetime.fromtimestamp(SystemClock().now(), timezone.utc) + timedelta(seconds=self._warm_s)
            # Guarantee: instances are never kept without an end, since the end is scheduled first.
            scaling.put_scheduled_update_group_action(
                AutoScalingGroupName=group, ScheduledActionName=_WARM, StartTime=ends, MinSize=0
            )
            scaling.update_auto_scaling_group(AutoScalingGroupName=group, MinSize=n_instances)
        except (*FOREIGN, LookupError) as error:
            _log.warning("instances are not kept warm: %s", error)
