"""The report: one file that needs nothing else, whatever the tasks wrote; what it says; what it costs."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from starburst_executor.errors import ConfigError
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.records import WorkerBeat, WorkerState, encode
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import Status
from starburst_executor.report import figure
from starburst_executor.report.facts import read_facts
from starburst_executor.report.function_names import name_in
from starburst_executor.report.lanes import Bar, rows_of
from starburst_executor.report.report import SessionReport
from starburst_executor.session.store import SessionStore
from tests.support.session_pictures import ran
from tests.support.session_rig import SESSION, Rig
from tests.support.spans import ends

HOSTILE = "</pre><script>alert('&')</script><img src=x onerror=alert(1)>"


def fail(rig: Rig, key: str, message: str) -> None:
    """Every task of a status object fails with this message."""

    def step(current: Status) -> Status:
        claimed, taken = transitions.claim(current, "w.2", at_most=256, now=rig.clock.now(), max_losses=3)
        body = outcomes.dump_error(ValueError(message))
        ended = ends(rig.sealer, claimed, taken, body, failed=True, seconds=0.5)
        counted = [block._replace(failures=tuple((i, 1) for i in range(block.n))) for block in ended]
        return transitions.commit(claimed, "w.2", counted, rig.clock.now())[0]

    rig.write(key, step)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    at = rig.clock.now()
    rig.clock.advance(10)
    ran(rig, rig.submit(20), "w", at + 8, [0.1 + 0.05 * i for i in range(20)], submitted_at=at)
    fail(rig, rig.submit(3, first=20), HOSTILE)
    rig.submit(5, first=23)
    rig.beat("w", where=f"{HOSTILE}:1", words=HOSTILE, requests={"get": 7, "swap": 2, "bytes_in": 3000})
    return rig


def test_the_page_needs_nothing_else_and_runs_nothing(rig: Rig) -> None:
    page = SessionReport.of(rig.session).to_html()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "onerror=alert" not in page.replace("onerror=alert(1)&gt;", "")
    assert not re.search(
        r"""(src|href|action)\s*=|url\(|@import|<link|<iframe|<img""", re.sub(r"&lt;.*?&gt;", "", page)
    )
    assert "&lt;script&gt;" in page


def test_it_says_what_was_stored(rig: Rig) -> None:
    facts = read_facts(rig.session)
    page = SessionReport(facts).to_html()
    for words in (
        "28",
        "23 ended",
        "3 × <code>ValueError</code>",
        "<code>pow</code>",
        "The session was not over",
    ):
        assert words in page
    assert (facts.status.completed, facts.status.failed, facts.overview.n_read) == (20, 3, 28)
    assert facts.wall_s > 0
    plain = json.loads(json.dumps(SessionReport(facts).to_dict()))
    assert (plain["format"], plain["tasks"], plain["failures"][0]["n_tasks"]) == (1, 28, 3)
    assert plain["durations"]["n"] == 23
    assert plain["series"]["completed"][-1] == 20
    assert len(plain["series"]["times"]) == len(plain["series"]["completed"]) + 1


def test_durations_by_label_have_a_chart_and_stay_text(rig: Rig) -> None:
    assert "Durations by label" not in SessionReport.of(rig.session).to_html()
    labels = [HOSTILE, *(f"label {i}" for i in range(14))]
    ran(rig, rig.submit(15, first=28), "w", rig.clock.now(), [0.1 + i for i in range(15)], labels=labels)
    report = SessionReport.of(rig.session)
    page = report.to_html()
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    assert ">Durations by label</title>" in page
    assert "all other labels are joined in the last row" in page
    assert "label 10: 1 tasks, median" in page
    assert "label 11:" not in page
    plain = json.loads(json.dumps(report.to_dict()))
    assert [row["label"] for row in plain["by_label"]][:3] == ["", HOSTILE, "label 0"]
    assert plain["other_labels"]["n"] == 3


def test_without_the_key_failures_are_missing_and_the_page_says_so(rig: Rig) -> None:
    session = SessionStore(rig.session.store, SESSION, Sealer(b"", SESSION), rig.clock)
    facts = read_facts(session)
    page = SessionReport(facts).to_html()
    assert facts.failures is None
    assert "need the session's key" in page
    assert "ValueError" not in page


def test_it_reads_each_object_once_and_failures_again() -> None:
    rig = Rig()
    for i in range(80):
        ran(rig, rig.submit(4, first=4 * i), f"w{i % 3}", rig.clock.now() + 5 + i, [0.1] * 4)
    rig.clock.advance(100)
    for i in range(3):
        rig.beat(f"w{i}")
    with rig.requests() as requests:
        read_facts(rig.session)
    # Two looks read the manifest and the beats; one function.
    assert requests["get"] <= 80 + 2 * (1 + 3) + 4
    assert requests["list"] <= 8


def test_each_kind_of_file_is_written_whole(rig: Rig, tmp_path: Path) -> None:
    report = SessionReport.of(rig.session)
    heads = {"html": b"<!doctype html>", "pdf": b"%PDF", "json": b'{"format": 1'}
    for kind, head in heads.items():
        path = report.save(tmp_path / f"run.{kind}")
        assert path.read_bytes().startswith(head)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".html", ".json", ".pdf"]


def test_a_figure_of_many_workers_and_of_no_task(tmp_path: Path) -> None:
    rig = Rig()
    SessionReport.of(rig.session).save(tmp_path / "empty.pdf")
    SessionReport.of(rig.session).save(tmp_path / "empty.html")
    at = rig.clock.now()
    for i in range(120):
        ran(rig, rig.submit(4, first=4 * i), f"w{i:03}", at + 5 + i % 7, [0.1] * 4)
    SessionReport.of(rig.session).save(tmp_path / "many.png")
    assert (tmp_path / "many.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n", [1, 2, 30])
def test_workers_and_counts_have_whole_numbers_on_axes(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr(figure, "_MOST_ROWS", 0)  # as with many tasks
    rig = Rig()
    for i in range(n):
        ran(rig, rig.submit(2, first=2 * i), f"w{i:03}", rig.clock.now() + 5, [0.1] * 2)
        rig.beat(f"w{i:03}")
    facts = read_facts(rig.session)
    lanes, states = figures.Figure().subplots(2)
    figure._lanes(lanes, facts)
    figure._states(states, facts)
    for axis in (lanes, states):
        low, high = sorted(axis.get_ylim())
        ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
        assert ticks
        assert all(tick == int(tick) for tick in ticks)
    assert sorted(lanes.get_ylim()) == [0.5, n + 0.5]


@pytest.mark.parametrize("name", ["run.txt", "run", "a-file/run.json"])
def test_a_file_that_cannot_be_written_is_named(rig: Rig, tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(ConfigError, match=r"\.html, \.png|a-file"):
        SessionReport.of(rig.session).save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_a_report_makes_the_folder_of_its_file(rig: Rig, tmp_path: Path) -> None:
    SessionReport.of(rig.session).save(tmp_path / "a/new/run.json")
    assert [path.name for path in (tmp_path / "a/new").iterdir()] == ["run.json"]


@pytest.mark.parametrize(("module", "kind"), [("markupsafe", "html"), ("matplotlib", "png")])
def test_a_missing_library_is_named_with_its_extra(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"starburst-executor\[report\]"):
        SessionReport.of(rig.session).save(tmp_path / f"run.{kind}")
    SessionReport.of(rig.session).save(tmp_path / "run.json")


class Model:
    def fit(self) -> None:
        """Do nothing."""


def test_names_are_found_without_unpickling() -> None:
    def inner(x: int) -> int:
        return x

    assert name_in(calls.dump_function(json.dumps)) == "json.dumps"
    assert name_in(calls.dump_function(pow)) == "pow"
    assert str(name_in(calls.dump_function(inner))).endswith("inner")
    assert str(name_in(calls.dump_function(Model().fit))).endswith("fit")
    assert name_in(b"\x00no pickle") is None


def test_bars_take_as_many_rows_as_there_are_slots() -> None:
    bars = [Bar(str(i), i * 1.0, i + 1.2, "completed") for i in range(10)]
    assert len(rows_of(bars)) == 2
    (row,) = rows_of(bars, 1)
    assert all(one.end <= other.start for one, other in pairwise(row))
    assert len(rows_of([Bar("0", 0, 9, "completed"), Bar("1", 1, 2, "completed")], 1)) == 2


def test_workers_that_wait_after_the_last_task_make_no_chart_coarse() -> None:
    """They stay for minutes, and their time counts as idle, but the charts end with the tasks."""
    rig = Rig()
    at = rig.clock.now()

    def beat(number: int) -> None:
        newest = WorkerBeat("w", number, WorkerState.IDLE, 1, at, rig.clock.now())
        rig.objects.put(rig.keys.worker("w"), encode(newest, rig.clock.new_id()))

    beat(1)
    ran(rig, rig.submit(2), "w", at + 10, [4.0, 4.0], submitted_at=at)
    rig.clock.advance(10)
    assert len(read_facts(rig.session).overview.times) > 100
    rig.clock.advance(1000)
    beat(2)
    facts = read_facts(rig.session)
    assert len(facts.overview.times) > 100
    assert facts.overview.times[-1] == pytest.approx(at + 10, abs=1)
    assert facts.overview.slot_s == pytest.approx(1010)
    assert facts.utilisation == pytest.approx(8 / 1010)
    assert facts.overview.shown_utilisation == pytest.approx(8 / 10)
    page = SessionReport(facts).to_html()
    assert "16 min 40 s passed after the last task had ended" in page
    assert "until then tasks used 80%" in page
