"""Every page in a real browser: by mouse and by keyboard, wide and narrow, light and dark, with tasks that try to break out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.dashboard.serve import Dashboard
from tests.sessions import kill_workers, wait_until
from tests.support.dashboard import BREAKOUTS, Odd, busy_session, hostile, running
from tests.support.watched import watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def session(tmp_path: Path) -> Iterator[DetachedExecutor]:
    executor = busy_session(f"sqlite://{tmp_path}/sessions")
    yield executor
    executor.cleanup(force=True)
    kill_workers(f"{tmp_path}/")


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
        seen.follow(page.get_by_role("link", name="Duration"))
        assert page.locator("th[aria-sort]").inner_text().startswith("Duration")
        seen.follow(page.get_by_role("link", name="0-13", exact=True))
        assert "ValueError" in page.inner_text("main")
        assert page.locator("section:has(#h-attempts) tbody tr").count() == 2
        assert "bad reading 13" in page.locator("section:has(#h-attempts) tbody tr").first.inner_text()
        seen.check()
        page.locator("dt:text-is('Label') + dd a").click()
        page.wait_for_url("**label=**")
        assert page.locator("tbody tr").count() == 6
        assert page.get_by_label("Label").input_value() == BREAKOUTS[1]
        assert page.locator(f"tbody td:nth-child(2) >> text={json.dumps(BREAKOUTS[1])}").count() == 6
        seen.check()
        page.go_back()
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

        future = session.submit(time.sleep, 3600)
        wait_until(future.running)
        seen.go(base)
        page.get_by_role("link", name="Cancel all tasks").click()
        page.get_by_role("button", name="Cancel all tasks").click()
        page.get_by_text("Done: 1 task cancelled").wait_for()
        wait([future], timeout=60)
        assert future.cancelled()
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


def test_the_list_of_sessions_moves_by_itself(
    browser: Browser, session: DetachedExecutor, dashboard: Dashboard, tmp_path: Path
) -> None:
    with watched(browser, dashboard) as seen:
        page = seen.page
        seen.go("/")
        page.evaluate("window.stays = true")
        row = page.locator(f"tr#s-{session.id}")
        assert "60 of 60" in row.inner_text()
        session.submit(hostile, 3).exception()
        row.get_by_text("61 of 61").wait_for()
        assert row.locator(".bad").inner_text() == "7"
        newer = busy_session(f"sqlite://{tmp_path}/sessions", 5)
        page.locator("tbody tr").first.get_by_text(newer.id).wait_for()
        assert page.locator("tbody tr").count() == 2
        assert page.inner_text("#total").startswith("2 in sqlite:")
        assert page.evaluate("window.stays") is True
        assert "requests/s" in page.inner_text("#usage")
        seen.check()
        page.locator("tbody tr").nth(1).get_by_role("link").focus()
        newer.cleanup(force=True)
        page.locator(f"tr#s-{newer.id}").wait_for(state="detached")
        assert page.inner_text("#total").startswith("1 in sqlite:")
        assert page.evaluate("document.activeElement.closest('tr').id") == f"s-{session.id}"
        session.cleanup(force=True)
        page.get_by_text("There is no session here").wait_for()
        assert page.locator("tbody tr").count() == 1
        newest = busy_session(f"sqlite://{tmp_path}/sessions", 5)
        page.get_by_text(newest.id).wait_for()
        assert page.locator("tbody tr").count() == 1
        assert page.evaluate("window.stays") is True
        seen.check()
        newest.cleanup(force=True)


@pytest.mark.parametrize("path", ["", "/tasks", "/t/0-3", "/t/0-5000", "/workers", "/failures"])
def test_a_page_of_a_session_that_is_deleted_says_so_and_asks_no_more(
    browser: Browser, session: DetachedExecutor, dashboard: Dashboard, path: str
) -> None:
    if path.endswith("5000"):  # one that runs
        future = session.submit(time.sleep, 3600)
        wait_until(future.running)
        path = f"/t/{future.task_id}"
    with watched(browser, dashboard) as seen:
        page = seen.page
        seen.go(f"/s/{session.id}{path}")
        session.cleanup(force=True)
        page.get_by_role("alert").filter(has_text="This session was deleted").wait_for()
        assert "deleted" in page.title()
        assert page.inner_text("#link") == ""
        assert page.get_by_role("link", name="Cancel all tasks").count() == 0
        assert "asks the store for nothing" in page.inner_text("footer")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        seen.check()
        page.get_by_role("link", name="Go on to those that are there").click()
        page.get_by_text("There is no session here").wait_for()
        assert not [url for url in asked if f"{session.id}" in url]
        seen.check()


def test_a_dashboard_that_was_started_again_says_so(
    browser: Browser, session: DetachedExecutor, tmp_path: Path
) -> None:
    store = f"sqlite://{tmp_path}/sessions"
    with running(store, session.url) as first, watched(browser, first) as seen:
        port = first.access.port
        first.stop()
        seen.page.locator("#link", has_text="does not answer").wait_for()
        with running(store, session.url, port=port):
            seen.page.locator("#link", has_text="open the address that it printed").wait_for()


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
