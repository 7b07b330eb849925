"""A page in a browser that notes everything that must not happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page

from starburst_executor.dashboard.serve import Dashboard

__all__ = ["Watched", "watched"]

WAIT_MS = 60_000
_NOTE = """
window.noted = [];
document.addEventListener('securitypolicyviolation', (event) => window.noted.push(`${event.violatedDirective} ${event.blockedURI}`));
window.alert = (text) => window.noted.push(`alert ${text}`);
"""


class Watched:
    """A page of a dashboard.

    Attributes:
        faults: Errors of scripts, messages on the console, violations of the policy, requests to other hosts, dialogs.
    """

    def __init__(self, page: Page, dashboard: Dashboard) -> None:
        self.page = page
        self.root = dashboard.url.partition("/s/")[0].partition("/?")[0]
        self.faults: list[str] = []
        self.largest = 0
        host = urlsplit(dashboard.url).netloc
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(_NOTE)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: (
                self.faults.append(f"request: {request.url}") if urlsplit(request.url).netloc != host else None
            ),
        )
        page.goto(dashboard.url)
        page.wait_for_url(lambda url: "token" not in url)

    def go(self, path: str) -> None:
        """Open a page of the dashboard."""
        self.page.goto(f"{self.root}{path}")

    def follow(self, link: Locator) -> None:
        """Click what leads to another page, and wait for all of that: a click alone waits for its beginning."""
        link.click()
        self.page.wait_for_load_state()

    def check(self) -> None:
        """Check what holds on every page."""
        self.page.wait_for_load_state()
        faults: list[str] = self.page.evaluate("window.noted")
        assert self.faults + faults == []
        assert "broken out" not in self.page.title()
        assert (
            self.page.query_selector("#forged, main img[src=x], main script, main style, [onerror], [onload], [style]")
            is None
        )
        width = self.page.viewport_size["width"] if self.page.viewport_size else 0
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width, self.page.url
        # Landmarks, one heading of the first rank, named regions, headers of columns.
        assert self.page.locator("main, header, footer").count() == 3
        assert self.page.locator("h1").count() == 1
        assert self.page.locator("nav:not([aria-label])").count() == 0
        assert self.page.locator("table:not(:has(th[scope=col]))").count() == 0
        assert self.page.locator("section:not([aria-label], [aria-labelledby])").count() == 0
        assert (
            self.page.locator("input:not([type=hidden], [id])").count()
            == self.page.locator("label input:not([id])").count()
        )


@contextmanager
def watched(browser: Browser, dashboard: Dashboard, *, theme: Any = "light", width: int = 1280) -> Iterator[Watched]:
    """Open a dashboard in a window of its own."""
    context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
    try:
        yield Watched(context.new_page(), dashboard)
    finally:
        context.close()
