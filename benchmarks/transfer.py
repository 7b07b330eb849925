"""Measures the bytes moved to and from the store for each byte of calls and outcomes.

    python benchmarks/transfer.py [--quick] [--out FOLDER]

Two local workers with the embedded store: the bytes moved are the same on S3, and no network is used. Each byte of an
argument moves twice, out of the client and into the worker, and so does each byte of a result: 2 is the minimum. Of an
argument that all tasks share, only the distinct bytes count as needed.
Listings and headers are not counted.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments, cpu_seconds
from starburst_executor import StarburstExecutor

MB, GB = 10**6, 10**9
BUDGET = "≤ 4"


def make_bytes(n_bytes: int) -> bytes:
    # Random, so that compression would show. There is none.
    return bytes(range(256)) * (n_bytes // 256)


def length_of(data: Any) -> int:
    return int(getattr(data, "nbytes", 0)) or len(data)


def length_of_shared(data: Any, _: int) -> int:
    return length_of(data)


def make_array(n_bytes: int) -> Any:
    import numpy as np

    return np.arange(n_bytes // 8, dtype=np.float64)


@dataclass(frozen=True)
class Case:
    """One kind of transfer.

    Attributes:
        calls: Function and arguments of each call.
        needed: Distinct bytes of calls and outcomes.
        is_right: Whether a result is what it should be.
        n_ahead: The number of tasks in progress, so that the client need not hold all results.
    """

    name: str
    n_tasks: int
    calls: Callable[[], Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]]
    needed: int
    is_right: Callable[[Any], bool]
    n_workers: int = 2
    n_ahead: int = 1_000_000
    note: str = ""


def same(function: Callable[..., Any], *args: Any, n: int) -> Callable[[], Iterator[tuple[Any, Any]]]:
    return lambda: ((function, args) for _ in range(n))


def numbered(function: Callable[..., Any], data: Any, n: int) -> Callable[[], Iterator[tuple[Any, Any]]]:
    return lambda: ((function, (data, i)) for i in range(n))


def big_results(quick: bool) -> Case:
    """Return the case of ten results of 1 GB, or of 100 MB where memory or disk is too small."""
    room = min(psutil.virtual_memory().available / 8, shutil.disk_usage(tempfile.gettempdir()).free / 30)
    size = 100 * MB if quick or room < GB else GB
    size -= size % 256
    n = 2 if quick else 10
    note = "" if quick or size > 900 * MB else "100 MB for want of memory or disk"
    return Case(
        f"{n} results of {size / MB:,.0f} MB", n, same(make_bytes, size, n=n), n * size, lambda r: len(r) == size,
        n_workers=1, n_ahead=1, note=note,
    )  # fmt: skip


def cases(*, quick: bool) -> Iterator[Case]:
    n = 100 if quick else 1_000
    size = MB - MB % 256
    yield Case(f"{n:,} results of 1 MB", n, same(make_bytes, size, n=n), n * size, lambda r: len(r) == size)
    yield big_results(quick)
    n = 20 if quick else 200
    data = make_bytes(MB)
    different = lambda: ((length_of, (data[: 999_000 + i],)) for i in range(n))  # noqa: E731
    yield Case(f"{n} arguments of 1 MB, each another", n, different, n * MB, lambda r: r >= 999_000)
    shared = make_bytes(10 * MB)
    yield Case(
        f"one argument of 10 MB that {n} tasks share", n, numbered(length_of_shared, shared, n), len(shared),
        lambda r: r == len(shared),
    )  # fmt: skip
    try:
        array = make_array(10 * MB)
    except ImportError:
        return
    yield Case(
        f"one numpy array of 10 MB that {n} tasks share", n, numbered(length_of_shared, array, n), array.nbytes,
        lambda r: r == array.nbytes,
    )  # fmt: skip
    yield Case(
        f"{n} numpy arrays of 10 MB as results", n, same(make_array, 10 * MB, n=n), n * 10 * MB,
        lambda r: r.nbytes == 10 * MB, n_ahead=8,
    )  # fmt: skip


def measure(case: Case) -> list[Row]:
    """Run a case; return bytes moved over bytes needed, and needed bytes per second."""
    with tempfile.TemporaryDirectory() as folder, cpu_seconds() as cpu:
        with StarburstExecutor(workers=case.n_workers, store=f"sqlite://{folder}/sessions") as executor:
            executor.submit(length_of, b"x").result()
            before = executor.requests()
            started = time.perf_counter()
            n_right = run_all(executor, case)
            seconds = time.perf_counter() - started
        requests = {kind: count - before.get(kind, 0) for kind, count in executor.requests().items()}
    if n_right != case.n_tasks:
        raise SystemExit(f"wrong results: right={n_right}, case={case.name}")
    moved = requests["bytes_in"] + requests["bytes_out"]
    conditions = {"case": case.name, "needed": case.needed, "moved": moved, "workers": case.n_workers}
    ratio = Row(f"bytes moved a byte: {case.name}", "times", [moved / case.needed], budget=BUDGET)
    ratio.conditions, ratio.requests, ratio.note = {**conditions, "measure": "ratio"}, requests, case.note
    ratio.note += f"{', ' if case.note else ''}{moved / MB:,.0f} MB for {case.needed / MB:,.0f} MB"
    ratio.cpu_client_s, ratio.cpu_workers_s = cpu.client_s, cpu.workers_s
    rate = Row(f"needed bytes a second: {case.name}", "MB/s", [case.needed / MB / seconds])
    rate.conditions = {**conditions, "measure": "rate"}
    rate.note = f"{seconds:.1f} s"
    return [ratio, rate]


def run_all(executor: StarburstExecutor, case: Case) -> int:
    """Submit every call, at most `n_ahead` ahead of the results; return the number of correct results."""
    n_right, ahead = 0, []
    for function, args in case.calls():
        ahead.append(executor.submit(function, *args))
        if len(ahead) >= case.n_ahead:
            n_right += case.is_right(ahead.pop(0).result())
    while ahead:
        n_right += case.is_right(ahead.pop(0).result())
    return n_right


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    for case in cases(quick=run.quick):
        run.table(case.name, measure(case))


if __name__ == "__main__":
    main()
