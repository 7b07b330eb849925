"""What an executor offers to coroutines: none of it blocks the event loop.

await executor.submit_async(…)        one thread pickles and queues, call by call, in order
await future                          `future.py`
async for future in …                 ends of futures wake the loop                (`ends.py`)
async with executor                   the end waits in a thread
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, TypeVar

from starburst_executor.client.ends import Ends
from starburst_executor.client.future import StarburstFuture

__all__ = ["ends_of", "queued"]

T = TypeVar("T")
_F = TypeVar("_F", bound="Future[Any]")


async def queued(pending: Future[StarburstFuture[T]]) -> StarburstFuture[T]:
    """Wait until a thread has submitted a call. If this coroutine is cancelled meanwhile, so is the task."""
    try:
        return await asyncio.wrap_future(pending)
    except asyncio.CancelledError:
        pending.add_done_callback(_cancel_task)
        raise


def _cancel_task(pending: Future[StarburstFuture[Any]]) -> None:
    if not pending.cancelled() and pending.exception() is None:
        pending.result().cancel()


async def ends_of(futures_of: Callable[[], Iterable[_F]], timeout_s: float | None) -> AsyncIterator[_F]:
    """Yield futures as they end. Raises: TimeoutError.

    Args:
        futures_of: Returns the futures, in another thread, where it may ask the store.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    alarm = _Alarm(loop)
    ends = await loop.run_in_executor(None, lambda: Ends(futures_of(), alarm.ring))
    n_futures = ends.n_left
    try:
        while ends.n_left:
            alarm.reset()
            ended = deque(ends.take())
            if not ended and not await alarm.wait(deadline):
                raise FutureTimeoutError(f"{ends.n_left} (of {n_futures}) futures unfinished")
            while ended:
                # Only the caller may hold the result.
                yield ended.popleft()
    finally:
        ends.close()


class _Alarm:
    """Wakes a coroutine from other threads: once for many rings."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()
        self._is_rung = False  # unlocked: a ring too many is harmless, and `reset` comes before the look

    def ring(self) -> None:
        if not self._is_rung:
            self._is_rung = True
            with suppress(RuntimeError):  # the loop is closed: no coroutine waits
                self._loop.call_soon_threadsafe(self._event.set)

    def reset(self) -> None:
        self._event.clear()
        self._is_rung = False

    async def wait(self, deadline: float | None) -> bool:
        """Wait for a ring; return False at the deadline."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), None if deadline is None else deadline - self._loop.time())
            return True
        return False
