"""One slot's share of its worker's resources: taken before a claim, given back when the slot has other tasks or none.

The slot's thread owns it. GPUs are pinned by the environment of the slot's runner. So a runner ends before the slot's GPUs
change, and before another slot gets them: a process that has used a GPU keeps memory there.
"""

from __future__ import annotations

from collections.abc import Callable

from starburst_executor.worker.candidates import Candidates
from starburst_executor.worker.stock import Grant, Stock

__all__ = ["Share"]


class Share:
    """The share of one slot.

    Args:
        end_runner: Ends the slot's runner, which has no job, and waits for its end.

    Attributes:
        grant: What the slot has.
    """

    def __init__(self, stock: Stock, slot: int, candidates: Candidates, end_runner: Callable[[], object]) -> None:
        self._stock = stock
        self._slot = slot
        self._candidates = candidates
        self._end_runner = end_runner
        self.grant = Grant("")

    def take(self, text: str) -> bool:
        """Return whether the slot has these resources now; what it had of others is given back. It must have no job."""
        if text == self.grant.text:
            return True
        self.give_back()
        if not text:
            return True
        grant = self._stock.take(self._slot, text)
        if grant is None:
            return False
        if grant.gpus:
            self._end_runner()
        self.grant = grant
        return True

    def give_back(self) -> None:
        """Give everything back; other slots of the worker may then take it. It must have no job."""
        if not self.grant.text:
            return
        if self.grant.gpus:
            self._end_runner()
        self.grant = Grant("")
        self._stock.give_back(self._slot)
        self._candidates.unblock()
