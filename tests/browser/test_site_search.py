"""A newcomer's questions, put to the search of the documentation site in a real browser: the page with the answer is among the first three.

The site is built for it, so this runs with `make test-browser` and not with `make test`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.support.moto_server import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.stress]

# What people type; the page; what on it is the answer.
QUESTIONS = {
    "how to retry with a mended function": (
        ("retry with mended function", "retry failed tasks with a fixed function", "fix function and retry"),
        "howto/command-line.html",
        "starburst retry last --failed --with measure.py:measure",
    ),
    "why a worker does not start": (
        ("worker does not start", "workers do not start", "why does a worker not start"),
        "troubleshooting.html",
        "starburst explain last",
    ),
    "what a million tasks cost": (
        ("cost of a million tasks", "what does a million tasks cost", "million tasks price"),
        "howto/costs.html",
        "a million tasks of",
    ),
    "how to hand a session to a colleague": (
        ("hand a session to a colleague", "share session with colleague", "give session to someone else"),
        "howto/keys.html",
        "starburst key export last",
    ),
    "what happens at SIGKILL": (
        ("SIGKILL", "what happens at SIGKILL", "worker SIGKILL"),
        "explanation/faults.html",
        "SIGKILL to",
    ),
    "how to let workers read a bucket": (
        ("let workers read a bucket", "workers read bucket", "access to my bucket"),
        "howto/aws-setup.html",
        "starburst setup --read s3://ours/2026",
    ),
}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The site as `make site` builds it, on a local port."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(folder / "trees"), str(ROOT / "docs"), str(folder / "html")]  # fmt: skip
    subprocess.run(words, check=True, timeout=600)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder / "html"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_results_have_the_answer(question: str, site: str, browser: Browser) -> None:
    queries, name, answer = QUESTIONS[question]
    page = browser.new_page()
    page.set_default_timeout(60_000)
    for query in queries:
        page.goto(f"{site}/index.html")
        box = page.get_by_role("textbox", name="Search").or_(page.locator("input[name=q]")).first
        box.fill(query)
        box.press("Enter")
        page.locator("#search-results .search-summary", has_text="found").first.wait_for()
        links = page.locator("#search-results ul.search > li > a")
        links.first.wait_for()
        found = [str(link.get_attribute("href")).partition("?")[0].partition("#")[0] for link in links.all()[:5]]
        assert name in list(dict.fromkeys(found))[:3], (query, found)
        links.nth(found.index(name)).click()
        assert page.get_by_text(answer).count() or answer in page.inner_text("article"), query
    page.close()
