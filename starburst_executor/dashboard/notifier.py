"""Sends messages about one session while the dashboard runs, whether a browser looks or not.

It is a hidden tab: the session's poller runs for it too, every 15 s where no other tab is open, and each update is checked for messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool

from starburst_executor.dashboard.hub import Hub
from starburst_executor.dashboard.tabs import Tab
from starburst_executor.dashboard.watch import Watch
from starburst_executor.errors import StarburstError
from starburst_executor.report.messages import Messenger

__all__ = ["Notifier"]

_log = logging.getLogger(__name__)

_AGAIN_S = 15.0


class Notifier:
    """Used in the server's event loop only.

    Args:
        urls: Recipients, as Apprise names them.
    """

    def __init__(self, hub: Hub, session_id: str, urls: Sequence[str]) -> None:
        self._hub = hub
        self._session_id = session_id
        self._urls = urls
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look. Call it once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="notifier")

    async def close(self) -> None:
        """End. A message that is being sent is waited for: it is marked as sent then. A second call is harmless."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _opened(self) -> Watch:
        while True:
            try:
                return await self._hub.watch(self._session_id)
            except StarburstError as error:
                _log.warning("no messages yet, trying again: %s: session=%s", type(error).__name__, self._session_id)
            await asyncio.sleep(_AGAIN_S)

    async def _run(self) -> None:
        tab, watch = Tab("session", is_hidden=True), await self._opened()
        messenger = Messenger(watch.visit.session, self._urls)
        watch.join(tab)
        try:
            while not tab.is_closed:
                await tab.woken.wait()
                tab.woken.clear()
                if watch.is_gone:
                    return
                snapshot = watch.snapshot
                if snapshot is None or snapshot.problem:
                    continue
                check = asyncio.ensure_future(run_in_threadpool(messenger.check, snapshot.status))
                try:
                    await asyncio.shield(check)
                except asyncio.CancelledError:
                    await asyncio.wait([check])
                    raise
        finally:
            watch.leave(tab)
