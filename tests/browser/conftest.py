"""A real browser: Chromium as the system has it. Without one these tests are skipped, and say so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.sessions import store_url
from tests.support.moto_server import moto_server
from tests.support.s3_server import s3_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["moto_server", "s3_server", "store_url"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Names that end in .example lead here, as they do behind a proxy, or by the DNS of another site.
ARGS = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP *.example 127.0.0.1"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium is installed: apt install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=path, args=ARGS)
        yield found
        found.close()
