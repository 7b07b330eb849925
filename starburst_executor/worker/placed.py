"""A task of a claim, as a slot moves it between its backlog, its runner and the claim's next commit."""

from __future__ import annotations

from typing import NamedTuple

from starburst_executor.protocol.keys import task_id
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.runner.jobs import Finished

__all__ = ["Placed"]


class Placed(NamedTuple):
    """A task of a claim; each job of a runner belongs to one.

    Attributes:
        position: Its position in the claim's status object.
    """

    claim: Claim
    position: int

    @property
    def is_held(self) -> bool:
        """Whether the claim still holds it."""
        return self.position in self.claim.open

    @property
    def was_refused(self) -> bool:
        """Whether another worker could not load its function."""
        return self.claim.span(self.position).refusals > 0

    @property
    def digest(self) -> str:
        """The digest of its function."""
        return self.claim.digest

    @property
    def index(self) -> int:  # type: ignore[override]  # in place of a tuple's method, which nothing calls
        """Its index among its submitter's tasks."""
        return self.claim.ref.first + self.position

    @property
    def task_id(self) -> str:
        """Its id, for messages."""
        return task_id(self.claim.ref.ordinal, self.index)

    def end(self, finished: Finished) -> None:
        """Record its end for the next commit, unless its claim has lost it."""
        if self.is_held:
            self.claim.end(self.position, finished)
