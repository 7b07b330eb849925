"""The parts that the slots of one worker share, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from starburst_executor.clock import Clock
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.busy import Busy
from starburst_executor.worker.call_reader import CallReader
from starburst_executor.worker.candidates import Candidates
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.doubts import Doubts
from starburst_executor.worker.durations import Durations
from starburst_executor.worker.finder import Finder
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.results import Results
from starburst_executor.worker.shared_values import SharedValues
from starburst_executor.worker.solitude import Solitude
from starburst_executor.worker.stock import Stock

__all__ = ["Shared"]


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts that every slot of a worker uses. Each is thread-safe."""

    session: SessionStore
    claims: Claims
    finder: Finder
    functions: Functions
    call_reader: CallReader
    values: SharedValues
    results: Results
    durations: Durations
    solitude: Solitude
    busy: Busy
    doubts: Doubts
    clock: Clock
    stock: Stock

    def wait_s(self) -> float:
        """Return how long a request waits because the store is busy."""
        limiter = self.session.store.limiter
        return 0.0 if limiter is None else limiter.wait_s

    @property
    def candidates(self) -> Candidates:
        """What the finder has found."""
        return self.finder.candidates
