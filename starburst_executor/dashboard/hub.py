"""The sessions that are open in this dashboard: found by id, opened once, closed when others need the place."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from starburst_executor.client.finding import find_url
from starburst_executor.clock import Clock
from starburst_executor.dashboard.watch import Watch
from starburst_executor.errors import SessionNotFound
from starburst_executor.protocol.keys import is_session_id
from starburst_executor.store.url import split_url

__all__ = ["Hub", "Places"]

# An index of a million tasks is 20 MB.
_MOST_OPEN = 8
_MOST_TASKS = 3_000_000


@dataclass(frozen=True, slots=True)
class Places:
    """Where sessions are searched.

    Attributes:
        stores: The URLs of the stores.
        is_given: Whether the user named the store: then no session in another one is shown.
        known: URLs by session id, of sessions that were named.
    """

    stores: Sequence[str]
    is_given: bool = False
    known: dict[str, str] = field(default_factory=dict)


class Hub:
    """Opens sessions for pages. Used in the server's event loop only."""

    def __init__(self, places: Places, clock: Clock) -> None:
        self.places = places
        self.clock = clock
        self._watches: OrderedDict[str, Watch] = OrderedDict()
        self._turn = asyncio.Lock()

    async def watch(self, session_id: str) -> Watch:
        """Return the watch of a session. Raises: SessionNotFound and other errors of opening it."""
        if not is_session_id(session_id):
            raise SessionNotFound(f"not a session's id: {session_id[:80]!r}")
        found = self._watches.get(session_id)
        if found is not None:  # at once, also while another one's store does not answer
            self._watches.move_to_end(session_id)
            return found
        async with self._turn:
            found = self._watches.get(session_id)
            if found is None:
                url = await run_in_threadpool(self.url, session_id)
                found = await run_in_threadpool(Watch.open, url, self.clock)
                self._watches[session_id] = found
            self._watches.move_to_end(session_id)
            await self._make_room(found)
            return found

    def url(self, session_id: str) -> str:
        """Return the URL of a session. Blocks. Store: 1 LIST a store for one that is not known."""
        known = self.places.known.get(session_id)
        if known is None:
            known = find_url(session_id, self.places.stores, self.clock, is_given=self.places.is_given)
            if split_url(known)[1] != session_id:  # an id that only begins so
                raise SessionNotFound(f"no such session: {session_id}; `starburst sessions` lists them")
            self.places.known[session_id] = known
        return known

    async def forget(self, session_id: str) -> None:
        """Close a session, so that the next page opens it anew."""
        found = self._watches.pop(session_id, None)
        if found is not None:
            await found.close()

    async def close(self) -> None:
        """Close every session."""
        while self._watches:
            await self._watches.popitem()[1].close()

    async def _make_room(self, keep: Watch) -> None:
        for session_id, watch in list(self._watches.items()):
            n_tasks = sum(other.index.n_tasks for other in self._watches.values())
            if len(self._watches) <= _MOST_OPEN and n_tasks <= _MOST_TASKS:
                return
            if watch is not keep and not watch.n_tabs:
                await self.forget(session_id)
