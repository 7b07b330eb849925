"""What a worker has of each resource, and which slots use it now.

    take(slot, "1xgpu.2xcpu") ──► Grant: its GPUs ──► claims of such tasks ──► give_back(slot)

A slot holds one grant, for as long as it runs tasks with these resources. Slots that run tasks without resources hold none.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from starburst_executor.protocol.resources import GPU, amounts_of, are_met

__all__ = ["Grant", "Stock"]


class Grant(NamedTuple):
    """What a slot has: resources, as a key has them, and the ids of its GPUs."""

    text: str
    gpus: tuple[str, ...] = ()


class Stock:
    """The resources of one worker. Thread-safe.

    Args:
        total: How much it has, by name.
        gpus: The ids of its GPUs.

    Attributes:
        total: As the argument.
    """

    def __init__(self, total: Mapping[str, int] | None = None, gpus: tuple[str, ...] = ()) -> None:
        self.total = dict(total or {})
        self._lock = threading.Lock()  # guards: _free, _gpus, _grants
        self._free = dict(self.total)
        self._all_gpus = gpus
        self._gpus = list(gpus)
        self._grants: dict[int, Grant] = {}

    def can_ever(self, text: str) -> bool:
        """Return whether this worker has these amounts at all."""
        return not text or are_met(text, self.total)

    def fits(self, text: str) -> bool:
        """Return whether these amounts are free now."""
        with self._lock:
            return not text or are_met(text, self._free)

    def take(self, slot: int, text: str) -> Grant | None:
        """Give a slot, which holds no grant, these resources; return None if they are not free."""
        with self._lock:
            if not are_met(text, self._free):
                return None
            amounts = dict(amounts_of(text))
            for name, amount in amounts.items():
                self._free[name] -= amount
            n_gpus = amounts.get(GPU, 0)
            grant = Grant(text, tuple(self._gpus[:n_gpus]))
            del self._gpus[:n_gpus]
            self._grants[slot] = grant
            return grant

    def give_back(self, slot: int) -> bool:
        """Take a slot's grant back; return whether it had one."""
        with self._lock:
            grant = self._grants.pop(slot, None)
            if grant is None:
                return False
            for name, amount in amounts_of(grant.text):
                self._free[name] += amount
            free = {*self._gpus, *grant.gpus}
            self._gpus = [gpu for gpu in self._all_gpus if gpu in free]
            return True
