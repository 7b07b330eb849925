"""Measures the dashboard: pages of a million tasks, the memory of its process, and what five open tabs take from a run.

    python benchmarks/dashboard.py [--quick] [--out FOLDER] [--session URL]

Pages: a session of a million tasks, of which one in a thousand failed, is run on the embedded store, or an existing one is taken (`--session`).
A dashboard in a process of its own is asked for each kind of page, by a client that has just opened it. First pages read the store; later ones answer
from memory. The run: two workers, tasks of 2 ms of computing; five tabs (event streams that are read, one of each page) are open and closed by turns,
ten seconds each, in the same run. The rate of each stretch comes from the stored ends of its tasks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments
from starburst_executor import DetachedExecutor

ROOT = Path(__file__).parents[1]
# The most calls that are on their way while a session of many tasks is made.
AHEAD = 20_000
TABS = ("session", "tasks", "workers", "failures", "session")


def one_in_a_thousand_fails(i: int) -> int:
    if i % 1000 == 7:
        raise ValueError(f"no reading {i}")
    return i


def busy_2_ms(i: int) -> int:
    until = time.process_time() + 0.002
    while time.process_time() < until:
        pass
    return i


def made(store: str, n_tasks: int) -> str:
    """Run a session of this size to its end; return its URL."""
    with DetachedExecutor(workers=2, store=store) as executor:
        ahead: deque[Any] = deque()
        for i in range(n_tasks):
            ahead.append(executor.submit(one_in_a_thousand_fails, i))
            if len(ahead) > AHEAD:
                ahead.popleft().exception()
        for future in ahead:
            future.exception()
        return executor.url


class Served:
    """A dashboard in a process of its own, and a client that has its cookie."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.base = address.partition("?")[0]
        with urllib.request.urlopen(address) as answer:
            self._cookie = answer.headers["set-cookie"].partition(";")[0]

    def open(self, path: str) -> Any:
        """Ask for a page; the answer is to be closed."""
        request = urllib.request.Request(f"{self.base}{path}", headers={"Cookie": self._cookie})
        return urllib.request.urlopen(request, timeout=300)

    def seconds(self, path: str) -> tuple[float, str]:
        started = time.perf_counter()
        with self.open(path) as answer:
            text = answer.read().decode()
        return time.perf_counter() - started, text

    def cpu_s(self) -> float:
        """Return the processor time of the process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def peak_mb(self) -> float:
        """Return the most memory that the process ever had. Linux only."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+)", text)
        return int(match[1]) * 1024 / 1e6 if match else float("nan")


@contextmanager
def served(url: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "starburst_executor.cli", "dashboard", url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield Served(process, process.stdout.readline().strip())
        finally:
            process.terminate()


def pages(url: str, n_tasks: int) -> list[Row]:
    """Ask for every kind of page, the first time and again."""
    middle = f"/tasks?after=0.0:0-{n_tasks // 2}"
    kinds = {
        "overview": "",
        "tasks from the middle": middle,
        "failed tasks": "/tasks?state=failed",
        "the longest": "/tasks?sort=-seconds",
        "text": "/tasks?text=reading",
        "failures": "/failures",
        "one task": f"/t/0-{n_tasks // 2}",
    }
    first, later = Row("the first page", "s", [], budget="≤ 5"), Row("later pages", "s", [], budget="≤ 0.5")
    slowest: dict[str, float] = {}
    whole = Row("all columns read, for orders by duration", "s", [])
    with served(url) as dashboard:
        cpu_s = dashboard.cpu_s()
        seconds, _ = dashboard.seconds("")
        first.values.append(seconds)
        first.note = f"{dashboard.cpu_s() - cpu_s:.2f} s of processor time"
        started = time.perf_counter()
        for path in kinds.values():
            while "loads again by itself" in dashboard.seconds(path)[1]:
                pass
        whole.values.append(time.perf_counter() - started)
        cpu_s = dashboard.cpu_s()
        for _ in range(5):
            for name, path in kinds.items():
                seconds, _ = dashboard.seconds(path)
                later.values.append(seconds)
                slowest[name] = max(seconds, slowest.get(name, 0.0))
        later_cpu_s = (dashboard.cpu_s() - cpu_s) / len(later.values)
        memory = Row("the process's memory at its peak", "MB", [dashboard.peak_mb()], budget="≤ 100")
    name = max(slowest, key=lambda each: slowest[each])
    later.note = f"the slowest: {name}, {slowest[name]:.2f} s; {later_cpu_s:.3f} s of processor time each"
    for row in (first, later, whole, memory):
        row.conditions = {"n_tasks": n_tasks}
    return [first, later, whole, memory]


class Tabs:
    """Five open tabs: streams of events that are read as they come."""

    def __init__(self, dashboard: Served) -> None:
        self._dashboard = dashboard
        self._stop = threading.Event()
        self.sizes: list[int] = []
        self._threads = [threading.Thread(target=self._read, args=(page,)) for page in TABS]

    def __enter__(self) -> Tabs:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self, page: str) -> None:
        with self._dashboard.open(f"/events?page={page}") as stream:
            size = 0
            for line in stream:
                size += len(line)
                if not line.strip():
                    self.sizes.append(size)
                    size = 0
                if self._stop.is_set():
                    return


