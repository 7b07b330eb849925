"""A report on a real session, on both stores, opened from a file in a browser without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import wait
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor
from tests.sessions import detached

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def odd(x: int) -> int:
    if x % 7 == 3:
        raise ValueError(f"<script>document.title = 'broken'</script> {x}")
    return x


def ended(store_url: str) -> DetachedExecutor:
    executor = detached(store_url, workers=2)
    wait([executor.submit(odd, x) for x in range(40)])
    return executor


def test_a_report_by_command_and_by_method_has_every_task(store_url: str, tmp_path: Path) -> None:
    executor = ended(store_url)
    records = list(executor.timeline())
    assert [record.index for record in records] == list(range(40))
    assert sum(record.state == "failed" for record in records) == 6
    assert all(record.submitted_at <= record.started_at + 0.5 for record in records)
    plain = executor.report().to_dict()
    assert (plain["tasks"], plain["status"]["failed"], plain["failures"][0]["n_tasks"]) == (40, 6, 6)
    path = tmp_path / "run.html"
    command = [sys.executable, "-m", "starburst_executor.cli", "report", executor.url, "--out", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    assert "6 × <code>ValueError</code>" in path.read_text(encoding="utf-8")
    executor.cleanup(force=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_opens_from_a_file_with_the_network_off(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    executor = ended(f"sqlite://{tmp_path}/sessions")
    path = executor.report().save(tmp_path / "run.html")
    executor.cleanup(force=True)
    asked, said = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            for scheme in ("light", "dark"):
                context = browser.new_context(color_scheme=scheme, offline=True, viewport={"width": 390, "height": 800})
                page = context.new_page()
                page.on("request", lambda request: asked.append(request.url))
                page.on("console", lambda message: said.append(message.text))
                page.goto(path.as_uri())
                assert page.title().startswith("Session ")
                assert page.locator("svg[role=img]").count() == 6
                # Nothing is wider than a phone, but what scrolls by itself.
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        finally:
            browser.close()
    assert set(asked) == {path.as_uri()}
    assert said == []
