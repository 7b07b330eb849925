"""A run of 10,000 tasks watched in a browser: failures, retries, a killed client, a lost worker, and output that tries to break out."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.store.url import split_url
from tests.sessions import agent_pids, kill, run_python
from tests.support.dashboard import BREAKOUTS, running
from tests.support.watched import Watched, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.stress, pytest.mark.timeout(900)]

N_TASKS = int(os.environ.get("STRESS_TASKS", "10000"))
CLIENT = """
import sys
from starburst_executor import DetachedExecutor, Local
from tests.sessions import timings_for
from tests.support.dashboard import long_run
url, n_tasks = sys.argv[1], int(sys.argv[2])
executor = DetachedExecutor(workers=4, store=url, launcher=Local(agents=2), timings=timings_for(url), retries=1)
print(executor.url, flush=True)
futures = [executor.submit(long_run, i) for i in range(n_tasks)]
executor.flush()
print("flushed", flush=True)
for future in futures: future.exception()
"""


def ended(seen: Watched) -> int:
    match = re.match(r"(?:about )?([\d,]+) of", seen.page.inner_text("#ended"))
    assert match is not None
    return int(match[1].replace(",", ""))


def wait_ended(seen: Watched, n_tasks: int) -> None:
    """Wait until the page says so by itself, without being loaded again."""
    before = ended(seen)
    for _ in range(3000):
        now = ended(seen)
        assert now >= before - N_TASKS // 100, "the page went back"  # estimates may, by a little
        before = now
        if now >= n_tasks:
            return
        seen.page.wait_for_timeout(200)
    pytest.fail(f"only {before} of {n_tasks} ended")


def test_a_run_is_watched_to_its_end(browser: Browser, store_url: str) -> None:
    with run_python(CLIENT, store_url, str(N_TASKS)) as client:
        assert client.stdout is not None
        url = client.stdout.readline().strip()
        base = f"/s/{split_url(url)[1]}"
        with (
            running(store_url, url) as dashboard,
            watched(browser, dashboard) as seen,
            watched(browser, dashboard, theme="dark", width=390) as narrow,
        ):
            assert client.stdout.readline().strip() == "flushed"
            wait_ended(seen, N_TASKS // 5)
            kill(client.pid)
            wait_ended(seen, 2 * N_TASKS // 5)
            pids = agent_pids(url)
            assert len(pids) == 2
            kill(pids[0])
            narrow.go(f"{base}/workers")
            narrow.page.locator("#workers .state", has_text="lost").first.wait_for()
            narrow.check()
            wait_ended(seen, N_TASKS)
            seen.page.locator("#share", has_text="100 %").wait_for()
            n_failed = len(range(3, N_TASKS, 100))
            seen.page.locator("#n-failed", has_text=f"{n_failed:,}").wait_for()
            seen.check()
            seen.go(f"{base}/tasks?state=failed&sort=-seconds")
            assert seen.page.inner_text("[role=status] b") == f"{n_failed:,}"
            seen.check()
            seen.page.get_by_role("link", name="Next 100").click() if n_failed > 100 else None
            for path in ("/tasks", "/workers", "/failures", "/t/0-3", "/t/0-5", "/t/0-103"):
                for each in (seen, narrow):
                    each.go(f"{base}{path}")
                    each.check()
            assert "bad reading" in seen.page.inner_text("main")
            folder = os.environ.get("TESTS_SHOTS")
            if folder:
                for name, each in (("wide", seen), ("narrow", narrow)):
                    each.go(base)
                    each.page.screenshot(path=f"{folder}/run-{name}-{url[:2]}.png", full_page=True)
        print(f"{len(BREAKOUTS)} ways to break out, none worked", file=sys.stderr)
    DetachedExecutor.reattach(url, launcher="none").cleanup(force=True)