def rates(store: str, stretch_s: float, n_stretches: int, n_tasks: int) -> list[Row]:
    """Open and close tabs by turns while two workers run tasks."""
    stretches: list[tuple[bool, float, float]] = []
    sizes: list[int] = []
    cpu: list[float] = []
    executor = DetachedExecutor(workers=2, store=store)
    for i in range(n_tasks):
        executor.submit(busy_2_ms, i)
    executor.flush()
    with served(executor.url) as dashboard:
        dashboard.seconds("")
        time.sleep(2.0)
        for number in range(n_stretches):
            has_tabs = bool(number % 2)
            with ExitStack() as stack:
                if has_tabs:
                    tabs = stack.enter_context(Tabs(dashboard))
                    sizes = tabs.sizes
                started, cpu_s = time.time(), dashboard.cpu_s()
                time.sleep(stretch_s)
                stretches.append((has_tabs, started, time.time()))
                if has_tabs:
                    cpu.append((dashboard.cpu_s() - cpu_s) / stretch_s)
    ends = sorted(record.ended_at for record in executor.timeline() if record.ended_at is not None)
    left = n_tasks - len(ends)
    executor.cleanup(force=True)
    rows = {True: Row("with five tabs", "tasks/s", []), False: Row("without", "tasks/s", [])}
    for has_tabs, started, ended in stretches:
        n = sum(started <= at < ended for at in ends)
        rows[has_tabs].values.append(n / (ended - started))
    ratio = Row("rate with tabs / without", "", [sum(rows[True].values) / sum(rows[False].values)], budget="≥ 0.95")
    ratio.note = f"{len(stretches)} stretches of {stretch_s:g} s, {left:,} tasks were left"
    update = Row("an update of a tab", "bytes", [float(size) for size in sizes], budget="≤ 4,096")
    used = Row("processor time of the dashboard with five tabs", "s/s", cpu)
    return [rows[False], rows[True], ratio, used, update]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--session", help="the URL of a session whose pages are measured, instead of making one")
    options = parser.parse_args()
    run = Run(__file__, options)
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite://{folder}/sessions"
        n_tasks = 20_000 if run.quick else 1_000_000
        url = options.session or made(store, n_tasks)
        if options.session:
            n_tasks = _count(url)
        run.table(f"pages of {n_tasks:,} tasks", pages(url, n_tasks))
        if not options.session:
            DetachedExecutor.reattach(url, launcher="none").cleanup(force=True)
        stretch_s, n_stretches = (3.0, 2) if run.quick else (10.0, 8)
        n_run = 8_000 if run.quick else 90_000
        run.table("a run of two workers, tasks of 2 ms", rates(store, stretch_s, n_stretches, n_run))


def _count(url: str) -> int:
    command = [sys.executable, "-m", "starburst_executor.cli", "status", url, "--json"]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["total"])


if __name__ == "__main__":
    main()
