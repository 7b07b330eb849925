"""Workers on Amazon ECS: `Fargate`, on machines that AWS manages, and `Ec2`, on EC2 instances of the stack.

This module checks the options, before boto3 is loaded; `ecs_tasks.py` makes the requests to ECS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starburst_executor import config
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.options import check_env, check_mounts, check_role, check_secrets
from starburst_executor.launch.aws.sizes import Size, fargate_size, memory_mib
from starburst_executor.launch.base import Death, Order, Started

if TYPE_CHECKING:
    from starburst_executor.aws.billing.pricing import Price
    from starburst_executor.aws.logs import Event
    from starburst_executor.launch.aws.ec2_hosts import Hosts
    from starburst_executor.launch.aws.ecs_tasks import EcsTasks
    from starburst_executor.launch.aws.remote import Account

__all__ = ["EPHEMERAL_GB_LEAST", "Ec2", "Fargate", "OnAws", "check_arch", "check_ephemeral"]

_ARCHS = ("x86_64", "arm64")
EPHEMERAL_GB_LEAST = 20  # included in every container
_EPHEMERAL_GB = (EPHEMERAL_GB_LEAST, 200)
_SLOTS_MOST = 256
# After this many interruptions, repeating lost work on Spot probably costs more than On-Demand.
_FALLBACK_AFTER = 10


@dataclass(frozen=True, kw_only=True)
class OnAws:
    """The options of every launcher on AWS: the stack to use, and the contents of its workers.

    Attributes:
        slots: The number of tasks that each worker runs at once; by default one per vCPU.
        image: The container image of workers, with this library, this version of Python, and for Batch the worker as its
            entry point, as `starburst image` builds them. By default the image that was built for the session's packages.
        stack: The stack's name; by default, as for region and profile, the one that `starburst setup` saved.
        region: The stack's region.
        profile: A profile of the AWS config files.
        role: The ARN of a role for workers and their tasks, instead of the stack's. It needs the policy in the output
            `WorkerPolicyArn`, and `starburst setup --pass-role ARN` allows users to pass it.
        env: Environment variables of workers and their tasks. The task definition and the session store them unencrypted.
        secrets: Environment variables whose values AWS reads from Secrets Manager or SSM when a worker starts: ARNs, or
            names of parameters. The values appear in no task definition, session or log;
            `starburst setup --secret ARN` allows the stack's workers to read one.
        mounts: EFS file systems by mount path: `fs-…`, `fs-…:/folder` or `fs-…/fsap-…`. Their security groups must allow
            the stack's security group on port 2049.
    """

    slots: int | None = None
    image: str | None = None
    stack: str | None = None
    region: str | None = None
    profile: str | None = None
    role: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    secrets: Mapping[str, str] = field(default_factory=dict, hash=False)
    mounts: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The launcher's kind, which the manifest stores beside its handles."""
        raise NotImplementedError

    def _check_common(self) -> None:
        if self.slots is not None and (type(self.slots) is not int or not 1 <= self.slots <= _SLOTS_MOST):
            raise ConfigError(f"slots={self.slots!r} (an argument): must be 1..{_SLOTS_MOST}")
        check_role(self.role)
        check_env(self.env)
        check_secrets(self.secrets, self.env)
        check_mounts(self.mounts)

    def spec_of(self, arch_of_image: str, **options: object) -> str:
        """Return the spec: the options that differ from the defaults, the stack, and the image, which another client could
        not derive from its own folder. Without the profile, which exists on this machine only.
        """
        account = self.account
        given = {**options, "slots": self.slots, "image": account.image_for(arch_of_image)}
        given |= {"stack": account.settings.stack, "region": account.clients.region, "role": self.role}
        for option, entries in (("env", self.env), ("secrets", self.secrets), ("mounts", self.mounts)):
            given |= {f"{option}.{name}": value for name, value in entries.items()}
        texts = {key: _as_text(value) for key, value in given.items() if value not in (None, False)}
        return f"{self.name}?{urlencode(texts, safe=':/@')}"

    @property
    def store_url(self) -> str:
        """The URL of the default store, the stack's bucket. Raises: LaunchError, ConfigError. CloudFormation: 1, once."""
        return self.account.stack.store_url(self.account.settings.profile)

    def log_streams(self, handles: Iterable[str], worker_ids: Iterable[str]) -> dict[str, str]:
        """Return the workers of `handles`, and `worker_ids`, by the name or name prefix of their CloudWatch log stream."""
        raise NotImplementedError

    def log_events(self, prefix: str, since: float) -> Iterator[Event]:
        """Yield the events of all streams with this name prefix. Raises: LaunchError, ConfigError."""
        from starburst_executor.aws.logs import events

        return events(self.account.clients, self.account.stack, prefix, since)

    @cached_property
    def account(self) -> Account:
        """The account, resolved on first use."""
        from starburst_executor.launch.aws.remote import Account

        settings = config.resolve_aws(stack=self.stack, region=self.region, profile=self.profile)
        return Account(settings, self.image, role=self.role, env=self.env, secrets=self.secrets, mounts=self.mounts)


