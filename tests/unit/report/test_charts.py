"""Charts: well-formed, nothing that a strict policy refuses, every number in words too, hostile texts stay texts."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from starburst_executor.protocol.spans.record import State
from starburst_executor.report import charts
from starburst_executor.report.charts.ticks import count_text, number_ticks, seconds_text, time_text, time_ticks
from starburst_executor.report.durations import Durations, LabelDurations
from tests.support.session_pictures import gathered, ran
from tests.support.session_rig import Rig

HOSTILE = "<script>alert(1)</script>\"'&"


def all_charts(rig: Rig) -> list[str]:
    overview, status = gathered(rig)
    return [
        charts.states(overview),
        charts.waiting(overview),
        charts.completions(overview),
        charts.utilisation(overview),
        charts.durations(overview.durations),
        charts.workers(overview, status.members),
    ]


def a_session(n_workers: int = 3) -> Rig:
    rig = Rig()
    at = rig.clock.now()
    for i in range(max(12, n_workers)):
        states = [State.COMPLETED, State.FAILED]
        ran(
            rig,
            rig.submit(2, first=2 * i),
            f"w{i % n_workers:03}",
            at + 1 + i,
            [0.2, 0.7],
            states=states,
            submitted_at=at,
        )
    rig.submit(2, first=2 * max(12, n_workers))
    for i in range(n_workers):
        rig.beat(f"w{i:03}", where=f"{HOSTILE}:1", words=HOSTILE)
    rig.clock.advance(20)
    return rig


@pytest.mark.parametrize("n_workers", [3, 60])
def test_charts_are_images_with_a_title_and_words_and_nothing_that_runs(n_workers: int) -> None:
    for svg in all_charts(a_session(n_workers)):
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert root[0].tag.endswith("title")
        assert root[0].text
        assert root[1].tag.endswith("desc")
        assert root[1].text
        names = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert names <= {"svg", "title", "desc", "path", "rect", "text"}
        attributes = {name for element in root.iter() for name in element.attrib}
        assert not {name for name in attributes if name.startswith("on") or name in ("style", "href")}
        assert "<script" not in svg
        assert not re.search(r"nan|inf", svg.partition(">")[2].replace("info", ""))
        assert len(svg) < 60_000


def test_many_workers_are_sampled_and_the_chart_says_so() -> None:
    overview, status = gathered(a_session(60))
    assert "40 of 60 workers" in charts.workers(overview, status.members)
    assert "of 60 workers" not in charts.workers(overview, status.members, most=60)


def test_each_state_has_a_colour_in_light_and_dark() -> None:
    for state in charts.STATES:
        assert charts.CSS.count(f"--sb-{state}:#") == 4
        assert f".sb-{state}{{" in charts.CSS


def test_a_session_without_tasks_has_charts() -> None:
    rig = Rig()
    rig.clock.advance(1)
    overview, status = gathered(rig)
    assert charts.workers(overview, status.members) == charts.durations(overview.durations) == ""
    for svg in (
        charts.states(overview),
        charts.waiting(overview),
        charts.completions(overview),
        charts.utilisation(overview),
    ):
        ET.fromstring(svg)


@pytest.mark.parametrize("most", [0.0, 0.3, 1, 3, 7, 99, 100, 1234, 1e6])
def test_an_axis_of_numbers_shows_all_in_few_round_ticks(most: float) -> None:
    ticks = number_ticks(most)
    assert ticks[0] == 0
    assert ticks[-1] >= most * 0.999
    assert 2 <= len(ticks) <= 7
    assert len({count_text(tick) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize("span_s", [0.001, 0.7, 20, 90, 600, 7000, 90_000, 1e6, 3e8])
def test_an_axis_of_time_has_few_labels_and_no_two_the_same(span_s: float) -> None:
    ticks = time_ticks(span_s)
    assert 1 <= len(ticks) <= 12
    assert len({time_text(tick, span_s) for tick in ticks}) == len(ticks)


def test_durations_in_words() -> None:
    assert [seconds_text(s) for s in (0, 2e-6, 0.05, 20, 90, 7200, 259_200)] == [
        "0", "2 µs", "50 ms", "20 s", "1.5 min", "2 h", "3 d",
    ]  # fmt: skip


def test_every_label_is_inside_its_chart() -> None:
    durations = Durations()
    durations.add([0.03, 0.0999])
    labelled = LabelDurations()
    labelled.of("a").add([0.03, 0.0999])
    for svg in (charts.durations(durations), charts.labels(labelled.rows()), *all_charts(a_session())):
        root = ET.fromstring(svg)
        width = float(root.get("viewBox", "").split()[2])
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            half = 0.5 * 6.2 * len(text.text or "")
            if text.get("text-anchor") == "middle":
                assert half - 0.1 <= float(text.get("x", "")) <= width - half + 0.1, text.text
