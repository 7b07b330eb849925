"""The pages of studies in a real browser: wide and narrow, light and dark, with names that try to break out, and as the study goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.dashboard.serve import Dashboard
from starburst_executor.store.open import open_store
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import DONE, OPEN, RUNNING
from tests.support.dashboard import BREAKOUTS, running
from tests.support.study_pictures import made_up, stored
from tests.support.watched import Watched, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/studies"


@pytest.fixture
def dashboard(url: str) -> Iterator[Dashboard]:
    with running(url) as found:
        yield found


def write(url: str, name: str, odd: str = "") -> StudyObjects:
    objects = StudyObjects(open_store(url), name, SystemClock())
    stored(made_up((60, 20), (6, 2), odd=odd, name=name), objects)
    return objects


def wait_for_figures(seen: Watched) -> int:
    """Have the browser load and decode every figure; return their number.

    In one call inside the page: an update may replace the images meanwhile, and those held here are then decoded all the same.
    """
    seen.page.wait_for_load_state()
    widths: list[int] = seen.page.evaluate(
        """() => Promise.all([...document.querySelectorAll(".picture img")].map(async image => {
            image.loading = "eager";
            await image.decode();
            return image.naturalWidth;
        }))"""
    )
    assert all(width > 0 for width in widths)
    return len(widths)


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_a_study_with_all_its_figures(browser: Browser, url: str, dashboard: Dashboard, theme: str, width: int) -> None:
    write(url, "plain")
    with watched(browser, dashboard, theme=theme, width=width) as seen:
        seen.page.get_by_role("link", name="Studies").click()
        seen.check()
        seen.page.get_by_role("link", name="plain").click()
        seen.page.locator("#ended", has_text="80 of 80 trials ended").wait_for()
        assert wait_for_figures(seen) == 10
        shown = seen.page.locator("#figure-funnel img").evaluate("image => image.currentSrc")
        assert f"theme={theme}" in shown
        seen.check()
        with seen.page.expect_download() as download:
            seen.page.locator("#figure-fronts").get_by_role("link", name="CSV").click()
        assert download.value.path().read_text().startswith("trial,survivor,on front of loss and latency")
        with seen.page.expect_download() as download:
            seen.page.get_by_role("link", name="Download the report").click()
        assert "<h1>Study plain</h1>" in download.value.path().read_text()


def test_names_that_try_to_break_out_stay_text(browser: Browser, url: str, dashboard: Dashboard) -> None:
    for number, odd in enumerate(BREAKOUTS[:3]):
        write(url, f"odd-{number}", odd=odd)
    with watched(browser, dashboard) as seen:
        seen.go("/studies")
        seen.check()
        for number in range(3):
            seen.go(f"/studies/0/odd-{number}")
            seen.page.locator("#ended", has_text="80 of 80").wait_for()
            seen.check()


@pytest.mark.stress
def test_the_page_moves_as_the_study_goes_on(browser: Browser, url: str, dashboard: Dashboard) -> None:
    objects = write(url, "live")
    whole = objects.read()
    first, second = whole.stages
    begun = replace(
        second, state=RUNNING, table=None, survivors=(), completed=0, failed=0, cancelled=0, completed_at=None
    )
    objects.change(lambda record: replace(record, state=OPEN, stages=(first, begun)))
    with watched(browser, dashboard) as seen:
        page = seen.page
        seen.go("/studies/0/live")
        page.evaluate("window.stays = true")
        assert page.inner_text("#ended") == "60 of 80 trials ended"
        assert page.locator("#figure-lineage img").count() == 0
        objects.change(lambda record: replace(record, state=whole.state, stages=(first, replace(second, state=DONE))))
        page.locator("#ended", has_text="80 of 80").wait_for()
        page.locator("#stage-1", has_text="done").wait_for()
        page.locator("#figure-lineage img").wait_for(state="attached")
        page.locator("#say", has_text="2 of 2 stages decided").wait_for(state="attached")
        assert page.evaluate("window.stays") is True
        seen.check()


def test_the_list_of_studies_is_read_again_and_a_deleted_study_says_so(
    browser: Browser, url: str, dashboard: Dashboard
) -> None:
    first = write(url, "first")
    with watched(browser, dashboard) as seen:
        page = seen.page
        page.clock.install()
        seen.go("/studies")
        page.evaluate("window.stays = true")
        assert page.locator("tbody tr").count() == 1
        write(url, "second")
        page.clock.fast_forward(31_000)
        page.get_by_role("link", name="second").wait_for()
        assert page.evaluate("window.stays") is True
        seen.check()
        seen.go("/studies/0/first")
        page.locator("#ended", has_text="80 of 80").wait_for()
        first.store.delete([line.key for line in first.store.list("studies/first/")])
        page.get_by_role("alert").filter(has_text="This study was deleted").wait_for()
        seen.follow(page.get_by_role("link", name="Go on to those that are there"))
        page.get_by_role("link", name="second").wait_for()
        assert page.locator("tbody tr").count() == 1
        seen.check()
