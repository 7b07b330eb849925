"""Workers as jobs of AWS Batch, whose queue waits for capacity and restarts the jobs of a lost host, with no client
attached.

A plain value: this module checks the options, before boto3 is loaded. `batch_launcher.py` starts the workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.on_aws import OnAws
from starburst_executor.launch.aws.options import (
    ARCHS,
    BATCH_STARTS_MOST,
    EPHEMERAL_GB_LEAST,
    FALLBACK_AFTER,
    check_arch,
    check_ephemeral,
    check_fallback,
    check_share,
)
from starburst_executor.launch.aws.sizes import Size, fargate_size

if TYPE_CHECKING:
    from starburst_executor.launch.aws.batch_launcher import BatchLauncher

__all__ = ["Batch"]

_ON = ("fargate", "ec2")


@dataclass(frozen=True, kw_only=True)
class Batch(OnAws):
    """Workers as the jobs of one array on AWS Batch, which restarts each job whose machine was reclaimed.

    Workers start about a minute later than with `Fargate`, and need no client to watch them: for detached sessions.

    Attributes:
        cpu: vCPUs of each worker; with `on="fargate"` 0.25, 0.5, 1, 2, 4, 8 or 16.
        memory: Memory of each worker, such as `"8GB"`; 2 GB per vCPU by default.
        on: `"fargate"`, or `"ec2"` for instances that Batch starts.
        spot: Whether to use spare capacity first, and On-Demand where there is none.
        fallback: With `spot`: continue each worker On-Demand after `fallback_after` interruptions, also with no client attached.
        fallback_after: With `fallback`, 1..10: how often Batch starts a worker on Spot. Each start counts, also one that
            failed otherwise.
        gpus: GPUs of each worker; with `on="ec2"` only.
        arch: `"x86_64"` or `"arm64"`.
        ephemeral_gb: Disk of each worker, 20..200; with `on="fargate"` only. On EC2 it is the instance's disk.
        share: Whose workers they are, for queues with fair share (`starburst setup --fair-share`): letters and digits. By default the
            name of the user who starts them.
        priority: With fair share, 0..9999: workers with a higher one start first, within the same share.

    The attributes `slots`, `image`, `stack`, `region`, `profile`, `role`, `env`, `secrets` and `mounts` are common to all launchers on AWS.

    Raises: ConfigError; for a size that Fargate does not have, the message names the nearest one.
    """

    cpu: float = 1
    memory: str | None = None
    on: str = "fargate"
    spot: bool = False
    fallback: bool = False
    fallback_after: int = FALLBACK_AFTER
    gpus: int = 0
    arch: str = ARCHS[0]
    ephemeral_gb: int = EPHEMERAL_GB_LEAST
    share: str | None = None
    priority: int = 0

    name = "batch"
    # The queue waits for capacity; a job that can never run must still become an error.
    launch_s = 3600.0
    keeps_trying = True

    def __post_init__(self) -> None:
        self._check_common()
        check_arch(self.arch)
        if self.on not in _ON:
            raise ConfigError(f"on={self.on!r} (an argument): must be {' or '.join(map(repr, _ON))}")
        if self.on == "ec2" and (type(self.cpu) not in (int, float) or self.cpu < 1 or self.cpu != int(self.cpu)):
            raise ConfigError(f"cpu={self.cpu!r} (an argument): must be a whole number of vCPUs on EC2")
        if type(self.gpus) is not int or self.gpus < 0 or (self.gpus and self.on != "ec2"):
            raise ConfigError(f"gpus={self.gpus!r} (an argument): must be 0, or a positive number with on='ec2'")
        check_ephemeral(self.ephemeral_gb)
        if self.on == "ec2" and self.ephemeral_gb != EPHEMERAL_GB_LEAST:
            raise ConfigError(
                f"ephemeral_gb={self.ephemeral_gb!r} (an argument): requires on='fargate'; on EC2 use `starburst setup --disk-gb`"
            )
        check_share(self.share, self.priority)
        check_fallback(self.spot, self.fallback, self.fallback_after)
        if self.fallback_after > BATCH_STARTS_MOST:
            raise ConfigError(
                f"fallback_after={self.fallback_after!r} (an argument): must be at most {BATCH_STARTS_MOST}, since Batch starts a "
                "job no more often"
            )
        _ = self.size

    @property
    def size(self) -> Size:
        """vCPUs and memory of each worker."""
        return fargate_size(self.cpu, self.memory) if self.on == "fargate" else Size.of(self.cpu, self.memory)

    @property
    def slots_each(self) -> int:
        """The slots of each worker."""
        return self.slots or max(1, int(self.cpu))

    def open(self, clock: Clock | None = None) -> BatchLauncher:
        from starburst_executor.launch.aws.batch_launcher import BatchLauncher

        return BatchLauncher(self, clock or SystemClock())

    def own_options(self) -> dict[str, object]:
        return {
            "cpu": float(self.cpu),
            "memory": self.memory,
            "on": None if self.on == _ON[0] else self.on,
            "spot": self.spot,
            "fallback": self.fallback,
            "fallback_after": None if self.fallback_after == FALLBACK_AFTER else self.fallback_after,
            "gpus": self.gpus or None,
            "arch": None if self.arch == ARCHS[0] else self.arch,
            "ephemeral_gb": None if self.ephemeral_gb == EPHEMERAL_GB_LEAST else self.ephemeral_gb,
            "share": self.share,
            "priority": self.priority or None,
        }
