"""What in the benchmarks could lie without anybody seeing it: rates, ratios, sizes of runs, absent peers, limits."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

# Extras that only `make bench` installs.
pytest.importorskip("psutil")

from benchmarks import contention, figures, history, scale, throughput
from benchmarks._fleet import Fleet, Flight
from benchmarks._results import Found, MissingRowsError, chosen, needed, newest
from benchmarks._rows import Row
from benchmarks._simulated_s3 import Folders, _Bucket
from benchmarks.peers import __main__ as child
from benchmarks.peers._job import Answer, Job, Seat, ask, measure, next_size
from starburst_executor.errors import ObjectNotFound, PreconditionFailed

JOB = Job("process_pool", "no-op", "map", 2, 10_000, 2.5)
SETTING = throughput.FIRST
BENCHMARKS = sorted(file.stem for file in Path(throughput.__file__).parent.glob("[a-z]*.py"))


def answer(rate: float, n_tasks: int = 10_000) -> Answer:
    return Answer(n_tasks=n_tasks, seconds=n_tasks / rate, n_all_tasks=n_tasks)


# ------------------------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize(
    ("n_tasks", "seconds", "wanted"),
    [
        (16, 1e-4, 256),  # a short run grows no faster than sixteenfold
        (1_000, 0.1, 10_000),  # as many as were asked for
        (1_000, 1.0, 2_500),  # as many as fit
        (16, 1.8, 32),  # a fixed cost must not look like the cost of a task
        (1_000, 2.0, 1_000),  # long enough: this run counts
        (10_000, 0.1, 10_000),
    ],
)
def test_the_next_run_has_as_many_tasks_as_fit(n_tasks: int, seconds: float, wanted: int) -> None:
    assert next_size(n_tasks, seconds, JOB) == wanted


class Machine:
    """A library that takes a fixed time a run and a time a task, and the clock that sees it."""

    def __init__(self, run_s: float, task_s: float) -> None:
        self.now = 0.0
        self._run_s, self._task_s = run_s, task_s

    def call(self, function: Callable[[int], int], items: Sequence[int]) -> Iterable[int]:
        self.now += self._run_s + self._task_s * len(items)
        return [function(i) for i in items]


def test_the_rate_is_that_of_the_last_run_alone() -> None:
    machine = Machine(0.0, 0.001)
    found = measure(Seat(machine.call), JOB, lambda i: i, lambda: machine.now)
    assert found.n_tasks == 2_500
    assert found.rate == pytest.approx(1_000)
    assert found.n_all_tasks > found.n_tasks


@pytest.mark.parametrize("wrong", [lambda i: i + (i == 3), lambda _: None])
def test_wrong_results_have_no_rate(wrong: Callable[[int], Any]) -> None:
    machine = Machine(0.0, 0.001)
    with pytest.raises(RuntimeError, match="wrong results"):
        measure(Seat(machine.call), JOB, wrong, lambda: machine.now)


def test_too_few_results_have_no_rate() -> None:
    with pytest.raises(ValueError):
        measure(Seat(lambda _, items: items[1:]), JOB, lambda i: i, lambda: 0.0)


# ----------------------------------------------------------------------------------------------------------- absent peers


def test_a_peer_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers import loky_executor

    monkeypatch.setattr(loky_executor, "DISTRIBUTION", "there-is-no-such-distribution")
    assert child.answered(Job("loky_executor", "no-op", "map", 2, 10, 1.0)).absent == "not installed"


def test_a_peer_that_fails_is_absent_and_says_why() -> None:
    found = ask(Job("there_is_no_such_adapter", "no-op", "map", 2, 10, 1.0))
    assert found.absent.startswith("failed: ModuleNotFoundError")


def test_an_absent_peer_has_rows_without_values() -> None:
    gone = [Answer(absent="not installed")]
    for row in (
        throughput.rate_row("loky", SETTING, gone),
        throughput.ratio_row("loky", SETTING, [answer(5.0)], gone),
    ):
        told = json.loads(row.as_json())
        assert (told["value"], told["p50"], told["min"], told["n"]) == (None, None, None, 0)
        assert told["note"] == "not installed"


def test_a_real_peer_is_measured_in_a_process_of_its_own() -> None:
    found = ask(Job("process_pool", "no-op", "map", 1, 32, 0.2, {"chunksize": 1}))
    assert not found.absent
    assert found.n_tasks == 32
    assert found.rate > 0


# ----------------------------------------------------------------------------------------------------------------- ratios


def test_ratios_are_made_turn_by_turn() -> None:
    row = throughput.ratio_row("loky", SETTING, [answer(10.0), answer(30.0)], [answer(5.0), answer(60.0)])
    assert row.values == pytest.approx([2.0, 0.5])


def test_a_turn_that_failed_is_left_out_of_both() -> None:
    failed = Answer(absent="failed: x")
    row = throughput.ratio_row("loky", SETTING, [answer(10.0), answer(30.0)], [failed, answer(60.0)])
    assert row.values == pytest.approx([0.5])
    assert "1 of 2 turns failed" in throughput.rate_row("loky", SETTING, [failed, answer(60.0)]).note


def test_the_budget_stands_beside_what_it_was_promised_for_only() -> None:
    other = throughput.Setting("1 ms", "map", 2, 10_000)
    ours = theirs = [answer(1.0)]
    assert throughput.ratio_row(throughput.BASELINE, SETTING, ours, theirs).budget == "≥ 3"
    assert throughput.ratio_row(throughput.JOBLIB, throughput.LONGEST, ours, theirs).budget == "≥ 1"
    assert throughput.ratio_row(throughput.BASELINE, other, ours, theirs).budget == ""
    assert throughput.ratio_row("loky", SETTING, ours, theirs).budget == ""


def test_fewer_tasks_than_asked_for_are_told() -> None:
    assert throughput.rate_row("loky", SETTING, [answer(5.0, n_tasks=300)]).note == "of 300 tasks"


def test_a_rate_is_not_that_of_its_own_ratio_row() -> None:
    assert throughput.rate_row("loky", SETTING, [answer(5.0)]).values == pytest.approx([5.0])


# ------------------------------------------------------------------------------------------------- simulated S3 and fleets


def test_folders_are_an_object_store() -> None:
    store = Folders()
    etag = store.create("a/b/1", b"x")
    with pytest.raises(PreconditionFailed):
        store.create("a/b/1", b"y")
    with pytest.raises(PreconditionFailed):
        store.swap("a/b/1", b"y", "another")
    newer = store.swap("a/b/1", b"yz", etag)
    store.put("a/c/2", b"z")
    assert store.get_if_changed("a/b/1", newer) is None
    found = store.get("a/b/1", start=1, length=1)
    assert found is not None
    assert found.body == b"z"
    assert [(line.key, line.size) for line in store.list("a/b/")] == [("a/b/1", 2)]
    assert [line.key for line in store.list("a/")] == ["a/b/1", "a/c/2"]
    assert store.list_folders("a/") == ["b", "c"]
    store.delete(["a/b/1", "a/b/1"])
    with pytest.raises(ObjectNotFound):
        store.get("a/b/1")


def test_a_partition_takes_its_rate_and_no_more() -> None:
    bucket = _Bucket(per_s=100.0, tokens=100.0)
    taken = sum(bucket.takes(at / 1000) for at in range(10_000))
    assert taken == pytest.approx(100 + 10 * 100, abs=2)


def test_a_fleet_does_all_its_tasks_and_is_the_same_twice() -> None:
    first, again = (Fleet(3).run(12, 1.0) for _ in range(2))
    assert first == again
    assert 4.0 <= first.seconds < 15.0
    assert first.useful == pytest.approx(12 / (3 * first.seconds))
    assert 0.5 < first.steady <= 1.0
    assert first.requests["swap"] >= 12 / 2


def test_a_fleet_at_the_limits_is_refused_and_still_ends() -> None:
    flight = Fleet(3, limits=0.001).run(12, 0.5)
    assert flight.requests["503"] > 0
    assert max(sum(n for kind, n in second.items() if kind != "503") for second in flight.by_second) <= 2 * (3.5 + 5.5)


def test_rates_are_of_the_middle_half() -> None:
    seconds = [Counter(get=n, swap=1) for n in (100, 4, 4, 100)]
    flight = Flight(4.0, seconds, 1.0, 1.0, 0, 0, sum(seconds, Counter()))
    rows = scale.rows(flight, {"workers": 2, "n_tasks": 8, "task_s": 1.0, "limits": None})
    by_measure = {row.conditions["measure"]: row.values for row in rows}
    assert by_measure["reads"] == [4.0, 4.0]
    assert by_measure["writes"] == [1.0, 1.0]
    assert by_measure["per_task"] == pytest.approx([212 / 8])


def test_what_is_extrapolated_says_so() -> None:
    rows = [
        Row(kind, "requests/s", [value], conditions={"measure": kind})
        for kind, value in (("writes", 7.0), ("reads", 11.0))
    ]
    far = scale.far_rows(rows, 10, 1.0)
    assert [row.values for row in far] == [[pytest.approx(7_000)], [pytest.approx(11_000)]]
    assert all(row.note.startswith("extrapolated") and row.conditions["extrapolated"] for row in far)
    assert "5,000 workers reach" in far[0].note


# --------------------------------------------------------------------------------------------------- census and contention


def test_a_census_counts_what_was_built() -> None:
    row = history.census(2_000)
    assert row.requests["list"] == 2 + 1
    assert row.values[0] >= 2 + 1 + history.N_UNWELL + history.N_WORKERS


def test_lone_submits_are_counted_in_windows_of_their_own() -> None:
    first, last = history.lone_submits(30)
    assert (first.conditions["calls_before"], last.conditions["calls_before"]) == (0, 20)
    assert last.requests["create"] == 10


def test_claimers_that_are_alone_lose_no_race() -> None:
    arena = contention.Arena(1, 1, 2.0)
    arena.fight()
    assert arena.counts[0].lost == 0
    assert arena.counts[0].won > 5
    crowd = contention.Arena(4, 1, 2.0)
    crowd.fight()
    assert sum(count.lost for count in crowd.counts) > 0


# ------------------------------------------------------------------------------------------------------ tables and plots


@pytest.mark.parametrize(
    ("budget", "value", "met"),
    [
        ("≤ 2,000", 2_000.0, True),
        ("≤ 2,000", 2_000.1, False),
        ("≥ 3", 3.0, True),
        ("≥ 3", 2.99, False),
        ("≤ 0.2", 0.21, False),
    ],
)
def test_a_budget_is_met_or_not(budget: str, value: float, met: bool) -> None:
    assert figures.is_met(budget, value) is met


def test_what_is_no_budget_is_never_met() -> None:
    with pytest.raises(ValueError):
        figures.is_met("about 3", 3.0)


def rows_of(*rows: Row) -> list[dict[str, Any]]:
    return [json.loads(row.as_json()) for row in rows]


def test_a_page_gets_its_tables_and_keeps_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    found = Found(
        throughput=rows_of(Row("ratio", "times", [2.0], budget="≥ 3"), Row("gone", "s", [], budget="≤ 1", note="why")),
        million=rows_of(Row("took", "s", [60.0], budget="≤ 120")),
    )
    page = "a\n<!-- figures: budgets -->\nold\n<!-- end of figures -->\nb\n<!-- figures: scale -->\nkept\n<!-- end of figures -->\n"
    filled = figures.filled(page, found)
    assert "| `throughput` | ratio | ≥ 3 times | 2 times | **no** |" in filled
    assert "| `throughput` | gone | ≤ 1 s | – s | not measured |" in filled
    assert "| `million` | took | ≤ 120 s | 60 s | yes |" in filled
    assert "old" not in filled
    assert "kept" in filled
    assert "scale: left as it is, no rows of scale" in capsys.readouterr().out
    assert figures.filled(filled, found) == filled


def test_a_quick_run_neither_keeps_nor_breaks_a_budget() -> None:
    row = json.loads(Row("took", "s", [60.0], budget="≤ 120").as_json(quick=True))
    assert "| 60 s | quick run |" in figures.budgets(Found(million=[row]))


def test_rows_without_a_value_are_not_drawn() -> None:
    rows = rows_of(Row("a", "s", [], conditions={"n": 1}), Row("b", "s", [2.0], conditions={"n": 1}))
    assert [row["name"] for row in chosen(rows, n=1)] == ["b"]
    with pytest.raises(MissingRowsError):
        needed(rows, n=2)


def test_the_newest_file_of_each_benchmark_is_read(tmp_path: Path) -> None:
    for date, value in (("2026-01-02", 2.0), ("2026-01-01", 1.0)):
        (tmp_path / f"scale-{date}.jsonl").write_text(Row("a", "s", [value]).as_json() + "\n", encoding="utf-8")
    (tmp_path / "sweep-2026-01-01.jsonl").write_text("", encoding="utf-8")
    found = newest(tmp_path)
    assert [row["value"] for row in found["scale"]] == [2.0]
    with pytest.raises(MissingRowsError):
        found["sweep"]


def test_a_plot_is_the_same_bytes_for_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plots
    from benchmarks._plotting import save

    rows = [
        row
        for n_claimers in (1, 2)
        for row in contention.rows(n_claimers, 10, [contention.Count(won=5, lost=n_claimers)], 1.0)
    ]
    drawn = []
    for name in ("a", "b"):
        save(plots.contention(Found(contention=rows_of(*rows))), tmp_path / name)
        drawn.append([(tmp_path / f"{name}.{suffix}").read_bytes() for suffix in ("svg", "png")])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_can_be_imported(name: str) -> None:
    if name == "plots":
        pytest.importorskip("matplotlib")
    assert callable(importlib.import_module(f"benchmarks.{name}").main)
