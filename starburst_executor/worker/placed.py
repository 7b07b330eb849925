"""Tasks of a claim, as a slot moves them between its backlog, its runner and the claim's next commit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from starburst_executor.protocol.keys import task_id
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.runner.jobs import Finished

__all__ = ["Placed", "Stretch"]


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


class Stretch(NamedTuple):
    """Neighbouring tasks of a claim, of one span, that move together: an object for each task would cost more than running it.

    More than one only if none of them has failed under this claim.

    Attributes:
        first: The position of the first one.
        n: Their number.
    """

    claim: Claim
    first: int
    n: int = 1

    @property
    def positions(self) -> range:
        """Their positions."""
        return range(self.first, self.first + self.n)

    @property
    def is_held(self) -> bool:
        """Whether the claim still holds all of them."""
        return self.claim.open.issuperset(self.positions)

    def each(self) -> Iterator[Placed]:
        """Yield its tasks."""
        for position in self.positions:
            yield Placed(self.claim, position)

    def part(self, start: int, end: int) -> Stretch:
        """Return the tasks from the `start`-th up to the one before the `end`-th."""
        return Stretch(self.claim, self.first + start, end - start)

    def held(self) -> list[Stretch]:
        """Return those that the claim still holds."""
        if self.is_held:
            return [self]
        claim, found = self.claim, []
        for is_held, positions in groupby(self.positions, claim.open.__contains__):
            if is_held:
                held = list(positions)
                found.append(Stretch(claim, held[0], len(held)))
        return found
