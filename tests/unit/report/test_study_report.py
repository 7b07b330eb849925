"""The report of a study: its facts, every figure, the page; hostile names; five thousand trials."""

from __future__ import annotations

import csv
import importlib
import io
import json
import random
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError
from starburst_executor.report.charts.durations import axis_ticks
from starburst_executor.report.study.facts import StageFacts, StudyFacts, facts_of
from starburst_executor.report.study.figures import figures_of
from starburst_executor.report.study.page import study_page_of
from starburst_executor.report.study.parameters import coordinate, explained, spearman
from starburst_executor.report.study.report import StudyReport
from starburst_executor.report.study.style import DARK, PRINT, styled
from starburst_executor.report.study.trials import pareto
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import (
    COMPLETE,
    DONE,
    OPEN,
    PENDING,
    RUNNING,
    Measure,
    StageRecord,
    StudyRecord,
    Survivor,
)
from starburst_executor.study.status import status_of
from starburst_executor.study.tables import TrialRow
from starburst_executor.study.wheel import Holder
from starburst_executor.testing import MemoryStore
from tests.support.study_pictures import made_up

NAMES = ["funnel", "metrics", "lineage", "influence", "contours", "parallel", "fronts", "curves", "failures", "times"]
# Markup, a formula of a spreadsheet, mathematics of Matplotlib, controls, and letters that no font has.
BREAKOUTS = [
    "</script><script>document.title='broken out'</script>",
    "\"><img src=x onerror=\"document.title='broken out'\">",
    '=HYPERLINK("http://example.org")',
    r"$\frac{1}{0}$ \badcommand{ $",
    "a\x00b\x1b[31m\u202ec\nd",
    "name\udcff.txt",  # of a file, in another encoding
    "]]>&lt;b&gt;\U000f0000\U0001f4a9",
    "{{ 7 * 191 }}{% raw %}",
]  # fmt: skip


@pytest.fixture(scope="module")
def facts() -> StudyFacts:
    return made_up()


