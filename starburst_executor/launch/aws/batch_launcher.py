"""Starts workers as jobs of AWS Batch, and finds them again."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from starburst_executor.clock import Clock
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.batch_fit import check_share, refuse_what_no_instance_runs
from starburst_executor.launch.aws.batch_handle import BatchHandle
from starburst_executor.launch.aws.batch_jobs import BatchJobs
from starburst_executor.launch.aws.batch_queue import JobQueues
from starburst_executor.launch.aws.batch_submitting import Submitting
from starburst_executor.launch.aws.batch_workers import BatchWorkers
from starburst_executor.launch.aws.on_aws import AwsLauncher
from starburst_executor.launch.base import Order, Started
from starburst_executor.launch.limits import MOST_ARRAY_JOBS

__all__ = ["BatchLauncher"]


class BatchLauncher(AwsLauncher):
    """See `Launcher`."""

    def __init__(self, options: Batch, clock: Clock) -> None:
        super().__init__(options)
        self.batch = options
        self._clock = clock

    @cached_property
    def _queues(self) -> JobQueues:
        return JobQueues(self.account, self.batch)

    @cached_property
    def _submitting(self) -> Submitting:
        return Submitting(self.account, self.batch, self._queues)

    @cached_property
    def _jobs(self) -> BatchJobs:
        return BatchJobs(self.account, self._queues, self._clock)

    @property
    def _image_arch(self) -> str:
        return self.batch.arch

    def check(self, n_slots: int) -> None:
        """Check that the stack has a queue that can run these workers, and that the image exists. Raises: ConfigError, LaunchError."""
        if -(-n_slots // self.batch.slots_each) > MOST_ARRAY_JOBS:
            raise ConfigError(
                f"workers={n_slots}: an array of AWS Batch has at most {MOST_ARRAY_JOBS} jobs; give each worker more slots"
            )
        _ = self._queues.first
        if self.batch.fallback:
            _ = self._queues.on_demand
        check_share(self.batch, self.account)
        if self.batch.on == "ec2":
            refuse_what_no_instance_runs(self.batch, self.account)
        self.account.image_for(self.batch.arch)

    def usd_per_hour(self, n_slots: int) -> float:
        """Estimate the cost per hour of workers with `n_slots` slots. Price list: 1 once a day.

        Spot counts as On-Demand, which the queue uses where there is no spare capacity, so that cost limits hold.
        """
        options, pricing, (vcpu, mib) = self.batch, self.account.pricing, self.batch.size
        if options.on == "fargate":
            price = pricing.fargate(vcpu, mib / 1024, arch=options.arch, disk_gb=options.ephemeral_gb)
        else:
            price = pricing.share(vcpu, mib / 1024, options.gpus)
        return -(-n_slots // options.slots_each) * price.usd_per_hour

    def start(self, order: Order, handle: str = "") -> Started:
        """Take one of two steps; see `Submitting`."""
        if not handle:
            return self._submitting.plan(order)
        launch = BatchHandle.load(handle)
        if launch is None:
            raise LaunchError("the launch's handle is not one of AWS Batch")
        started = self._submitting.step(order, launch)
        if started.more_s is None:
            self._jobs.add(launch)
        return started

    def resume(self, handle: str) -> BatchWorkers:
        return BatchWorkers(self.account, self._queues, self._jobs, BatchHandle.load(handle))

    def log_streams(self, handles: Iterable[str], worker_ids: Iterable[str]) -> dict[str, str]:  # noqa: ARG002
        # Without a launch that names the job, its ECS task cannot be found any more. Batch: 1 for 100 jobs.
        return {stream: worker for handle in handles for stream, worker in self.resume(handle).log_streams().items()}
