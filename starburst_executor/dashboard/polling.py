"""What pages that are open in browser tabs are kept up to date by: one task for all tabs of a subject, while any is open.

first tab ──join──► the task reads and wakes the tabs ──► pause ─┐
                         ▲                                       │
                         └───────────────────────────────────────┘        last tab ──leave──► the task is cancelled
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from starburst_executor.dashboard.tabs import Tab
from starburst_executor.errors import StoreUnavailable

__all__ = ["Poller", "in_time", "run_whole"]

_T = TypeVar("_T")

# A connection that hangs is given up after half a minute; a page says so earlier.
_MOST_S = 15.0


class Poller:
    """The open tabs of one subject, and the task that runs while there are any. Used in the server's event loop only.

    Attributes:
        tabs: The open tabs.
        task: The task; None before the first tab.

    Args:
        poll: What the task runs: it returns once no tab is open, and is cancelled with the last one.
    """

    def __init__(self, poll: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self.tabs: set[Tab] = set()
        self.task: asyncio.Task[None] | None = None
        self._poll = poll
        self._name = name
        self._stirred = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether the task runs: only while a tab is open."""
        return self.task is not None and not self.task.done()

    @property
    def are_hidden(self) -> bool:
        """Whether there are tabs, and the user looks at none of them."""
        return bool(self.tabs) and all(tab.is_hidden for tab in self.tabs)

    def join(self, tab: Tab) -> None:
        """Let a tab get updates; start the task for the first one, and end a pause."""
        self.tabs.add(tab)
        self._stirred.set()
        if not self.is_running:
            self.task = asyncio.get_running_loop().create_task(self._poll(), name=self._name)

    def leave(self, tab: Tab) -> None:
        """Let a tab get no more; the task ends with the last one."""
        self.tabs.discard(tab)
        if not self.tabs and self.task is not None:
            self.task.cancel()

    def wake(self) -> None:
        """Let every tab look for what has changed."""
        for tab in self.tabs:
            tab.woken.set()

    async def pause(self, seconds: float) -> None:
        """Wait until this time has passed, or a tab joins."""
        self._stirred.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stirred.wait(), seconds)

    async def close(self) -> None:
        """End the task and every tab. A second call is harmless."""
        for tab in self.tabs:
            tab.is_closed = True
        self.wake()
        self.tabs.clear()
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])


async def run_whole(function: Callable[..., _T], *args: object, **kwargs: object) -> _T:
    """Call a function in a thread; if this is cancelled, return only after it, so that a second call cannot meet it."""
    call = asyncio.ensure_future(run_in_threadpool(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        _dismiss(call)
        raise


async def in_time(reading: Coroutine[Any, Any, _T]) -> _T:
    """Return what this coroutine reads from a store. A page does not wait for it longer than `_MOST_S`; it goes on by itself then.

    Raises: StoreUnavailable; what the coroutine raises.
    """
    task = asyncio.ensure_future(reading)
    await asyncio.wait([task], timeout=_MOST_S)
    if not task.done():
        task.add_done_callback(_dismiss)
        raise StoreUnavailable(f"reading takes longer than {_MOST_S:.0f} s; load the page again to go on waiting")
    return task.result()


def _dismiss(task: asyncio.Future[Any]) -> None:
    """Take note of an error that has no receiver any more."""
    if not task.cancelled():
        task.exception()
