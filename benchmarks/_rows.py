"""The output of every benchmark: a table for people, and one line of JSON per row for programs.

    parser = arguments(__doc__)                            # --quick, --out FOLDER; add more if the question needs them
    run = Run(__file__, parser.parse_args())
    with cpu_seconds() as cpu:
        …
    run.table("what this is", [Row("no-ops", "tasks/s", values, requests=…, conditions={"n_tasks": 10_000})])

The table goes to the standard output. With `--out` it also goes to `FOLDER/<name>-<date>.txt`, and the rows to
`FOLDER/<name>-<date>.jsonl`, from which plots are drawn. Each table is written as soon as it is complete, so that a run
that breaks off leaves its measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from starburst_executor import __version__

__all__ = ["KINDS", "Cpu", "Row", "Run", "arguments", "cost_usd", "cpu_seconds", "n_requests"]

# The kinds of requests that cost money; the other counters are of bytes, retries and races.
KINDS = ("get", "not_modified", "list", "create", "swap", "put", "delete")
# Dollars for 1,000 requests, us-east-1, from the public S3 price list of 2026: a refused request or an empty answer costs the same.
_PRICES = {"get": 0.0004, "not_modified": 0.0004, "list": 0.005, "create": 0.005, "swap": 0.005, "put": 0.005}


def n_requests(counts: Mapping[str, int]) -> int:
    """Return the number of requests in these counters."""
    return sum(counts.get(kind, 0) for kind in KINDS)


def cost_usd(counts: Mapping[str, int]) -> float:
    """Return Amazon's price of these requests in dollars; deleting is free."""
    return sum(counts.get(kind, 0) * price for kind, price in _PRICES.items()) / 1000


@dataclass
class Cpu:
    """CPU seconds between two moments: of this process, and of all processes that descend from it."""

    client_s: float = 0.0
    workers_s: float = 0.0


@contextmanager
def cpu_seconds(*, exclude: Collection[int] = ()) -> Iterator[Cpu]:
    """Measure the block; the value has the result after the block.

    Args:
        exclude: Processes that do not count, with their children, such as the benchmark's own store.
    """
    before = _cpu(exclude)
    used = Cpu()
    yield used
    after = _cpu(exclude)
    used.client_s, used.workers_s = after.client_s - before.client_s, after.workers_s - before.workers_s


def _cpu(exclude: Collection[int]) -> Cpu:
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    me = psutil.Process()
    running = sum(map(_cpu_of, me.children(recursive=True)))
    for pid in exclude:
        with suppress(psutil.NoSuchProcess):
            other = psutil.Process(pid)
            running -= _cpu_of(other) + sum(map(_cpu_of, other.children(recursive=True)))
    return Cpu(own.ru_utime + own.ru_stime, ended.ru_utime + ended.ru_stime + running)


def _cpu_of(process: psutil.Process) -> float:
    """Return the CPU time of one process and its ended children; 0 if it ended just now."""
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


@dataclass
class Row:
    """One measured figure: its repetitions, their requests and CPU time, and the conditions.

    Attributes:
        values: One for each repetition or trip; none if it could not be measured, with the reason in `note`.
        requests: To the store, by kind, from all processes, of the one repetition that `note` describes.
        conditions: The parameters, such as `n_tasks` and `workers`, which are a plot's axes.
        budget: The limit for the value, such as `≤ 5`; empty if there is none.
    """

    name: str
    unit: str
    values: list[float]
    requests: dict[str, int] = field(default_factory=dict)
    cpu_client_s: float = 0.0
    cpu_workers_s: float = 0.0
    cpu_store_s: float = 0.0
    conditions: dict[str, Any] = field(default_factory=dict)
    budget: str = ""
    note: str = ""

    def percentile(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def as_json(self, *, quick: bool = False) -> str:
        measured = bool(self.values)
        p50, p90, p99 = (self.percentile(share) if measured else None for share in (0.5, 0.9, 0.99))
        return json.dumps(
            {
                "name": self.name,
                "value": p50,
                "unit": self.unit,
                "n": len(self.values),
                "p50": p50,
                "p90": p90,
                "p99": p99,
                "min": min(self.values) if measured else None,
                "max": max(self.values) if measured else None,
                "budget": self.budget,
                "quick": quick,
                "requests": self.requests,
                "n_requests": n_requests(self.requests),
                "cpu_client_s": round(self.cpu_client_s, 3),
                "cpu_workers_s": round(self.cpu_workers_s, 3),
                "cpu_store_s": round(self.cpu_store_s, 3),
                "conditions": self.conditions,
                "note": self.note,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
                "python": platform.python_version(),
                "date": _today(),
                "version": __version__,
            },
            ensure_ascii=False,
        )


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions: shows whether it works, not how fast it is"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write <name>-<date>.txt and .jsonl there as well")
    return parser


class Run:
    """One run of a benchmark.

    Args:
        file: The benchmark's `__file__`, whose stem is the run's name.
        options: As parsed by `arguments`.
    """

    def __init__(self, file: str, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self._stem: Path | None = None
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            self._stem = options.out / f"{Path(file).stem}-{_today()}"
            for suffix in (".txt", ".jsonl"):
                Path(f"{self._stem}{suffix}").write_text("", encoding="utf-8")

    def table(self, title: str, rows: list[Row]) -> None:
        """Print rows, and write them to the folder of `--out`."""
        table = _table(title, rows)
        print(table, flush=True)
        if self._stem is not None:
            self._append(".txt", table + "\n")
        self.rows(rows)

    def rows(self, rows: list[Row]) -> None:
        """Write rows for programs only: a plot's rows that would make a long table."""
        if self._stem is not None:
            self._append(".jsonl", "".join(row.as_json(quick=self.quick) + "\n" for row in rows))

    def _append(self, suffix: str, text: str) -> None:
        with Path(f"{self._stem}{suffix}").open("a", encoding="utf-8") as file:
            file.write(text)


def _table(title: str, rows: list[Row]) -> str:
    heads = ("", "p50", "p90", "p99", "min", "unit", "n", "budget", "requests", "CPU s: client", "workers", "store", "")
    lines = [heads, *map(_cells, rows)]
    shown = [i for i in range(len(heads)) if any(line[i] for line in lines[1:])]
    widths = {i: max(len(line[i]) for line in lines) for i in shown}
    is_left = {0, heads.index("unit"), len(heads) - 1}
    text = ["  ".join(f"{line[i]:{'<' if i in is_left else '>'}{widths[i]}}" for i in shown).rstrip() for line in lines]
    return "\n".join(["", title, "", *text])


def _cells(row: Row) -> tuple[str, ...]:
    is_many = len(row.values) > 1
    return (
        row.name,
        _figure(row.percentile(0.5)) if row.values else "–",
        _figure(row.percentile(0.9)) if is_many else "",
        _figure(row.percentile(0.99)) if is_many else "",
        _figure(min(row.values)) if is_many else "",
        row.unit,
        str(len(row.values)),
        row.budget,
        f"{n_requests(row.requests):,}" if row.requests else "",
        *(f"{cpu_s:.1f}" if cpu_s else "" for cpu_s in (row.cpu_client_s, row.cpu_workers_s, row.cpu_store_s)),
        row.note,
    )


def _figure(value: float) -> str:
    """Return a number with about four digits, for any magnitude."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
