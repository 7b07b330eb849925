"""Bars: how far a client's tasks are, on a terminal or in a notebook, drawn by tqdm (the extra `progress`).

    map, as_completed, collect ──tick()──► Bar ──states of futures──► tqdm ──► standard error, or a notebook's cell

The thread that waits for results draws, between two waits; so a bar needs no thread, and stands still while the program uses a result.
Everything shown is known to the client in any case: a bar makes no store request.

A bar is for people: where standard error is a file or a pipe nothing is written, and the level of logging does not matter.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import TimeoutError, wait  # noqa: A004 - before Python 3.11 it is not the builtin one
from typing import Any

from starburst_executor.client.ends import Ends
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.loops import in_notebook
from starburst_executor.client.report import amount
from starburst_executor.clock import Clock
from starburst_executor.errors import ConfigError

__all__ = ["TICK_S", "Bar", "Capacity", "total_of", "wants_bar"]

TICK_S = 0.2  # between two looks while nothing ends; eyes want no more
# Counting takes at most this share of the time: a look at a million futures takes a tenth of a second.
_SHARE = 0.05

_MISSING = "a bar needs tqdm: type `pip install 'starburst-executor[progress]'`, or leave out progress=True"


class Capacity:
    """What a bar shows besides its futures: how many tasks can run at once, and how many workers there are."""

    def __init__(self, slots: Callable[[], int], workers: Callable[[], int]) -> None:
        self.slots = slots
        self.workers = workers


def wants_bar(progress: bool | None) -> bool:
    """Return whether to draw a bar: on a terminal or in a notebook.

    Args:
        progress: None if the user did not say: then a missing tqdm is silent.
    Raises: ConfigError: a bar was asked for, and tqdm is not installed.
    """
    if progress is False:
        return False
    if progress is None and not _is_seen():
        return False
    try:
        _tqdm()
    except ImportError as error:
        if progress is None:
            return False
        raise ConfigError(_MISSING) from error
    return _is_seen()


def total_of(iterables: Iterable[object]) -> int | None:
    """Return how many calls `map` will make of these iterables; None if one of them does not know its length."""
    lengths = [len(iterable) if isinstance(iterable, Sized) else None for iterable in iterables]
    return min((n for n in lengths if n is not None), default=0) if None not in lengths else None


class Bar:
    """One bar. Used by one thread at a time.

    Args:
        total: The number of tasks; None if it is not known.
    """

    def __init__(self, capacity: Capacity, clock: Clock, total: int | None) -> None:
        self._capacity = capacity
        self._clock = clock
        self._open: list[StarburstFuture[Any]] = []
        self._n_failed = self._n_cancelled = 0
        self._next_at = float("-inf")
        self._bar = _tqdm()(total=total, unit=" tasks", dynamic_ncols=True, mininterval=0, miniters=1)

    def add(self, *futures: StarburstFuture[Any]) -> None:
        """Count these futures."""
        self._open += futures

    def wait_for(self, future: StarburstFuture[Any], deadline: float | None) -> None:
        """Wait for a future, at the most until `deadline`, and draw meanwhile."""
        self.tick()
        while not future.done():
            left_s = TICK_S if deadline is None else deadline - self._clock.monotonic()
            if left_s <= 0:
                return
            wait([future], min(TICK_S, left_s))
            self.tick()

    def as_completed(
        self, futures: Iterable[StarburstFuture[Any]], deadline: float | None
    ) -> Iterator[StarburstFuture[Any]]:
        """Yield futures as they end, and draw meanwhile; close the bar. Raises: TimeoutError."""
        ends = Ends(futures)
        n_futures = ends.n_left
        self.add(*ends.left())
        del futures
        try:
            while ends.n_left:
                left_s = TICK_S if deadline is None else deadline - self._clock.monotonic()
                ended = deque(ends.take(max(0.0, min(TICK_S, left_s))))
                self.tick()
                if not ended and left_s <= 0:
                    raise TimeoutError(f"{ends.n_left} (of {n_futures}) futures unfinished")
                while ended:
                    # Only the caller may hold the result.
                    yield ended.popleft()
                    self.tick()
        finally:
            ends.close()
            self.close()

    def tick(self, *, now: bool = False) -> None:
        """Draw the bar if it is due, or `now`. Call it often."""
        began = self._clock.monotonic()
        if began < self._next_at and not now:
            return
        n_before, still_open, n_begun = len(self._open), [], 0
        for future in self._open:
            if not future.has_ended:
                still_open.append(future)
                n_begun += future.has_begun
            elif future.cancelled():
                self._n_cancelled += 1
            else:
                self._n_failed += future.exception() is not None
        self._open = still_open
        self._bar.set_postfix_str(self._words(n_begun), refresh=False)
        if n_before != len(still_open):
            self._bar.update(n_before - len(still_open))
        else:
            self._bar.refresh()
        ended = self._clock.monotonic()
        self._next_at = ended + max(TICK_S / 2, (ended - began) / _SHARE)

    def close(self) -> None:
        """Draw the bar a last time, and leave it on the screen. A second call is harmless."""
        if not self._bar.disable:
            self.tick(now=True)
        self._bar.close()
        self._open.clear()

    def _words(self, n_begun: int) -> str:
        n_workers = self._capacity.workers()
        parts = [f"{self._n_failed:,} failed"] if self._n_failed else []
        parts += [f"{self._n_cancelled:,} cancelled"] if self._n_cancelled else []
        # A claimed task runs or is next: no more run than there are slots.
        n_running = min(n_begun, self._capacity.slots())
        parts += [f"{n_running:,} running"] if n_running else []
        parts += [amount(n_workers, "worker")] if n_workers else []
        return ", ".join(parts)


def _is_seen() -> bool:
    """Whether a person sees standard error: on a terminal, or in a notebook."""
    try:
        if sys.stderr.isatty():
            return True
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
    return in_notebook()


@functools.cache
def _tqdm() -> Any:
    """Return tqdm's class for this process. Raises: ImportError."""
    with warnings.catch_warnings():
        # Without ipywidgets a notebook's bar is text, and says so each time.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    class _Tqdm(tqdm):  # type: ignore[type-arg]  # a bar has no items
        """A bar without a thread of its own, and without a lock between processes, which would start another process."""

        monitor_interval = 0

    _Tqdm.set_lock(threading.RLock())
    return _Tqdm