class Reader(HTMLParser):
    """Collects the elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


# --- facts --------------------------------------------------------------------------------------------------------------------


def test_the_lineage_leads_from_the_winner_to_its_first_case(facts: StudyFacts) -> None:
    winner = facts.winner()
    assert winner is not None
    way = facts.lineage(winner.name)
    assert [one.stage for one in way] == ["coarse", "fine", "final"]
    assert way[-1].trial == winner.name
    for parent, child in pairwise(way):
        survivors = [survivor.name for survivor in facts.stage(parent.stage).record.survivors]
        assert parent.trial == survivors[facts.row(child.trial).index % len(survivors)]
        assert child.changed == ("learning_rate",)
    assert (way[0].changed, facts.parent(way[0].trial)) == ((), None)


def test_failures_are_counted_by_stage_and_kind(facts: StudyFacts) -> None:
    found = facts.failures()
    rows = [row for stage in facts.stages for row in stage.rows]
    assert sum(one.n for one in found) == sum(not row.is_completed for row in rows) > 3
    assert [one.n for one in found] == sorted((one.n for one in found), reverse=True)
    for one in found:
        assert one.n == sum((row.stage, row.kind) == (one.stage, one.kind) for row in rows)
        assert all(facts.row(trial).kind == one.kind for trial in one.trials)


def test_facts_are_read_without_a_key_and_come_as_json(facts: StudyFacts) -> None:
    objects = StudyObjects(MemoryStore(), "vision", SystemClock())
    stages = tuple(replace(stage.record, table=objects.write_table(stage.name, stage.rows)) for stage in facts.stages)
    objects.create(replace(facts.record, stages=stages))
    report = StudyReport.of(objects, SystemClock())
    assert report.facts.winner() == facts.winner()
    assert report.facts.cost is None
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["lineage"] == [one.trial for one in facts.lineage(plain["winner"])]
    assert [len(stage["trials"]) for stage in plain["stages"].values()] == [60, 20, 8]


def test_values_that_json_does_not_have_are_written_as_maps() -> None:
    rows = [
        TrialRow("one", i, "completed", metrics={"x": value})
        for i, value in enumerate((float("nan"), float("inf"), 1.0))
    ]
    record = StudyRecord("odd", stages=(StageRecord("one", "done", 3, completed=3),))
    report = StudyReport(facts_of(record, status_of(record, None), {"one": rows}))
    assert '{"float": "nan"}' in json.dumps(report.to_dict(), allow_nan=False)
    assert "<h1>Study odd</h1>" in report.to_html()


# --- numbers of figures -------------------------------------------------------------------------------------------------------


def test_a_front_is_what_no_pair_dominates() -> None:
    chance = random.Random(5)
    for _ in range(200):
        costs = [(chance.randint(0, 6), chance.randint(0, 6)) for _ in range(chance.randint(1, 12))]
        truth = {
            i
            for i, one in enumerate(costs)
            if not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in costs)
        }
        front = pareto([(float(a), float(b)) for a, b in costs])
        assert set(front) == truth
        assert [costs[i][0] for i in front] == sorted(costs[i][0] for i in front)


def test_shares_and_ranks() -> None:
    chance = random.Random(2)
    xs = [chance.random() for _ in range(2000)]
    rows = [
        TrialRow("one", i, "completed", params={"x": x, "word": "high" if x > 0.5 else "low", "same": 1})
        for i, x in enumerate(xs)
    ]
    x, word = coordinate("x", rows), coordinate("word", rows)
    assert x is not None
    assert word is not None
    assert coordinate("same", rows) is None
    hill = [-((x - 0.5) ** 2) for x in xs]
    noise = [chance.random() for _ in xs]
    assert explained(x, hill) > 0.9
    assert abs(spearman(xs, hill)) < 0.1
    assert explained(x, noise) < 0.02
    assert explained(word, [float(x > 0.5) for x in xs]) == pytest.approx(1)
    assert spearman(xs, [x**3 for x in xs]) == pytest.approx(1)
    assert spearman([1, 2, 2, 3], [4, 3, 3, 1]) == pytest.approx(-1)
    assert spearman([1, 1], [2, 3]) == 0
    assert explained(x, [1.0] * len(xs)) == 0


def test_orders_of_magnitude_are_drawn_as_such() -> None:
    chance = random.Random(3)
    rows = [
        TrialRow("one", i, "completed", params={"rate": 10 ** chance.uniform(-5, -1), "share": chance.random()})
        for i in range(300)
    ]
    rate, share = coordinate("rate", rows), coordinate("share", rows)
    assert rate is not None
    assert share is not None
    assert (rate.is_log, share.is_log) == (True, False)


# --- figures ------------------------------------------------------------------------------------------------------------------


def test_every_figure_has_its_data_beside_it(facts: StudyFacts, tmp_path: Path) -> None:
    report = StudyReport(facts)
    assert [figure.name for figure in report.figures] == NAMES
    for figure in report.figures:
        rows = list(csv.reader(io.StringIO(figure.to_csv())))
        assert len(rows) == 1 + len(figure.rows) > 1
        assert {len(row) for row in rows} == {len(figure.header)}
        assert figure.size[0] <= 7.2
    contours = next(figure for figure in report.figures if figure.name == "contours")
    best = min(csv.DictReader(io.StringIO(contours.to_csv())), key=lambda row: float(row["loss"]))
    assert best["trial"] == facts.stage("coarse").record.survivors[0].name
    paths = report.save(tmp_path / "run.svg")
    assert [path.name for path in paths] == [f"run-{name}.{kind}" for name in NAMES for kind in ("svg", "csv")]
    for path in paths[::2]:
        root = ET.fromstring(path.read_bytes())
        assert any(element.tag.endswith("}text") for element in root.iter())  # text stays text
        assert "var(--" not in path.read_text()


def test_files_for_print(facts: StudyFacts, tmp_path: Path) -> None:
    report = StudyReport(facts)
    [pdf, data] = report.save(tmp_path / "funnel.pdf", figure="funnel")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in pdf.read_bytes()  # fonts that journals refuse
    assert data.read_text().startswith("stage,state,trials")
    [png, _] = report.save(tmp_path / "times.png", figure="times")
    width = int.from_bytes(png.read_bytes()[16:20], "big")
    assert width >= 300 * 7
    assert report.figures[0].to_bytes("svg") == report.figures[0].to_bytes("svg")
    with pytest.raises(ConfigError, match="no figure 'pie' of this study: there are funnel, metrics"):
        report.save(tmp_path / "x.png", figure="pie")
    with pytest.raises(ConfigError, match=r"end the file's name in \.html, \.json, \.png"):
        report.save(tmp_path / "x.gif")
    assert [path.read_bytes()[:1] for path in report.save(tmp_path / "new" / "folder" / "x.json")] == [b"{"]
    with pytest.raises(ConfigError, match="cannot be written: File exists"):
        report.save(tmp_path / "new" / "folder" / "x.json" / "y.json")


def test_an_image_has_the_colours_of_its_theme(facts: StudyFacts) -> None:
    image = figures_of(facts)[0].to_image(DARK).decode()
    assert DARK.ink in image
    assert "var(--" not in image


# --- the page -----------------------------------------------------------------------------------------------------------------


def test_the_page_has_everything_and_loads_nothing(facts: StudyFacts) -> None:
    page = StudyReport(facts).to_html()
    read = Reader(page)
    assert read.tags.count("figure") == read.tags.count("svg") == len(NAMES)
    assert "script" not in read.tags
    for tag, name, value in read.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:")), (tag, value[:80])
    for words in ("How the winner came about", "final/", "ValueError: loss is nan", "starburst study fetch vision"):
        assert words in page
    assert page.count("data:text/csv") == len(NAMES)


@pytest.mark.parametrize("odd", BREAKOUTS)
def test_hostile_names_stay_text(odd: str) -> None:
    read, expected = (Reader(page := study_page_of(made_up((12, 6), (3, 1), odd=one), [])) for one in ("plain", odd))
    assert set(read.tags) == set(expected.tags)
    assert {(tag, name) for tag, name, _ in read.attributes} == {(tag, name) for tag, name, _ in expected.attributes}
    assert not re.search("[\x00\x1b\u202e\ud800-\udfff]", page)
    for figure in figures_of(made_up((12, 6), (3, 1), odd=odd)):
        assert figure.to_csv().encode()
        for line in csv.reader(io.StringIO(figure.to_csv())):
            assert not any(cell.startswith("=") for cell in line)  # of a spreadsheet, that is code


def test_hostile_names_are_drawn_as_they_are() -> None:
    odd = "$\\frac{</script>$\x00\u202e\udcff\"'&"
    read = Reader(page := StudyReport(made_up((12, 6), (3, 1), odd=odd)).to_html())
    assert "script" not in read.tags
    assert page.count("\N{REPLACEMENT CHARACTER}") > 5
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg")
    assert r"$\frac{&lt;/script" in page


def test_a_study_that_has_hardly_begun_has_a_page() -> None:
    stages = (StageRecord("one", RUNNING, 50, started_at=1.0), StageRecord("two", PENDING, 5, depends_on=("one",)))
    record = StudyRecord("young", state=OPEN, stages=stages)
    status = status_of(record, Holder("d", progress={"one": (10, 2, 0)}))
    report = StudyReport(facts_of(record, status, {}))
    assert [figure.name for figure in report.figures] == ["funnel"]
    page = report.to_html()
    assert "12<small>ended of 55" in page
    assert "The study was not complete when this report was made." in page


EXTREMES = [
    [1e308, -1e308, 1.7976931348623157e308, 0.0],
    [1e308, 1.0, 2.0],
    [9e99, -9e99, 1.0],
    [5e-324, 1e-320, 9e99],
    [1.0, 1.0 + 2.3e-16],
    [float("inf"), float("-inf"), float("nan"), 1e308],
    [2**62, -(2**62), 2**63],
]  # fmt: skip


@pytest.mark.parametrize("values", EXTREMES, ids=str)
def test_every_figure_is_drawn_whatever_the_numbers(values: list[float]) -> None:
    def stage(name: str, above: tuple[str, ...] = ()) -> StageFacts:
        chance = random.Random(name)
        rows = [
            TrialRow(
                name, i, "completed", metrics={"x": chance.choice(values), "y": chance.choice(values)},
                params={"a": chance.choice(values), "b": chance.choice(values), "c": i},
                curve=[(step, {"x": chance.choice(values)}) for step in (0, 1, 2**63 - 1)],
                seconds=chance.choice((1e-9, 1.0, 1e7)),
            )
            for i in range(24)
        ]  # fmt: skip
        chosen = tuple(Survivor(row.name, row.metrics, row.params) for row in rows[:4])
        measures = {"x": Measure("min", ""), "y": Measure("max", "s")}
        return StageFacts(
            StageRecord(name, DONE, 24, completed=24, survivors=chosen, depends_on=above, measures=measures), rows
        )

    stages = [stage("one"), stage("two", ("one",))]
    record = StudyRecord("numbers", stages=tuple(one.record for one in stages))
    tables = {one.name: one.rows for one in stages}
    figures = figures_of(facts_of(record, status_of(record, None), tables))
    assert {"funnel", "times"} <= {figure.name for figure in figures}
    for figure in figures:
        assert not re.search(r"\b(nan|inf)\b", figure.to_page())


@pytest.mark.parametrize("seconds", [(0.31, 0.36), (0.3, 0.3), (1e-9, 1e9)])
def test_trials_that_took_about_the_same_time_have_a_figure(seconds: tuple[float, float]) -> None:
    stage = StageRecord("one", DONE, 2, started_at=1.0, completed_at=2.0, completed=2, table="t")
    record = StudyRecord("even", state=COMPLETE, stages=(stage,))
    rows = [TrialRow("one", index, "completed", seconds=taken) for index, taken in enumerate(seconds)]
    report = StudyReport(facts_of(record, status_of(record, None), {"one": rows}))
    assert "times" in [figure.name for figure in report.figures]
    assert "A trial" in report.to_html()


def test_an_axis_of_durations_has_labels_whatever_its_length() -> None:
    assert axis_ticks(0.31, 0.36) == [0.31, 0.36]
    assert axis_ticks(0.1, 0.5) == [0.1, 0.2, 0.5]
    assert all(1 <= len(axis_ticks(0.3, 0.3 * 1.7**power)) <= 6 for power in range(30))


def test_five_thousand_trials_take_bounded_time_and_space() -> None:
    facts = made_up((3500, 1000, 500), (40, 10, 1))
    begun = time.process_time()
    page = StudyReport(facts).to_html()
    assert time.process_time() - begun < 60
    assert len(page) < 4_000_000
    assert "1,000 of 3," in page


@pytest.mark.parametrize(("n_names", "n_letters"), [(2, 40), (4, 9), (6, 14)])
def test_no_two_labels_of_an_axis_overlap(n_names: int, n_letters: int) -> None:
    chance = random.Random(3)
    names = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz_", k=n_letters)) for _ in range(n_names)]
    rows = [
        TrialRow(
            "one", i, "completed", metrics={name: chance.random() for name in names},
            params={f"p{name}": 10 ** -(9 * chance.random()) for name in names}, seconds=10 ** chance.uniform(-5, 4),
        )
        for i in range(30)
    ]  # fmt: skip
    record = StudyRecord("names", stages=(StageRecord("one", DONE, 30, completed=30),))
    figures = figures_of(facts_of(record, status_of(record, None), {"one": rows}))
    assert {"influence", "parallel", "fronts", "times"} < {figure.name for figure in figures}
    for figure in figures:
        with styled(figure.name, PRINT) as matplotlib:
            canvas = importlib.import_module("matplotlib.figure").Figure(figsize=figure.size, layout="constrained")
            figure.draw(canvas, PRINT)
            importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(canvas).draw()
            assert matplotlib
            for axis in canvas.axes:
                level = [one for one in axis.get_xticklabels() if not one.get_rotation() and one.get_text()]
                boxes = sorted((box.x0, box.x1) for one in level for box in [one.get_window_extent()])
                assert all(end <= begin for (_, end), (begin, _) in pairwise(boxes)), figure.name


def test_a_record_that_does_not_fit_its_tables_has_a_report(facts: StudyFacts) -> None:
    def changed(which: str, **more: object) -> StudyFacts:
        stages = tuple(replace(one, **more) if one.name == which else one for one in facts.record.stages)  # type: ignore[arg-type]
        record = replace(facts.record, stages=stages)
        return facts_of(record, status_of(record, None), {stage.name: stage.rows for stage in facts.stages})

    unknown = Survivor("final/99", {"loss": 1.0})
    for odd, n_steps in (
        (changed("fine", name="other"), 1),
        (changed("final", survivors=(unknown,)), 0),
        (changed("final", survivors=(Survivor("x"),)), 0),
        (changed("coarse", survivors=(unknown,)), 2),
    ):
        winner = odd.winner()
        assert winner is not None
        assert len(odd.lineage(winner.name)) == n_steps
        assert "<h1>Study vision</h1>" in study_page_of(odd, [one for one in figures_of(odd) if one.name == "lineage"])
