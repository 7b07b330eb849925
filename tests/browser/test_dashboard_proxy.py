"""Behind a proxy that replaces the Host of requests: forms of its own pages are carried out, those of other sites are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.dashboard.serve import Dashboard
from tests.sessions import kill_workers
from tests.support.dashboard import busy_session, running
from tests.support.rewriting_proxy import RewritingProxy

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def session(tmp_path: Path) -> Iterator[DetachedExecutor]:
    executor = busy_session(f"sqlite://{tmp_path}/sessions", 10)
    yield executor
    executor.cleanup(force=True)
    kill_workers(f"{tmp_path}/")


@pytest.mark.parametrize("path", ["", "/starburst"])
# `hub.example` is reached by plain http: browsers tell nothing but its Origin. To localhost they send Sec-Fetch-Site.
@pytest.mark.parametrize(("host", "is_named"), [("hub.example", True), ("jobs.localhost", False)])
def test_forms_work_behind_a_proxy(
    browser: Browser, session: DetachedExecutor, tmp_path: Path, *, host: str, path: str, is_named: bool
) -> None:
    with RewritingProxy(path=path) as proxy:
        address = f"http://{host}:{proxy.port}"
        options = {"root_path": path, "origin": address if is_named else "", "allows_actions": True}
        with running(f"sqlite://{tmp_path}/sessions", session.url, **options) as dashboard:
            proxy.upstream = dashboard.access.port
            page = browser.new_page()
            page.goto(f"{address}{path}/s/{session.id}?token={dashboard.access.token}")
            page.get_by_role("link", name="Extend").click()
            page.get_by_label("How much later").fill("1h")
            page.get_by_role("button", name="Extend").click()
            page.get_by_text("Done").wait_for()
            page.close()


def test_other_sites_reach_nothing_through_a_proxy(browser: Browser, session: DetachedExecutor, tmp_path: Path) -> None:
    with RewritingProxy() as proxy:
        origin = f"http://hub.example:{proxy.port}"
        with running(f"sqlite://{tmp_path}/sessions", session.url, origin=origin, allows_actions=True) as dashboard:
            proxy.upstream = dashboard.access.port
            attack(browser, dashboard, proxy.port, session.id)


def attack(browser: Browser, dashboard: Dashboard, port: int, session_id: str) -> None:
    page = browser.new_page()
    page.goto(dashboard.url)
    page.get_by_text("10 of 10 tasks ended").wait_for()
    # A name of another site whose DNS leads to the proxy: the proxy replaces it, but the cookie is not sent.
    answer = page.goto(f"http://evil.example:{port}/s/{session_id}")
    assert answer is not None
    assert answer.status == 401
    # Its page sends the form of an action, even with the right token in it.
    fields = f"<input name=form_token value={dashboard.access.form_token}>"
    action = f"/s/{session_id}/actions/cancel"
    form = f"<form method=post action=http://hub.example:{port}{action}>{fields}</form>"
    page.route("http://evil.example/", lambda route: route.fulfill(content_type="text/html", body=form))
    page.goto("http://evil.example/")
    with page.expect_navigation() as sent:
        page.evaluate("document.forms[0].submit()")
    assert sent.value is not None
    assert sent.value.status == 401
    # With the cookie, which browsers without SameSite send, it is refused all the same.
    cookie = f"{dashboard.access.cookie_name}={dashboard.access.cookie}"
    refused = page.request.post(
        f"http://127.0.0.1:{port}{action}",
        form={"form_token": dashboard.access.form_token},
        headers={"cookie": cookie, "origin": "http://evil.example"},
    )
    assert refused.status == 403
    page.close()
