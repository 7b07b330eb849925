"""The list of versions on the documentation site in a real browser, from a disk and from a server, on a phone's width and a desk's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.moto_server import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.stress, pytest.mark.timeout(900)]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions side by side, of which the oldest lacks a page; and a site that was built by itself."""
    folder = tmp_path_factory.mktemp("versions")
    built = folder / "alone"
    words = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(folder / "trees"), str(ROOT / "docs"), str(built)]  # fmt: skip
    subprocess.run(words, check=True, timeout=600)
    older = folder / "older"
    shutil.copytree(built, older)
    (older / "howto" / "report.html").unlink()
    for site, name in ((older, "v0.9.0"), (built, "v0.10.0"), (built, "main")):
        put = [sys.executable, str(ROOT / "docs" / "_versions.py"), str(site), str(folder / "site"), name]
        subprocess.run(put, check=True, timeout=600)
    return folder


@pytest.fixture(scope="module", params=["disk", "server"])
def address(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "disk":
        yield folder.as_uri()
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=[390, 1280])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """A page that must not complain."""
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    page.set_default_timeout(60_000)
    said: list[str] = []
    # A browser asks each server for this picture by itself.
    page.on("console", lambda message: "favicon.ico" in message.location["url"] or said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    yield page
    page.close()
    assert said == []


def versions(page: Page) -> tuple[list[str], str]:
    """Open the sidebar, if it is not open; return what the list offers, and what is chosen."""
    chosen = page.get_by_label("Version", exact=True)
    opener = page.locator(".mobile-header .nav-overlay-icon")
    if opener.is_visible() and not page.locator("#__navigation").is_checked():
        opener.click()
    page.wait_for_function("document.getElementById('versions').getBoundingClientRect().x >= 0")
    box = chosen.bounding_box()
    assert box is not None
    assert (box["height"] >= 32, box["x"] + box["width"] <= 390) == (True, True)
    return page.locator("#versions option").all_inner_texts(), str(chosen.evaluate("e => e.selectedOptions[0].text"))


def test_another_version_of_a_page_is_one_choice_away(address: str, page: Page) -> None:
    page.goto(f"{address}/site/index.html")
    page.wait_for_url("**/site/0.10.0/index.html")
    offered = ["main", "0.10.0", "0.9.0"]
    assert versions(page) == (offered, "0.10.0")
    page.goto(f"{address}/site/0.10.0/howto/costs.html#what")
    versions(page)
    page.get_by_label("Version", exact=True).select_option("0.9.0")
    page.wait_for_url("**/site/0.9.0/howto/costs.html#what")
    assert versions(page) == (offered, "0.9.0")
    page.go_back()
    page.wait_for_url("**/site/0.10.0/howto/costs.html#what")
    assert versions(page) == (offered, "0.10.0")
    # A page that the other version does not have: its first page.
    page.goto(f"{address}/site/main/howto/report.html")
    versions(page)
    page.get_by_label("Version", exact=True).select_option("0.9.0")
    page.wait_for_url("**/site/0.9.0/index.html")


def test_a_site_by_itself_shows_its_version(address: str, page: Page) -> None:
    from starburst_executor import __version__

    page.goto(f"{address}/alone/howto/costs.html")
    assert versions(page) == ([__version__], __version__)
