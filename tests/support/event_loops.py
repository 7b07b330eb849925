"""Run a test in an event loop, and wait in it for conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["run", "until"]


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop of its own, for a minute at most."""

    async def limited() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(limited())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, and let the loop go on."""
    while not condition():
        await asyncio.sleep(0.005)
