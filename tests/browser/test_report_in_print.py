"""The page of a study's report on paper: no table is wider than the page, also with many parameters and long names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from starburst_executor.report.study.facts import StageFacts
from starburst_executor.report.study.page import study_page_of
from tests.support.study_pictures import made_up

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

_PAPER_PX = 680  # 180 mm: A4 without the margins of the style sheet


@pytest.mark.parametrize("odd", ["", "a_parameter_with_a_very_long_name_that_has_no_blank_in_it"])
def test_tables_fit_on_paper(browser: Browser, tmp_path: Path, odd: str) -> None:
    (tmp_path / "page.html").write_text(study_page_of(made_up((12, 6), (3, 1), odd=odd), []), encoding="utf-8")
    page = browser.new_page(viewport={"width": _PAPER_PX, "height": 1000})
    page.emulate_media(media="print")
    page.goto((tmp_path / "page.html").as_uri())
    widths = page.eval_on_selector_all("table", "tables => tables.map(one => one.getBoundingClientRect().right)")
    assert len(widths) >= 4
    assert max(widths) <= _PAPER_PX
    texts = page.eval_on_selector_all("td.text", "cells => cells.map(one => one.getBoundingClientRect().width)")
    assert texts
    assert min(texts) >= 60  # words, and no column of letters
    page.close()


def test_no_number_is_broken_on_paper(browser: Browser, tmp_path: Path) -> None:
    facts = made_up((12, 6), (3, 1))
    stages = []
    for stage in facts.stages:
        rows = [replace(row, params=_twenty(row.index)) for row in stage.rows]
        kept = tuple(replace(one, params=_twenty(one.index)) for one in stage.record.survivors)
        stages.append(StageFacts(replace(stage.record, survivors=kept), rows))
    (tmp_path / "page.html").write_text(study_page_of(replace(facts, stages=stages, _by_name={}), []), encoding="utf-8")
    page = browser.new_page(viewport={"width": _PAPER_PX, "height": 1000})
    page.emulate_media(media="print")
    page.goto((tmp_path / "page.html").as_uri())
    lines = """cells => cells.map(cell => {
        const range = document.createRange(); range.selectNodeContents(cell)
        return new Set([...range.getClientRects()].map(one => one.top)).size
    })"""
    found = page.eval_on_selector_all("td.number", lines)
    assert len(found) > 40
    assert max(found) == 1
    widths = page.eval_on_selector_all("table", "tables => tables.map(one => one.getBoundingClientRect().right)")
    assert max(widths) <= _PAPER_PX
    page.close()


def _twenty(index: int) -> dict[str, float]:
    return {f"parameter_{i}": -1.2345678e-05 * (i + index + 1) for i in range(20)}
