"""What the ECS tasks of a launcher look like: the part in which Fargate and EC2 differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from starburst_executor.aws.billing.pricing import Price

__all__ = ["Provider", "Shape"]


class Provider(NamedTuple):
    """A capacity provider, and the kind of quota that its vCPUs count against; None if unknown."""

    name: str
    quota: str | None


class Shape(Protocol):
    """One kind of ECS task. Properties may make requests to AWS, once each; all may raise LaunchError and ConfigError."""

    @property
    def providers(self) -> list[Provider]:
        """The capacity providers, in the order in which they are tried."""

    @property
    def fallback_after(self) -> int:
        """The number of interruptions in the session after which only the last provider is used."""

    @property
    def n_slots_each(self) -> int:
        """The slots of each worker."""

    @property
    def vcpu_each(self) -> float:
        """The vCPUs of each worker that count against the quota."""

    @property
    def arch(self) -> str:
        """The architecture of the image."""

    @property
    def in_vpc(self) -> bool:
        """Whether each worker has a network interface of its own."""

    def definition(self) -> dict[str, Any]:
        """Return the task definition, without its family."""

    def price(self) -> Price:
        """Return the price of one worker. Price list: 1 once a day."""

    def ended(self, n_tasks: int) -> None:
        """Take note that a launch of this number of ECS tasks was stopped with its session."""
