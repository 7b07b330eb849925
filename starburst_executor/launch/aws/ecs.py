"""Workers on Amazon ECS: `Fargate`, on machines that AWS manages, and `Ec2`, on EC2 instances of the stack.

Plain values: this module checks the options, before boto3 is loaded. `ecs_launcher.py` starts the workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.on_aws import OnAws
from starburst_executor.launch.aws.options import (
    ARCHS,
    EPHEMERAL_GB_LEAST,
    FALLBACK_AFTER,
    check_arch,
    check_ephemeral,
    check_fallback,
)
from starburst_executor.launch.aws.sizes import Size, fargate_size, memory_mib

if TYPE_CHECKING:
    from starburst_executor.launch.aws.ecs_launcher import EcsLauncher

__all__ = ["Ec2", "Fargate"]

_GPUS_MOST = 16  # no instance has more
_WARM_MOST_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Fargate(OnAws):
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
    fallback_after: int = FALLBACK_AFTER
    arch: str = ARCHS[0]
    ephemeral_gb: int = EPHEMERAL_GB_LEAST

    name = "fargate"
    # For pulling a large image, and for retries while there is no capacity.
    launch_s = 600.0
    keeps_trying = False

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

    def open(self, clock: Clock | None = None) -> EcsLauncher:
        from starburst_executor.launch.aws.ecs_launcher import EcsLauncher
        from starburst_executor.launch.aws.fargate import FargateShape

        return EcsLauncher(self, lambda account: FargateShape(self, account), clock or SystemClock())

    def own_options(self) -> dict[str, object]:
        return {
            "cpu": float(self.cpu),
            "memory": self.memory,
            "spot": self.spot,
            "fallback": self.fallback,
            "fallback_after": None if self.fallback_after == FALLBACK_AFTER else self.fallback_after,
            "arch": None if self.arch == ARCHS[0] else self.arch,
            "ephemeral_gb": None if self.ephemeral_gb == EPHEMERAL_GB_LEAST else self.ephemeral_gb,
        }


@dataclass(frozen=True, kw_only=True)
class Ec2(OnAws):
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
    fallback_after: int = FALLBACK_AFTER
    gpus: int = 0
    memory: str | None = None
    warm_s: float = 0

    name = "ec2"
    # An instance takes minutes to start; without capacity its Auto Scaling group keeps retrying.
    launch_s = 900.0
    keeps_trying = False

    def __post_init__(self) -> None:
        self._check_common()
        if self.memory is not None:
            memory_mib(self.memory)
        if type(self.gpus) is not int or not 0 <= self.gpus <= _GPUS_MOST:
            raise ConfigError(f"gpus={self.gpus!r} (an argument): must be 0..{_GPUS_MOST}")
        check_fallback(self.spot, self.fallback, self.fallback_after)
        if not 0 <= self.warm_s <= _WARM_MOST_S:
            raise ConfigError(f"warm_s={self.warm_s!r} (an argument): must be 0..{_WARM_MOST_S} seconds")

    def open(self, clock: Clock | None = None) -> EcsLauncher:
        from starburst_executor.launch.aws.ec2 import Ec2Shape
        from starburst_executor.launch.aws.ecs_launcher import EcsLauncher

        return EcsLauncher(self, lambda account: Ec2Shape(self, account), clock or SystemClock())

    def own_options(self) -> dict[str, object]:
        return {
            "instance_type": self.instance_type,
            "spot": "0" if not self.spot else None,
            "fallback": self.fallback,
            "fallback_after": None if self.fallback_after == FALLBACK_AFTER else self.fallback_after,
            "gpus": self.gpus or None,
            "memory": self.memory,
            "warm_s": float(self.warm_s) or None,
        }
