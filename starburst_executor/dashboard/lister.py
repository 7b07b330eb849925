"""Keeps the lists of sessions that are open in browser tabs up to date: one poller for all of them, while any is open.

    first tab ──► poll: of each page of the list that is looked at, some sessions are read again ──► rows ──► pause ─┐
                   ▲                                                                                                 │
                   └────────────────────────── last tab closed: the poller ends ◄────────────────────────────────────┘

Used in the server's event loop only. An update makes about `MOST_REQUESTS` requests: those sessions are read whose rows are oldest.
"""

from __future__ import annotations

import asyncio
import os

from starlette.concurrency import run_in_threadpool

from starburst_executor.aws.billing.prices import requests_usd
from starburst_executor.clock import Clock
from starburst_executor.dashboard.polling import Poller, run_whole
from starburst_executor.dashboard.sessions import MOST_REQUESTS, SessionList, Sessions
from starburst_executor.dashboard.tabs import Tab
from starburst_executor.dashboard.watch import Usage

__all__ = ["Lister"]

_EACH_S = 5.0
_HIDDEN_S = 30.0
# Between two updates, this many times the processor time of the last one, and twice its duration.
_REST, _WAIT = 20.0, 2.0
_MOST_REST_S = 30.0


class Lister:
    """Reads pages of the list of sessions, for tabs and for first answers.

    Attributes:
        pages: The pages that tabs look at, by the id after which each begins, as they were read last.
    """

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock
        self._poller = Poller(self._poll, "list-of-sessions")
        self._turn = asyncio.Lock()
        self._rest_s = 0.0
        self._n_requests = 0
        self.pages: dict[str, SessionList] = {}

    async def page(self, after: str) -> SessionList:
        """Read a whole page of the list. Store: see `Sessions.page`."""
        return await self._read(after, whole=True)

    async def _read(self, after: str, *, whole: bool) -> SessionList:
        async with self._turn:
            found = await run_whole(self._sessions.page, after, whole=whole)
            self.pages[after] = found
            self._n_requests += found.n_requests
            if not self._poller.tabs:
                self.pages = {after: found}  # the tab that has asked for it will join
                await run_in_threadpool(self._sessions.close)
            return found

    def join(self, tab: Tab) -> None:
        """Let a tab get updates, of the page after the id `tab.subject`; start the poller for the first one."""
        if tab.subject in self.pages:
            tab.woken.set()
        self._poller.join(tab)

    def leave(self, tab: Tab) -> None:
        """Let a tab get no more; the poller ends with the last one."""
        self._poller.leave(tab)

    @property
    def is_polling(self) -> bool:
        """Whether the poller runs: only while a tab is open."""
        return self._poller.is_running

    def usage(self, found: SessionList) -> Usage:
        """Return what updates ask of the stores, if each is as the last reading of this page, within `MOST_REQUESTS`."""
        each_s = self._each_s()
        # The first reading of a page, which made more, is not repeated.
        n_each = min(found.n_requests, MOST_REQUESTS)
        usd = requests_usd(found.counts) * n_each / max(1, found.n_requests)
        return Usage(found.n_requests, n_each / each_s, usd / each_s * 3600, each_s, self._n_requests)

    def _each_s(self) -> float:
        return max(_HIDDEN_S if self._poller.are_hidden else _EACH_S, self._rest_s)

    async def _poll(self) -> None:
        try:
            while self._poller.tabs:
                began, cpu_s = self._clock.monotonic(), sum(os.times()[:2])
                wanted = {tab.subject for tab in self._poller.tabs}
                for after in set(self.pages) - wanted:
                    del self.pages[after]
                for after in sorted(wanted):
                    await self._read(after, whole=False)
                rest_s = max(_REST * (sum(os.times()[:2]) - cpu_s), _WAIT * (self._clock.monotonic() - began))
                self._rest_s = min(rest_s, _MOST_REST_S)
                self._poller.wake()
                await self._poller.pause(self._each_s())
        finally:
            if not self._poller.tabs:
                await run_in_threadpool(self._sessions.close)

    async def close(self) -> None:
        """End the poller and every tab. A second call is harmless."""
        await self._poller.close()
