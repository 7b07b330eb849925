"""A dashboard in a thread of this process, and sessions with everything that its pages show."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from starlette.types import ASGIApp

from starburst_executor import DetachedExecutor, current_task
from starburst_executor.dashboard.hub import Places
from starburst_executor.dashboard.serve import Dashboard
from tests.sessions import detached

__all__ = ["BREAKOUTS", "Client", "Odd", "busy_session", "hostile", "hostile_label", "long_run", "running"]

# What tries to leave the text that it stands in: markup, attributes, comments, closing tags, JSON, events, controls.
BREAKOUTS = (
    "</pre></td></table><script>document.title='broken out'</script>",
    '"><img src=x onerror="document.title=\'broken out\'">',
    "<!-- <svg/onload=document.title='broken out'> -->",
    "{{ 7 * 191 }}{% raw %}",
    '\n\nevent: update\ndata: {"say":"<b id=forged>broken out</b>"}\n\n',
    "\x1b[31m\x00\u202e]]>&lt;script&gt;",
)


class Odd:
    """An argument that is no plain value: to show it, code must run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Odd {self.name}>"


def hostile(i: int, payload: Any = None) -> Any:
    """A task that prints, fails and returns what tries to break out of a page."""
    text = BREAKOUTS[i % len(BREAKOUTS)]
    if i % 10 == 3:
        raise ValueError(f"bad reading {i}: {text}")
    if i % 10 == 5:
        print(text)
        print(text, file=sys.stderr)
    if i % 10 == 7:
        time.sleep(0.01)
    return Odd(text) if i % 10 == 9 else {"i": i, "text": text}


def hostile_label(i: int, payload: Any = None) -> str:
    """A label that tries to break out of a page; one of four."""
    return BREAKOUTS[i % 4]


def busy_session(store_url: str, n_tasks: int = 60) -> DetachedExecutor:
    """A session whose tasks have all ended; its executor is still attached."""
    executor = detached(store_url, workers=2, retries=1)
    labelled = executor.options(label=hostile_label)
    futures = [
        (labelled if i % 10 in (3, 9) else executor).submit(hostile, i, payload=Odd("x") if i == 13 else None)
        for i in range(n_tasks)
    ]
    for future in futures:
        future.exception()
    return executor


@contextmanager
def running(store_url: str, session_url: str | None = None, **options: Any) -> Iterator[Dashboard]:
    """A dashboard that serves in a thread until the block ends."""
    dashboard = Dashboard(Places([store_url], is_given=True), session_url, **options)
    thread = threading.Thread(target=dashboard.run, name="dashboard")
    thread.start()
    try:
        yield dashboard
    finally:
        dashboard.stop()
        thread.join(30)
        assert not thread.is_alive()


class Client:
    """Asks an application without a server; between requests its event loop stands still."""

    def __init__(self, app: ASGIApp, cookies: dict[str, str]) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._life = self._loop.create_task(app({"type": "lifespan"}, self._inbox.get, self._outbox.put))  # type: ignore[arg-type]  # a coroutine
        self._tell("startup")
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", cookies=cookies, timeout=60)

    def _tell(self, step: str) -> None:
        self._inbox.put_nowait({"type": f"lifespan.{step}"})
        assert self._loop.run_until_complete(self._outbox.get())["type"] == f"lifespan.{step}.complete"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._loop.run_until_complete(self._client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._tell("shutdown")
        self._loop.run_until_complete(self._life)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def long_run(i: int) -> int:
    """A task of some milliseconds: one in a hundred fails for good, another one fails once, and some print."""
    time.sleep(0.003)
    text = BREAKOUTS[i % len(BREAKOUTS)]
    if i % 100 == 3:
        raise ValueError(f"bad reading {i}: {text}")
    if i % 100 == 50 and current_task().attempt == 1:
        raise OSError(f"try again {text}")
    if i % 100 == 5:
        print(text)
    return i
