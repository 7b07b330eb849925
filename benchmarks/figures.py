"""Writes the figures of a folder of results into the page that explains them.

    python benchmarks/figures.py [FOLDER]

`docs/explanation/performance.md` has places for tables, `<!-- figures: NAME -->` to `<!-- end of figures -->`; the
text between them is replaced. Whether a budget is met is computed from the rows.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._results import Found, MissingRowsError, chosen, is_ratio, needed, newest

PAGE = Path(__file__).parents[1] / "docs/explanation/performance.md"
PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def is_met(budget: str, value: float) -> bool:
    """Return whether a value meets a budget such as `≤ 2,000`. Raises: ValueError if the budget is malformed."""
    match = re.fullmatch(r"([≤≥]) ([\d,.]+)", budget)
    if match is None:
        raise ValueError(f"not a budget: {budget!r}")
    limit = float(match[2].replace(",", ""))
    return value <= limit if match[1] == "≤" else value >= limit


def figure(value: float | None) -> str:
    """Return a number with about three digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ("---",) * len(heads), *rows))


def budgets(found: Found) -> str:
    """Return the table of all rows that have a budget."""
    rows = []
    for name in sorted(found):
        for row in found[name]:
            if row["budget"]:
                value = row["value"]
                met = "not measured" if value is None else "yes" if is_met(row["budget"], value) else "**no**"
                # Fewer repetitions than the budget is meant for: neither met nor missed.
                met = "quick run" if row.get("quick") else met
                measured = f"{figure(value)} {row['unit']}"
                rows.append((f"`{name}`", row["name"], f"{row['budget']} {row['unit']}", measured, met))
    return table(("benchmark", "what", "budget", "measured", "met"), rows)


def rates(found: Found) -> str:
    """Return the table of tasks per second of each library, and of our rate over theirs."""
    rows = needed(found["throughput"], how="map", n_tasks=10_000)
    local = [row for row in rows if not is_ratio(row) and "S3" not in row["conditions"]["library"]]
    settings = [("no-op", 2), ("no-op", 8), ("1 ms", 2), ("1 ms", 8)]
    libraries = list(dict.fromkeys(row["conditions"]["library"] for row in local))
    lines = []
    for library in libraries:
        cells = []
        for task, workers in settings:
            # The first row is for the embedded store; rows for S3 come last.
            mine = chosen(local, library=library, task=task, workers=workers)[:1]
            cells.append(figure(mine[0]["value"]) if mine else "–")
        ratio = chosen(rows, ours_over=library, task="no-op", workers=2)
        lines.append((library, *cells, figure(ratio[0]["value"]) if ratio else ""))
    heads = tuple(f"{task}, {workers} workers" for task, workers in settings)
    return table(("tasks a second, `map`, 10,000 tasks", *heads, "ours over it (first column)"), lines)


def many(found: Found) -> str:
    """Return the table of no-op tasks by the hundred thousand and the million, each library's rate and ours over it."""
    rows = found["throughput"]
    settings = [("submit", 100_000), ("map", 100_000), ("map", 1_000_000)]
    of = [
        [row for row in needed(rows, task="no-op", workers=2, how=how, n_tasks=n_tasks) if row["unit"] != "µs"]
        for how, n_tasks in settings
    ]
    rates = [{row["conditions"]["library"]: row["value"] for row in mine if not is_ratio(row)} for mine in of]
    over = [{row["conditions"]["ours_over"]: row["value"] for row in mine if is_ratio(row)} for mine in of]
    lines = []
    for library in dict.fromkeys(name for mine in rates for name in mine):
        cells: list[str] = []
        for rate, ratio in zip(rates, over, strict=True):
            cells += (figure(rate.get(library)), figure(ratio[library]) if library in ratio else "")
        lines.append((library, *cells))
    heads = [text for how, n_tasks in settings for text in (f"{n_tasks:,}, `{how}`", "ours over it")]
    return table(("no-op tasks a second, 2 workers", *heads), lines)


def scale(found: Found) -> str:
    """Return the table of fleets in virtual time."""
    rows = found["scale"]
    lines = []
    for row in needed(rows, measure="steady"):
        fleet = {name: row["conditions"][name] for name in ("workers", "task_s", "limits")}
        values = {
            measure: next((one["value"] for one in chosen(rows, measure=measure, **fleet)), None)
            for measure in ("steady", "per_task", "writes", "reads", "refused")
        }
        lines.append(
            (
                f"{fleet['workers']:,}",
                f"{fleet['task_s']:g} s",
                f"{fleet['limits']:g} of them" if fleet["limits"] else "none",
                f"{100 * values['steady']:.0f} %",
                *(figure(values[measure]) for measure in ("per_task", "writes", "reads", "refused")),
            )
        )
    for row in chosen(rows, extrapolated=True, measure="writes"):
        fleet = {name: row["conditions"][name] for name in ("workers", "task_s")}
        reads = needed(rows, extrapolated=True, measure="reads", **fleet)[0]
        far = (f"{fleet['workers']:,}", f"{fleet['task_s']:g} s", "none; extrapolated", "–", "–")
        lines.append((*far, figure(row["value"]), figure(reads["value"]), "–"))
    heads = ("workers", "tasks of", "S3's limits", "useful", "requests a task", "writes/s", "reads/s", "refused/s")
    return table(heads, lines)


def conditions(found: Found) -> str:
    """Return the line on machine, versions and date."""
    rows = [row for name in found for row in found[name]]
    if not rows:
        raise MissingRowsError("no rows at all")
    machines = sorted({f"{row['machine']}, Python {row['python']}, version {row['version']}" for row in rows})
    dates = sorted({row["date"] for row in rows})
    return f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {'; '.join(machines)}.\n"


TABLES: dict[str, Callable[[Found], str]] = {
    "conditions": conditions,
    "budgets": budgets,
    "rates": rates,
    "many": many,
    "scale": scale,
}


def filled(text: str, found: Found) -> str:
    """Return the page with new tables; a table whose rows are missing stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        try:
            return f"{match[1]}\n{TABLES[match[2]](found)}\n{match[3]}"
        except MissingRowsError as missing:
            print(f"{match[2]}: left as it is, {missing}")
            return match[0]

    return PLACE.sub(replaced, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "results")
    found: Any = newest(parser.parse_args().folder)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
