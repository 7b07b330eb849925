"""Workers as jobs of AWS Batch, whose queue waits for capacity and restarts the jobs of a lost host, with no client
attached. This module checks the options; `batch_jobs.py` makes the requests to Batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.ecs import EPHEMERAL_GB_LEAST, OnAws, check_arch, check_ephemeral
from starburst_executor.launch.aws.options import check_share
from starburst_executor.launch.aws.sizes import Size, fargate_size
from starburst_executor.launch.base import Death, Order, Started

if TYPE_CHECKING:
    from starburst_executor.launch.aws.batch_jobs import BatchJobs

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
    gpus: int = 0
    arch: str = "x86_64"
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
        _ = self.size

    @property
    def size(self) -> Size:
        """vCPUs and memory of each worker."""
        return fargate_size(self.cpu, self.memory) if self.on == "fargate" else Size.of(self.cpu, self.memory)

    @property
    def spec(self) -> str:
        return self.spec_of(
            self.arch,
            cpu=float(self.cpu),
            memory=self.memory,
            on=None if self.on == _ON[0] else self.on,
            spot=self.spot,
            gpus=self.gpus or None,
            arch=None if self.arch == "x86_64" else self.arch,
            ephemeral_gb=None if self.ephemeral_gb == EPHEMERAL_GB_LEAST else self.ephemeral_gb,
            share=self.share,
            priority=self.priority or None,
        )

    @cached_property
    def _jobs(self) -> BatchJobs:
        from starburst_executor.launch.aws.batch_jobs import BatchJobs

        return BatchJobs(
            self.account,
            size=self.size,
            on=self.on,
            spot=self.spot,
            gpus=self.gpus,
            arch=self.arch,
            n_slots_each=self._slots_each,
            ephemeral_gb=self.ephemeral_gb,
            share=self.share,
            priority=self.priority,
        )

    @property
    def _slots_each(self) -> int:
        return self.slots or max(1, int(self.cpu))

    def usd_per_hour(self, n_slots: int) -> float:
        """Estimate the cost per hour of workers with `n_slots` slots. Price list: 1 once a day.

        Spot counts as On-Demand, which the queue uses where there is no spare capacity, so that cost limits hold.
        """
        pricing, (vcpu, mib) = self.account.pricing, self.size
        if self.on == "fargate":
            price = pricing.fargate(vcpu, mib / 1024, arch=self.arch, disk_gb=self.ephemeral_gb)
        else:
            price = pricing.share(vcpu, mib / 1024, self.gpus)
        return -(-n_slots // self._slots_each) * price.usd_per_hour

    def check(self, n_slots: int) -> None:
        """Check that the stack has such a queue, and that the image exists. Raises: ConfigError, LaunchError."""
        self._jobs.check(n_slots)

    def start(self, order: Order, handle: str = "") -> Started:
        return self._jobs.start(order, handle)

    def deaths(self, handle: str) -> list[Death]:
        return self._jobs.deaths(handle)

    def slots_alive(self, handle: str) -> int:
        return self._jobs.slots_alive(handle)

    def interruptions(self, handle: str) -> int:
        return self._jobs.interruptions(handle)

    def describe(self, handle: str) -> str:
        return self._jobs.describe(handle)

    def expected(self, handle: str) -> list[str]:
        return self._jobs.expected(handle)

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        return self._jobs.give_up(handle, worker_id, words)

    def shed(self, handle: str, n_slots: int) -> int:
        return self._jobs.shed(handle, n_slots)

    def stop(self, handle: str, *, at_once: bool) -> None:
        self._jobs.stop(handle, for_good=at_once)

    def let_go(self, handle: str) -> None:
        self._jobs.let_go(handle)

    def forget(self, handle: str) -> None:
        """Do nothing: only logs remain, which expire in CloudWatch."""

    def log_streams(self, handles: Iterable[str], worker_ids: Iterable[str]) -> dict[str, str]:  # noqa: ARG002
        # Without a launch that names the job, its ECS task cannot be found any more. Batch: 1 for 100 jobs.
        return {stream: worker_id for handle in handles for stream, worker_id in self._jobs.log_streams(handle)}
