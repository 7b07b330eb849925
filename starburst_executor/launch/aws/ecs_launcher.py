"""Starts workers on Amazon ECS, and finds them again: `Fargate` and `Ec2` differ in their `Shape` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from starburst_executor.clock import Clock
from starburst_executor.errors import LaunchError
from starburst_executor.launch.aws.ecs_handle import EcsHandle
from starburst_executor.launch.aws.ecs_placing import Placing
from starburst_executor.launch.aws.ecs_tasks import EcsTasks
from starburst_executor.launch.aws.ecs_workers import EcsWorkers
from starburst_executor.launch.aws.on_aws import AwsLauncher, OnAws
from starburst_executor.launch.base import Order, Started

if TYPE_CHECKING:
    from starburst_executor.launch.aws.remote import Account
    from starburst_executor.launch.aws.shape import Shape

__all__ = ["EcsLauncher"]


class EcsLauncher(AwsLauncher):
    """See `Launcher`.

    Args:
        make_shape: Returns what its ECS tasks look like, in an account.
    """

    def __init__(self, options: OnAws, make_shape: Callable[[Account], Shape], clock: Clock) -> None:
        super().__init__(options)
        self._make_shape = make_shape
        self._clock = clock

    @cached_property
    def shape(self) -> Shape:
        """What its ECS tasks look like."""
        return self._make_shape(self.account)

    @cached_property
    def _placing(self) -> Placing:
        return Placing(self.account, self.shape, self._clock)

    @cached_property
    def _tasks(self) -> EcsTasks:
        return EcsTasks(self.account, self._clock)

    @property
    def _image_arch(self) -> str:
        return self.shape.arch

    def check(self, n_slots: int) -> None:  # noqa: ARG002 - the account's quota is checked at the launch
        """Check that the stack and the image exist. Raises: ConfigError, LaunchError. CloudFormation: 1, once."""
        self.shape.definition()
        _ = self.shape.providers

    def usd_per_hour(self, n_slots: int) -> float:
        """Estimate the cost per hour of workers with `n_slots` slots. Price list: 1 once a day."""
        return -(-n_slots // self.shape.n_slots_each) * self.shape.price().usd_per_hour

    def start(self, order: Order, handle: str = "") -> Started:
        """Take one step; see `Placing`."""
        if not handle:
            return self._placing.plan(order, self._tasks.n_interrupted())
        launch = EcsHandle.load(handle)
        if launch is None:
            raise LaunchError("the launch's handle is not one of Amazon ECS")
        launch, started = self._placing.step(order, launch)
        self._tasks.add(launch)
        return started

    def resume(self, handle: str) -> EcsWorkers:
        return EcsWorkers(self.account, self._tasks, EcsHandle.load(handle), self.shape.ended)

    def log_streams(self, handles: Iterable[str], worker_ids: Iterable[str]) -> dict[str, str]:
        # No request: a worker's id ends in digits of its ECS task's id, which is part of the stream's name.
        from starburst_executor.aws.logs import stream_of

        known = {stream: worker for handle in handles for stream, worker in self.resume(handle).streams().items()}
        heard = set(known.values())
        others = {stream_of(worker.rpartition("-")[2]): worker for worker in worker_ids if worker not in heard}
        return known | others
