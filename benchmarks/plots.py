"""Draws every curve from the rows in a folder of results: a PNG and an SVG each.

    python benchmarks/plots.py [FOLDER]

Draws the newest file of each benchmark. Titles state the results and are computed from the rows. A plot whose rows are
missing is left out and named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._plotting import BLACK, COLOURS, GREY, OURS, end_notes, figure, log_axis, note_on, plain, save
from benchmarks._results import Found, MissingRowsError, Rows, chosen, is_ratio, needed, newest
from benchmarks._simulated_s3 import READS_PER_S, WRITES_PER_S

MINE = "StarburstExecutor"


def points(rows: Rows, x: str) -> tuple[list[float], list[float]]:
    ordered = sorted(rows, key=lambda row: row["conditions"][x])
    return [row["conditions"][x] for row in ordered], [row["value"] for row in ordered]


# ---------------------------------------------------------------------------------------------------------- throughput


def throughput(found: Found) -> Any:
    rows = found["throughput"]
    first = {"task": "no-op", "how": "map", "n_tasks": 10_000, "workers": 2}
    ratios = {row["conditions"]["ours_over"]: row["value"] for row in chosen(rows, **first) if is_ratio(row)}
    one, many = (ratios.get(f"ProcessPoolExecutor, chunksize {n}", 0.0) for n in (1, 64))
    fig, axes = figure(
        f"No-op tasks by plain map: {one:.1f} times a process pool's rate, {many:.2f} times that of batches of 64",
        2, 2, height=2.9,
    )  # fmt: skip
    for ax, (task, workers) in zip(axes.flat, (("no-op", 2), ("no-op", 8), ("1 ms", 2), ("1 ms", 8)), strict=True):
        mine = [
            row
            for row in needed(rows, task=task, how="map", n_tasks=10_000, workers=workers)
            if not is_ratio(row) and "S3" not in row["conditions"]["library"]
        ]
        bars(ax, [(row["conditions"]["library"], row["value"]) for row in _once(mine)], "tasks a second")
        ax.set_title(f"tasks of {task}, {workers} workers" if task != "no-op" else f"no-op tasks, {workers} workers")
    return fig


def _once(rows: Rows) -> Rows:
    """Return the first row of each library, which is that of the embedded store."""
    return list({row["conditions"]["library"]: row for row in reversed(rows)}.values())


def bars(ax: Any, named: Sequence[tuple[str, float]], unit: str) -> None:
    """Draw points with their values, largest on top. The axis is logarithmic, and bars would have no base on it."""
    ordered = sorted(named, key=lambda pair: pair[1])
    for y, (name, value) in enumerate(ordered):
        colour = OURS if name.startswith(MINE) else GREY
        ax.plot([value], [y], "o", color=colour, markersize=8)
        note_on(ax, value, y, plain(value), colour if colour == OURS else BLACK)
    ax.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    for label, (name, _) in zip(ax.get_yticklabels(), ordered, strict=True):
        label.set_fontweight("bold" if name.startswith(MINE) else "normal")
    log_axis(ax.xaxis)
    values = [value for _, value in ordered] or [1.0]
    ax.set_xlim(min(values) / 2, max(values) * 12)
    ax.set_ylim(-0.6, len(ordered) - 0.4)
    ax.set_xlabel(unit)


# --------------------------------------------------------------------------------------------------------------- sweeps


def sweep(found: Found) -> Any:
    mine = [row for row in found["sweep"] if row["name"].endswith("useful time") and row["value"] is not None]
    worst = min(mine, key=lambda row: row["value"])
    fig, axes = figure(
        f"On {worst['conditions']['workers']} workers at S3's latency at least {worst['value']:.0f} % of the time is in tasks",
        height=0.9 + 0.38 * len(mine),
    )  # fmt: skip
    ax = axes[0, 0]
    for y, row in enumerate(reversed(mine)):
        ax.barh(y, row["value"], height=0.6, color=OURS)
        note_on(ax, row["value"], y, f"{row['value']:.1f} %", OURS)
        if row["budget"]:
            least = float(row["budget"].removeprefix("≥ "))
            ax.plot([least, least], [y - 0.4, y + 0.4], color=BLACK, linewidth=2)
            note_on(ax, least, y + 0.42, "promised", BLACK, xytext=(0, 4), ha="center", va="bottom", fontsize=8)
    ax.set_yticks(range(len(mine)), [_load(row) for row in reversed(mine)])
    ax.set_xlim(0, 112)
    ax.set_ylim(-0.6, len(mine) - 0.1)
    ax.set_xlabel("share of the workers' time that was spent in tasks, submitting and collecting included, %")
    return fig


def _load(row: dict[str, Any]) -> str:
    conditions = row["conditions"]
    return f"{conditions['n_tasks']:,} tasks, {conditions['task_s'] / conditions['n_tasks']:.2g} s on average"


def requests(found: Found) -> Any:
    per_task = chosen(found["scale"], measure="per_task", limits=None)
    ones = needed(per_task, task_s=1.0)
    workers, values = points(ones, "workers")
    fig, axes = figure(
        f"Requests a task: {values[0]:.1f} with {plain(workers[0])} workers, {values[-1]:.1f} with {plain(workers[-1])}; "
        "short tasks share theirs",
        1, 2,
    )  # fmt: skip
    left, right = axes[0]
    for task_s, colour in ((1.0, COLOURS[0]), (10.0, COLOURS[1])):
        x, y = points(needed(per_task, task_s=task_s), "workers")
        left.plot(x, y, "o-", color=colour)
        note_on(left, x[-1], y[-1], f"tasks of {task_s:g} s", colour)
    log_axis(left.xaxis)
    left.set_ylim(bottom=0)
    left.set_xlim(right=max(workers) * 5)
    left.set_xlabel("workers")
    left.set_ylabel("store requests a task, of all sides")
    ours = {
        (row["conditions"]["n_tasks"], row["conditions"]["task"]): row["conditions"].get("requests_a_task", 0.0)
        for row in reversed(chosen(found["throughput"], library=MINE, how="map", workers=2))
    }
    for task, colour in (("no-op", COLOURS[2]), ("1 ms", COLOURS[3])):
        line = sorted((n_tasks, value) for (n_tasks, name), value in ours.items() if name == task)
        right.plot([x for x, _ in line], [y for _, y in line], "o-", color=colour)
        if line:
            note_on(right, *line[-1], f"{task}", colour)
    log_axis(right.xaxis)
    right.set_ylim(bottom=0)
    right.set_xlim(8_000, 5 * max(n_tasks for n_tasks, _ in ours))
    right.set_xlabel("tasks")
    right.set_title("embedded store, 2 workers, map")
    left.set_title("simulated S3, one slot a worker")
    return fig


# ----------------------------------------------------------------------------------------------------------- contention


def contention(found: Found) -> Any:
    rows = found["contention"]
    most = max(row["conditions"]["claimers"] for row in rows)
    lost = {row["conditions"]["objects"]: row["value"] for row in chosen(rows, measure="lost", claimers=most)}
    few, many = min(lost), max(lost)
    fig, axes = figure(
        f"{most} claimers lose {lost[few]:.0%} of their races around {few:,} object{'s' * (few > 1)}, "
        f"{lost[many]:.0%} around {many:,}",
        1, 2,
    )  # fmt: skip
    for ax, measure, words in zip(axes[0], ("won", "lost"), ("claims won a second", "races lost, %"), strict=True):
        ends = []
        for objects, colour in zip(sorted(lost), COLOURS, strict=False):
            x, y = points(chosen(rows, measure=measure, objects=objects), "claimers")
            y = [100 * value for value in y] if measure == "lost" else y
            ax.plot(x, y, "o-", color=colour)
            ends.append((x[-1], y[-1], f"{objects:,} object{'s' * (objects > 1)}", colour))
        log_axis(ax.xaxis)
        ax.set_xticks(x)
        ax.set_xlim(right=most * 5)
        ax.set_xlabel("claimers that do nothing else")
        ax.set_ylabel(words)
        if measure == "won":
            log_axis(ax.yaxis)
        else:
            ax.set_ylim(0, 100)
        end_notes(ax, ends)
    return fig


# ---------------------------------------------------------------------------------------------------------------- scale


def scale(found: Found) -> Any:
    rows = found["scale"]
    far = needed(rows, extrapolated=True, task_s=1.0)
    reach = {
        row["conditions"]["measure"]: row["conditions"]["workers"] * limit / row["value"]
        for row, limit in (
            (row, WRITES_PER_S if row["conditions"]["measure"] == "writes" else READS_PER_S) for row in far
        )
    }
    fig, axes = figure(
        f"Tasks of 1 s: about {plain(round(min(reach.values()), -2))} workers reach the limit of one partition of S3",
        1,
        2,
    )
    for ax, task_s in zip(axes[0], (1.0, 10.0), strict=True):
        for measure, colour, limit in (("writes", COLOURS[1], WRITES_PER_S), ("reads", COLOURS[0], READS_PER_S)):
            x, y = points(chosen(rows, measure=measure, task_s=task_s, limits=None, extrapolated=None), "workers")
            beyond = points(chosen(rows, measure=measure, task_s=task_s, extrapolated=True), "workers")
            ax.plot(x, y, "o-", color=colour)
            ax.plot([x[-1], *beyond[0]], [y[-1], *beyond[1]], ":", color=colour)
            ax.axhline(limit, color=colour, linewidth=0.8)
            note_on(ax, x[0], limit, f"S3: {limit:,} {measure}", colour, xytext=(0, 5), fontsize=8)
            up = 12 if measure == "reads" else -12
            note_on(ax, x[-1], y[-1], measure, colour, xytext=(0, up), ha="center")
        log_axis(ax.xaxis)
        log_axis(ax.yaxis)
        ax.set_xlabel("workers (dotted: extrapolated)")
        ax.set_ylabel("requests a second")
        ax.set_title(f"tasks of {task_s:g} s")
    return fig


def _full(row: dict[str, Any]) -> float:
    """Return the number of workers at the full limits that a scaled fleet stands for."""
    return float(row["conditions"]["workers"] / row["conditions"]["limits"])


def useful(found: Found) -> Any:
    rows = found["scale"]
    limited = [row for row in needed(rows, measure="steady") if row["conditions"]["limits"]]
    if not limited:
        raise MissingRowsError("no fleet was limited")
    worst = min(limited, key=lambda row: row["value"])
    fig, axes = figure(
        f"Refused by S3, a fleet like {plain(_full(worst))} workers gets slower: {worst['value']:.0%} useful",
        1,
        2,
    )
    left, right = axes[0]
    ends = []
    for task_s, colour in ((1.0, COLOURS[0]), (10.0, COLOURS[2])):
        x, y = points(needed(rows, measure="steady", task_s=task_s, limits=None), "workers")
        left.plot(x, [100 * value for value in y], "o-", color=colour)
        ends.append((x[-1], 100 * y[-1], f"tasks of {task_s:g} s", colour))
    ordered = sorted(limited, key=_full)
    x, y = [_full(row) for row in ordered], [row["value"] for row in ordered]
    left.plot(x, [100 * value for value in y], "s--", color=COLOURS[1])
    ends.append((x[-1], 100 * y[-1], "1 s, refused*", COLOURS[1]))
    log_axis(left.xaxis)
    left.set_xlim(right=max(x) * 8)
    left.set_ylim(0, 104)
    left.set_xlabel("workers (*: a share of them at that share of S3's limits)")
    left.set_ylabel("useful time in the middle of a run, %")
    end_notes(left, ends)
    n_workers, share = (worst["conditions"][name] for name in ("workers", "limits"))
    seconds = needed(rows, measure="over_time", workers=n_workers, limits=share)
    for kind, colour in (("reads", COLOURS[0]), ("writes", COLOURS[1]), ("refused", BLACK)):
        y = [row["conditions"][kind] for row in seconds]
        right.plot(range(len(y)), y, color=colour)
        at = max(range(len(y) // 4, len(y)), key=y.__getitem__)
        note_on(right, at, y[at], kind, colour, xytext=(0, 8), ha="center")
    right.set_title(f"{n_workers:,} workers, tasks of 1 s, S3 at {share:g} of its limits")
    right.set_ylim(bottom=0)
    right.set_xlabel("seconds since the first submit")
    right.set_ylabel("requests a second")
    return fig


# ------------------------------------------------------------------------------------------------- latency and transfer


def latency(found: Found) -> Any:
    mine = [row for row in found["latency"] if row["value"] is not None and row["unit"] == "ms"]
    trips = [row for row in mine if row["name"].endswith("round trip") and "ProcessPool" not in row["name"]]
    fig, axes = figure(
        "One call and its result: " + ", ".join(f"{row['value']:.3g} ms {_where(row)}" for row in trips),
        height=0.9 + 0.38 * len(mine),
    )
    ax = axes[0, 0]
    for y, row in enumerate(reversed(mine)):
        colour = OURS if "ProcessPool" not in row["name"] else GREY
        ax.plot([row["p50"], row["p99"]], [y, y], color=colour, linewidth=1.5)
        for mark, share in (("o", "p50"), ("|", "p90"), ("|", "p99")):
            ax.plot([row[share]], [y], mark, color=colour, markersize=7)
        note_on(ax, row["p99"], y, f"{row['p50']:.3g} / {row['p90']:.3g} / {row['p99']:.3g}", colour)
    ax.set_yticks(range(len(mine)), [row["name"] for row in reversed(mine)])
    log_axis(ax.xaxis)
    ax.set_xlim(right=max(row["p99"] for row in mine) * 12)
    ax.set_xlabel("milliseconds: median (dot), 90 and 99 in a hundred (ticks)")
    return fig


def _where(row: dict[str, Any]) -> str:
    where = row["name"].partition(":")[0]
    return f"({where})"


def transfer(found: Found) -> Any:
    mine = chosen(found["transfer"], measure="ratio")
    worst = max(mine, key=lambda row: row["value"])
    over = [row for row in mine if row["value"] > 4]
    fig, axes = figure(
        f"Bytes moved a byte needed: {min(row['value'] for row in mine):.1f} at best, "
        + (f"{worst['value']:.0f} where tasks share an argument" if over else "never more than 4"),
        height=0.9 + 0.38 * len(mine),
    )
    ax = axes[0, 0]
    for y, row in enumerate(reversed(mine)):
        colour = COLOURS[1] if row["value"] > 4 else OURS
        ax.plot([row["value"]], [y], "o", color=colour, markersize=8)
        note_on(ax, row["value"], y, plain(row["value"]), colour)
    for at, words in ((2, "least possible"), (4, "promised")):
        ax.axvline(at, color=BLACK, linewidth=0.8)
        note_on(ax, at, len(mine) - 0.5, words, BLACK, xytext=(3, 0), fontsize=8)
    ax.set_yticks(range(len(mine)), [row["conditions"]["case"] for row in reversed(mine)])
    log_axis(ax.xaxis)
    ax.set_xlim(1, max(worst["value"] * 3, 20))
    ax.set_ylim(-0.6, len(mine) - 0.1)
    ax.set_xlabel("bytes to and from the store for each byte of calls and outcomes")
    return fig


PLOTS: tuple[Callable[[Found], Any], ...] = (
    throughput, sweep, requests, contention, scale, useful, latency, transfer,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "results")
    folder = parser.parse_args().folder
    found = newest(folder)
    for plot in PLOTS:
        try:
            drawn = plot(found)
        except MissingRowsError as missing:
            print(f"{plot.__name__}: not drawn, {missing}")
            continue
        save(drawn, folder / plot.__name__)
        print(folder / f"{plot.__name__}.png")


if __name__ == "__main__":
    main()