def _as_text(value: object) -> str:
    return "1" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


class _OnEcs(OnAws):
    """The common part of both launchers: delegates to `EcsTasks`."""

    keeps_trying = False

    def _make(self) -> EcsTasks:
        raise NotImplementedError

    @cached_property
    def _tasks(self) -> EcsTasks:
        return self._make()

    def check(self, n_slots: int) -> None:  # noqa: ARG002 - the account's quota is checked at the launch
        """Check that the stack and the image exist. Raises: ConfigError, LaunchError. CloudFormation: 1, once."""
        self._tasks.check()

    def usd_per_hour(self, n_slots: int) -> float:
        """Estimate the cost per hour of workers with `n_slots` slots. Price list: 1 once a day."""
        return -(-n_slots // self._slots_each) * self._price().usd_per_hour

    def _price(self) -> Price:
        """Return the price of one worker."""
        raise NotImplementedError

    @property
    def _slots_each(self) -> int:
        raise NotImplementedError

    def start(self, order: Order, handle: str = "") -> Started:
        return self._tasks.start(order, handle)

    def deaths(self, handle: str) -> list[Death]:
        return self._tasks.deaths(handle)

    def slots_alive(self, handle: str) -> int:
        return self._tasks.slots_alive(handle)

    def interruptions(self, handle: str) -> int:
        return self._tasks.interruptions(handle)

    def describe(self, handle: str) -> str:
        return self._tasks.describe(handle)

    def expected(self, handle: str) -> list[str]:
        return self._tasks.expected(handle)

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        return self._tasks.give_up(handle, worker_id, words)

    def shed(self, handle: str, n_slots: int) -> int:
        return self._tasks.shed(handle, n_slots)

    def stop(self, handle: str, *, at_once: bool) -> None:
        self._tasks.stop(handle, for_good=at_once)

    def let_go(self, handle: str) -> None:
        self._tasks.let_go(handle)

    def forget(self, handle: str) -> None:
        """Do nothing: only logs remain, which expire in CloudWatch."""

    def log_streams(self, handles: Iterable[str], worker_ids: Iterable[str]) -> dict[str, str]:
        # No request: a worker's id ends in digits of its ECS task's id, which is part of the stream's name.
        from starburst_executor.aws.logs import stream_of

        known = {stream: worker for handle in handles for stream, worker in self._tasks.streams(handle).items()}
        others = {stream_of(worker.rpartition("-")[2]): worker for worker in worker_ids if worker not in known.values()}
        return known | others


@dataclass(frozen=True, kw_only=True)
class Fargate(_OnEcs):
    """Workers on AWS Fargate: no machines to manage, about a minute to start, billed per second.

    Attributes:
        cpu: vCPUs of each worker: 0.25, 0.5, 1, 2, 4, 8 or 16.
        memory: Memory of each worker, such as `"8GB"`; 2 GB per vCPU by default.
        spot: Whether to use spare capacity: up to 70 % cheaper, and reclaimed with two minutes' notice. No task is lost.
        fallback: With `spot`: use On-Demand where there is no spare capacity, and after `fallback_after` interruptions.
        fallback_after: With `fallback`: the number of interruptions in the session after which replacements are
            On-Demand.
        arch: `"x86_64"` or `"arm64"`, which costs a fifth less.
        ephemeral_gb: Disk of each worker, 20..200.

    The attributes `slots`, `image`, `stack`, `region`, `profile`, `role`, `env`, `secrets` and `mounts` are common to all launchers on AWS.

    Raises: ConfigError; for a size that Fargate does not have it names the nearest one.
    """

    cpu: float = 1
    memory: str | None = None
    spot: bool = False
    fallback: bool = False
    fallback_after: int = _FALLBACK_AFTER
    arch: str = "x86_64"
    ephemeral_gb: int = 20

    name = "fargate"
    # For pulling a large image, and for retries while there is no capacity.
    launch_s = 600.0

    def __post_init__(self) -> None:
        self._check_common()
        check_arch(self.arch)
        check_ephemeral(self.ephemeral_gb)
        check_fallback(self.spot, self.fallback, self.fallback_after)
        _ = self.size

    @property
    def size(self) -> Size:
        """vCPUs and memory of each worker."""
        return fargate_size(self.cpu, self.memory)

    @property
    def spec(self) -> str:
        disk = None if self.ephemeral_gb == _EPHEMERAL_GB[0] else self.ephemeral_gb
        arch = None if self.arch == _ARCHS[0] else self.arch
        return self.spec_of(
            self.arch,
            cpu=float(self.cpu),
            memory=self.memory,
            spot=self.spot,
            fallback=self.fallback,
            fallback_after=None if self.fallback_after == _FALLBACK_AFTER else self.fallback_after,
            arch=arch,
            ephemeral_gb=disk,
        )

    def _make(self) -> EcsTasks:
        from starburst_executor.launch.aws.ecs_tasks import EcsTasks, Provider

        spot = Provider("FARGATE_SPOT", "fargate-spot")
        on_demand = Provider("FARGATE", "fargate")
        return EcsTasks(
            self.account,
            define=self._definition,
            providers=([spot, on_demand] if self.fallback else [spot]) if self.spot else [on_demand],
            n_slots_each=self._slots_each,
            vcpu_each=float(self.cpu),
            in_vpc=True,
            fallback_after=self.fallback_after,
        )

    @property
    def _slots_each(self) -> int:
        return self.slots or max(1, int(self.cpu))

    def _price(self) -> Price:
        return self.account.pricing.fargate(
            self.size.vcpu,
            self.size.mib / 1024,
            arch=self.arch,
            # With fallback, a worker may cost the On-Demand price; cost limits must hold.
            spot=self.spot and not self.fallback,
            disk_gb=self.ephemeral_gb,
        )

    def _definition(self) -> dict[str, Any]:
        stack, size = self.account.stack, self.size
        definition: dict[str, Any] = {
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "cpu": str(size.cpu_units),
            "memory": str(size.mib),
            "runtimePlatform": {"operatingSystemFamily": "LINUX", "cpuArchitecture": self.arch.upper()},
            "executionRoleArn": stack.execution_role_arn,
            "taskRoleArn": self.account.worker_role_arn,
            "containerDefinitions": [self.account.container(self.account.image_for(self.arch), size)],
        }
        definition |= self.account.volumes()
        if self.ephemeral_gb != _EPHEMERAL_GB[0]:
            definition["ephemeralStorage"] = {"sizeInGiB": self.ephemeral_gb}
        return definition


@dataclass(frozen=True, kw_only=True)
class Ec2(_OnEcs):
    """Workers on EC2 instances of the stack, one per instance; the stack's Auto Scaling group starts and ends them.

    Attributes:
        instance_type: One of the stack's types, any of which may start; for another type, create a stack with that type.
        spot: Whether to use spare capacity: up to 90 % cheaper, and reclaimed with two minutes' notice. No task is lost.
        fallback: With `spot`: use On-Demand after `fallback_after` interruptions. While there is no spare capacity, the
            Auto Scaling group keeps retrying.
        fallback_after: As for `Fargate`.
        gpus: GPUs of each worker; the instance must have at least as many.
        memory: Memory of each worker, such as `"6GB"`; by default the instance's usable memory.
        warm_s: Seconds for which the instances stay after the session's end, so that the next session starts in seconds.
            They cost money meanwhile.

    The attributes `slots`, `image`, `stack`, `region`, `profile`, `role`, `env`, `secrets` and `mounts` are common to all launchers on AWS.
    """

    instance_type: str | None = None
    spot: bool = True
    fallback: bool = False
    fallback_after: int = _FALLBACK_AFTER
    gpus: int = 0
    memory: str | None = None
    warm_s: float = 0

    name = "ec2"
    # An instance takes minutes to start; without capacity its Auto Scaling group keeps retrying.
    launch_s = 900.0

    def __post_init__(self) -> None:
        self._check_common()
        if self.memory is not None:
            memory_mib(self.memory)
        if type(self.gpus) is not int or not 0 <= self.gpus <= 16:  # noqa: PLR2004 - no instance has more
            raise ConfigError(f"gpus={self.gpus!r} (an argument): must be 0..16")
        check_fallback(self.spot, self.fallback, self.fallback_after)
        if not 0 <= self.warm_s <= 24 * 3600:
            raise ConfigError(f"warm_s={self.warm_s!r} (an argument): must be 0..86400 seconds")

    @property
    def spec(self) -> str:
        return self.spec_of(
            "arm64" if self.account.stack.ec2_arch == "arm64" else "x86_64",
            instance_type=self.instance_type,
            spot="0" if not self.spot else None,
            fallback=self.fallback,
            fallback_after=None if self.fallback_after == _FALLBACK_AFTER else self.fallback_after,
            gpus=self.gpus or None,
            memory=self.memory,
            warm_s=float(self.warm_s) or None,
        )

    @cached_property
    def _hosts(self) -> Hosts:
        from starburst_executor.launch.aws.ec2_hosts import Hosts

        return Hosts(self.account, self.instance_type, spot=self.spot, warm_s=self.warm_s)

    @property
    def _slots_each(self) -> int:
        return self.slots or self._hosts.machine.vcpus

    def _price(self) -> Price:
        prices = [
            self.account.pricing.instance(
                instance_type,
                spot=self.spot and not self.fallback,
                vcpus=machine.vcpus,
                memory_gb=machine.mib / 1024,
                gpus=machine.gpus,
            )
            for instance_type, machine in self._hosts.machines.items()
        ]
        # Any of the types may start; cost limits must hold.
        return max(prices, key=lambda price: price.usd_per_hour)

    def _make(self) -> EcsTasks:
        from starburst_executor.launch.aws.ec2_hosts import Hosts
        from starburst_executor.launch.aws.ecs_tasks import EcsTasks, Provider

        hosts = self._hosts
        kinds = [hosts]
        if self.fallback:
            kinds.append(Hosts(self.account, self.instance_type, spot=False, warm_s=self.warm_s))
        return EcsTasks(
            self.account,
            define=lambda: hosts.definition(memory=self.memory, gpus=self.gpus),
            providers=lambda: [Provider(kind.provider, kind.quota_kind) for kind in kinds],
            n_slots_each=lambda: self._slots_each,
            vcpu_each=lambda: float(hosts.machine.vcpus),
            in_vpc=False,
            at_end=hosts.keep_warm,
            fallback_after=self.fallback_after,
        )


def check_fallback(spot: bool, fallback: bool, after: int) -> None:
    """Check `fallback` and `fallback_after`. Raises: ConfigError."""
    if fallback and not spot:
        raise ConfigError("fallback=True (an argument): requires spot=True; without it all workers are On-Demand")
    if type(after) is not int or after < 1:
        raise ConfigError(f"fallback_after={after!r} (an argument): must be at least 1")


def check_ephemeral(ephemeral_gb: int) -> None:
    """Check that Fargate has such a disk. Raises: ConfigError."""
    lowest, highest = _EPHEMERAL_GB
    if type(ephemeral_gb) is not int or not lowest <= ephemeral_gb <= highest:
        raise ConfigError(f"ephemeral_gb={ephemeral_gb!r} (an argument): must be {lowest}..{highest}")


def check_arch(arch: str) -> None:
    """Check that AWS has such machines. Raises: ConfigError."""
    if arch not in _ARCHS:
        raise ConfigError(f"arch={arch!r} (an argument): must be {' or '.join(map(repr, _ARCHS))}")
