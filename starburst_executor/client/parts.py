"""The parts of one client: assembled by `Engine`, ended by `Ending`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from starburst_executor.client.cancelling import FuturesOfClient
from starburst_executor.client.collector import Collector
from starburst_executor.client.future import THREAD_PREFIX
from starburst_executor.client.keeper import ClientKeeper
from starburst_executor.client.opening import Opened
from starburst_executor.client.sending import Sending
from starburst_executor.client.spending import Spending
from starburst_executor.client.state import ClientState
from starburst_executor.client.threads import Threads
from starburst_executor.client.workforce import Workforce

__all__ = ["Parallel", "Parts"]

_A = TypeVar("_A")
_B = TypeVar("_B")

# As many requests as for submits: enough that the store's request rate is the limit, not its latency.
_N_AT_ONCE = 16


class Parallel:
    """A `Mapper` that makes several requests at once if the store is remote. Thread-safe."""

    def __init__(self, *, is_far: bool) -> None:
        self._pool = ThreadPoolExecutor(_N_AT_ONCE, f"{THREAD_PREFIX}fetch") if is_far else None
        self._lock = threading.Lock()  # guards: _turns, _is_closed
        self._turns: ThreadPoolExecutor | None = None
        self._is_closed = False

    def __call__(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
        listed = list(items)
        if self._pool is not None and len(listed) > 1:
            with suppress(RuntimeError):  # the interpreter is exiting, and pools accept no more work
                return self._pool.map(function, listed)
        return iter([function(item) for item in listed])

    def in_turn(self, function: Callable[[], _B]) -> Future[_B]:
        """Call a function in a thread of its own, after those that were given before. Raises: RuntimeError after `close`."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._turns is None:
                self._turns = ThreadPoolExecutor(1, f"{THREAD_PREFIX}submit")
            return self._turns.submit(function)

    def close(self) -> None:
        """Release its threads."""
        with self._lock:
            self._is_closed = True
            turns, self._turns = self._turns, None
        for pool in (self._pool, turns):
            if pool is not None:
                pool.shutdown(wait=False)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of one client.

    Attributes:
        wake_keeper: Set to have the keeper take its turn at once.
    """

    opened: Opened
    state: ClientState
    threads: Threads
    collector: Collector
    sending: Sending
    futures: FuturesOfClient
    keeper: ClientKeeper
    workforce: Workforce
    spending: Spending
    parallel: Parallel
    wake_keeper: threading.Event
