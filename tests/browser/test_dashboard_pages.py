"""Every page in a real browser: by mouse and by keyboard, wide and narrow, light and dark, with tasks that try to break out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.dashboard.serve import Dashboard
from tests.sessions import kill_workers
from tests.support.dashboard import Odd, busy_session, hostile, running
from tests.support.watched import watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def session(tmp_path: Path) -> Iterator[DetachedExecutor]:
    executor = busy_session(f"sqlite://{tmp_path}/sessions")
    yield executor
    executor.cleanup(force=True)
    kill_workers(f"/{tmp_path.name}/")


@pytest.fixture
def dashboard(session: DetachedExecutor, tmp_path: Path) -> Iterator[Dashboard]:
    with running(f"sqlite://{tmp_path}/sessions", session.url, allows_actions=True) as found:
        yield found


def test_every_page_by_mouse_and_keyboard(browser: Browser, session: DetachedExecutor, dashboard: Dashboard) -> None:
    base = f"/s/{session.id}"
    with watched(browser, dashboard) as seen:
        page = seen.page
        assert page.inner_text("#ended") == "60 of 60 tasks ended"
        seen.check()
        # The first key leads past the navigation.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"

        page.get_by_role("link", name="Tasks", exact=True).click()
        page.get_by_label("failed").check()
        page.get_by_role("button", name="Filter").press("Enter")
        page.wait_for_url("**state=failed**")
        assert page.locator("tbody tr").count() == 6
        seen.check()
        page.get_by_role("link", name="Duration").click()
        assert page.locator("th[aria-sort]").inner_text().startswith("Duration")
        page.get_by_role("link", name="0-13", exact=True).click()
        assert "ValueError" in page.inner_text("main")
        seen.check()
        page.get_by_role("button", name="Run its code and show it").click()
        page.get_by_text("13, payload=<Odd x>").wait_for()
        seen.check()
        for path in (
            f"{base}/t/0-5",
            f"{base}/t/0-9",
            f"{base}/failures",
            f"{base}/workers",
            "/",
            f"{base}/tasks?text=reading",
        ):
            seen.go(path)
            seen.check()

        seen.go(base)
        page.get_by_role("link", name="Extend").click()
        page.get_by_label("How much later").fill("1h")
        page.get_by_role("button", name="Extend").click()
        page.get_by_text("Done").wait_for()
        seen.check()


def test_a_page_moves_by_itself_and_says_so(browser: Browser, session: DetachedExecutor, dashboard: Dashboard) -> None:
    with watched(browser, dashboard, theme="dark", width=390) as seen:
        page = seen.page
        page.evaluate("window.stays = true")
        futures = [session.submit(hostile, i, payload=Odd("y")) for i in range(3, 33, 10)]
        for future in futures:
            assert isinstance(future.exception(), ValueError)
        page.locator("#n-failed", has_text="9").wait_for()
        page.locator("#say", has_text="9 failed").wait_for(state="attached")
        assert page.evaluate("window.stays") is True
        assert page.get_attribute("#say", "aria-live") == "polite"
        seen.check()
        for path in ("", "/tasks", "/workers", "/failures", "/t/0-3"):
            seen.go(f"/s/{session.id}{path}")
            seen.check()
        seen.go("/")
        seen.check()


def test_without_the_token_a_browser_sees_nothing(
    browser: Browser, session: DetachedExecutor, dashboard: Dashboard
) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(dashboard.url.partition("?")[0])
    assert answer is not None
    assert answer.status == 401
    assert session.id not in page.inner_text("body")
    context.close()
