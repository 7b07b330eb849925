"""Workers as jobs of AWS Batch: its queue waits for capacity, and starts again what a host took down, with no client
there. What may be asked for is checked here; what is asked of Batch is in `batch_jobs.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.ecs import EPHEMERAL_GB_LEAST, OnAws, check_arch, check_ephemeral
from starburst_executor.launch.aws.sizes import Size, fargate_size
from starburst_executor.launch.base import Death, Order, Started

if TYPE_CHECKING:
    from starburst_executor.launch.aws.batch_jobs import BatchJobs

__all__ = ["Batch"]

_ON = ("fargate", "ec2")


@dataclass(frozen=True, kw_only=True)
class Batch(OnAws):
    """Workers as the jobs of one array on AWS Batch, of which each is started again when its machine is taken.

    It starts slower than `Fargate`, by about a minute, and needs nobody to watch it: for detached sessions.

    Attributes:
        cpu: vCPUs of each worker; with `on="fargate"` 0.25, 0.5, 1, 2, 4, 8 or 16.
        memory: Of each worker, such as `"8GB"`; two GB a vCPU unless given.
        on: `"fargate"`, or `"ec2"` for instances that Batch starts.
        spot: On spare capacity first, and On-Demand where there is none.
        gpus: Of each worker; with `on="ec2"` only.
        arch: `"x86_64"` or `"arm64"`.
        ephemeral_gb: Disk of each worker, 20..200; with `on="fargate"` only. On EC2 it is the instance's.

    Those of `slots`, `image`, `stack`, `region`, `profile`, `role`, `env`, `secrets` and `mounts` are the same for every launcher on AWS.

    Raises: ConfigError; for a size that Fargate does not have it names the nearest one.
    """

    cpu: float = 1
    memory: str | None = None
    on: str = "fargate"
    spot: bool = False
    gpus: int = 0
    arch: str = "x86_64"
    ephemeral_gb: int = EPHEMERAL_GB_LEAST

    name = "batch"
    # Its queue waits for capacity; a job that nothing will ever run must still become an error.
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
            raise ConfigError(f"gpus={self.gpus!r} (an argument): must be 0, or a number of them with on='ec2'")
        check_ephemeral(self.ephemeral_gb)
        if self.on == "ec2" and self.ephemeral_gb != EPHEMERAL_GB_LEAST:
            raise ConfigError(
                f"ephemeral_gb={self.ephemeral_gb!r} (an argument): is for on='fargate'; on EC2 `starburst setup --disk-gb`"
            )
        _ = self.size

    @property
    def size(self) -> Size:
        """What each worker has."""
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
        )

    @property
    def _slots_each(self) -> int:
        return self.slots or max(1, int(self.cpu))

    def usd_per_hour(self, n_slots: int) -> float:
        """What workers with so many slots cost an hour, estimated. Price list: 1 once a day.

        Spot counts as On-Demand, which is what its queue takes where there is no spare capacity: limits are to hold.
        """
        pricing, (vcpu, mib) = self.account.pricing, self.size
        if self.on == "fargate":
            price = pricing.fargate(vcpu, mib / 1024, arch=self.arch, disk_gb=self.ephemeral_gb)
        else:
            price = pricing.share(vcpu, mib / 1024, self.gpus)
        return -(-n_slots // self._slots_each) * price.usd_per_hour

    def check(self, n_slots: int) -> None:
        """See that there is a stack with such a queue, and an image. Raises: ConfigError, LaunchError."""
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
        """Nothing is kept but logs, which CloudWatch drops in time."""

    def log_streams(self, handles: Iterable[str], worker_ids: Iterable[str]) -> dict[str, str]:  # noqa: ARG002
        # Of a job that no launch names nobody knows the ECS task any more. Batch: 1 for 100 jobs.
        return {stream: one for handle in handles for stream, one in self._jobs.log_streams(handle)}
