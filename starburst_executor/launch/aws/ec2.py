"""ECS on EC2: the capacity providers, the slots and the price of workers that fill an instance of the stack each."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from starburst_executor.aws.billing.pricing import Price
from starburst_executor.launch.aws.ec2_hosts import Hosts
from starburst_executor.launch.aws.ecs import Ec2
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.aws.shape import Provider

__all__ = ["Ec2Shape"]


class Ec2Shape:
    """See `Shape`."""

    in_vpc = False

    def __init__(self, options: Ec2, account: Account) -> None:
        self._options = options
        self._account = account
        self._hosts = Hosts(account, options.instance_type, spot=options.spot, warm_s=options.warm_s)
        self.fallback_after = options.fallback_after

    @cached_property
    def providers(self) -> list[Provider]:
        options, kinds = self._options, [self._hosts]
        if options.fallback:
            kinds.append(Hosts(self._account, options.instance_type, spot=False, warm_s=options.warm_s))
        return [Provider(kind.provider, kind.quota_kind) for kind in kinds]

    @property
    def n_slots_each(self) -> int:
        return self._options.slots or self._hosts.machine.vcpus

    @property
    def vcpu_each(self) -> float:
        return float(self._hosts.machine.vcpus)

    @property
    def arch(self) -> str:
        return self._hosts.arch

    def definition(self) -> dict[str, Any]:
        return self._hosts.definition(memory=self._options.memory, gpus=self._options.gpus)

    def price(self) -> Price:
        prices = [
            self._account.pricing.instance(
                instance_type,
                spot=self._options.spot and not self._options.fallback,
                vcpus=machine.vcpus,
                memory_gb=machine.mib / 1024,
                gpus=machine.gpus,
            )
            for instance_type, machine in self._hosts.machines.items()
        ]
        # Any of the types may start; cost limits must hold.
        return max(prices, key=lambda price: price.usd_per_hour)

    def ended(self, n_tasks: int) -> None:
        self._hosts.keep_warm(n_tasks)
