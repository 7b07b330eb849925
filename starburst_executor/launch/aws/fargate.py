"""Fargate: the size, the capacity providers and the task definition of its workers."""

from __future__ import annotations

from typing import Any

from starburst_executor.aws.billing.pricing import Price
from starburst_executor.launch.aws.ecs import Fargate
from starburst_executor.launch.aws.options import EPHEMERAL_GB_LEAST
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.aws.shape import Provider

__all__ = ["FargateShape"]


class FargateShape:
    """See `Shape`."""

    in_vpc = True

    def __init__(self, options: Fargate, account: Account) -> None:
        self._options = options
        self._account = account
        self.arch = options.arch
        self.fallback_after = options.fallback_after
        self.n_slots_each = options.slots or max(1, int(options.cpu))
        self.vcpu_each = float(options.cpu)
        spot, on_demand = Provider("FARGATE_SPOT", "fargate-spot"), Provider("FARGATE", "fargate")
        if not options.spot:
            self.providers = [on_demand]
        else:
            self.providers = [spot, on_demand] if options.fallback else [spot]

    def definition(self) -> dict[str, Any]:
        options, account = self._options, self._account
        stack, size = account.stack, options.size
        definition: dict[str, Any] = {
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "cpu": str(size.cpu_units),
            "memory": str(size.mib),
            "runtimePlatform": {"operatingSystemFamily": "LINUX", "cpuArchitecture": options.arch.upper()},
            "executionRoleArn": stack.execution_role_arn,
            "taskRoleArn": account.worker_role_arn,
            "containerDefinitions": [account.container(account.image_for(options.arch), size)],
        }
        definition |= account.volumes()
        if options.ephemeral_gb != EPHEMERAL_GB_LEAST:
            definition["ephemeralStorage"] = {"sizeInGiB": options.ephemeral_gb}
        return definition

    def price(self) -> Price:
        options = self._options
        return self._account.pricing.fargate(
            options.size.vcpu,
            options.size.mib / 1024,
            arch=options.arch,
            # With fallback, a worker may cost the On-Demand price; cost limits must hold.
            spot=options.spot and not options.fallback,
            disk_gb=options.ephemeral_gb,
        )

    def ended(self, n_tasks: int) -> None:
        """Do nothing: there are no machines to keep."""
