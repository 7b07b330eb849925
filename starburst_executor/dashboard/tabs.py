"""What one browser tab has been sent, and what it gets next: changed fragments of its page, at most 4 KB at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

from sse_starlette.event import ServerSentEvent

__all__ = ["MOST_BYTES", "Tab", "last_events"]

# All that one update sends, with the field names of server-sent events.
MOST_BYTES = 4096
_AROUND = 64
_TOO_BIG = '<a href="">too much to send: load again</a>'


class Tab:
    """One open page of a session. Used in the server's event loop only.

    Args:
        page: The name of the page, which decides the fragments.
        subject: What the page is about: a task's id on its page.
        is_hidden: Whether the user looks at another tab.
    """

    def __init__(self, page: str, *, subject: str = "", is_hidden: bool = False) -> None:
        self.page = page
        self.subject = subject
        self.is_hidden = is_hidden
        self.woken = asyncio.Event()
        self.is_closed = False
        self._sent: dict[str, str] = {}
        self._late: list[str] = []

    def seed(self, fragments: Mapping[str, str]) -> None:
        """Note that the page was sent with these fragments."""
        self._sent.update(fragments)

    async def wakes(self) -> AsyncIterator[None]:
        """Yield each time that the tab is woken, until it is closed."""
        while True:
            await self.woken.wait()
            self.woken.clear()
            if self.is_closed:
                return
            yield

    def update(self, fragments: Mapping[str, str]) -> str | None:
        """Return the changed fragments as JSON, by the ids of their elements; None if nothing has changed.

        Those that do not fit come first in the next update.
        """
        changed = {name: html for name, html in fragments.items() if self._sent.get(name) != html}
        order = [name for name in self._late if name in changed]
        order += [name for name in changed if name not in self._late]
        order.sort(key=lambda name: name[0] != "=")  # which rows a table has comes before its rows
        data: dict[str, str] = {}
        room = MOST_BYTES - _AROUND
        self._late = []
        for name in order:
            html = changed[name]
            n_bytes = _size(name, html)
            if n_bytes > MOST_BYTES - _AROUND:
                html = _TOO_BIG
                n_bytes = _size(name, html)
            if n_bytes > room:
                self._late.append(name)
                continue
            room -= n_bytes
            data[name] = html
            self._sent[name] = changed[name]
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")) if data else None


def _size(name: str, html: str) -> int:
    return len(json.dumps({name: html}, ensure_ascii=False, separators=(",", ":")).encode())


async def last_events(fragments: Mapping[str, str]) -> AsyncIterator[ServerSentEvent]:
    """Yield the last update of a page whose subject was deleted, and the event after which its browser asks no more."""
    yield ServerSentEvent(json.dumps(fragments, ensure_ascii=False), event="update", sep="\n")
    yield ServerSentEvent("", event="gone", sep="\n")
