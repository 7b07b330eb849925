"""Measures the time and cost of starting many local workers, and their cost while they are idle.

    python benchmarks/startup.py [--quick] [--agents 50] [--store URL] [--idle SECONDS]

Starts one session with N agents of one slot and waits until each has written its first beat. CPU seconds are those of
all processes with the session's id in their arguments, without the client and the store. Memory is the sum of the proportional set sizes, which count a shared page once. Linux only.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments
from starburst_executor import Local, StarburstExecutor

_HZ = os.sysconf("SC_CLK_TCK")
_SETTLE_S = 10.0  # until the pause between polls has its maximum


def started_for(session_id: str) -> list[Path]:
    """Return the /proc folders of all processes with this id in their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and session_id.encode() in (folder / "cmdline").read_bytes():
                found.append(folder)
    return found


def cpu_s(folders: list[Path]) -> float:
    """Return the CPU seconds of these processes and of their ended children."""
    total = 0
    for folder in folders:
        with suppress(OSError):
            total += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / _HZ


def memory_mb(folders: list[Path]) -> float:
    """Return the sum of the proportional set sizes in MB."""
    total = 0
    for folder in folders:
        with suppress(OSError):
            lines = (folder / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def no_op() -> None:
    """Do nothing."""


def measure(store: str, n_agents: int, idle_s: float, rows: list[Row]) -> None:
    """Run one session and add a value to each row."""
    up, cpu, memory, idle = rows
    started = time.perf_counter()
    with StarburstExecutor(workers=n_agents, store=store, launcher=Local(agents=n_agents)) as executor:
        future = executor.submit(no_op)
        session = executor._engine.session  # noqa: SLF001 - no public way to count beats
        pause_s = 0.02 if store.startswith("sqlite") else 0.25
        while len(list(session.store.list(session.keys.workers))) < n_agents:
            time.sleep(pause_s)
        up.values.append(time.perf_counter() - started)
        future.result()
        session_id = session.session_id
        folders = started_for(session_id)
        cpu.values.append(cpu_s(folders))
        memory.values.append(memory_mb(folders))
        memory.note = f"{len(folders)} processes"
        if idle_s:
            time.sleep(_SETTLE_S)
            before, since = cpu_s(folders), time.perf_counter()
            time.sleep(idle_s)
            used = cpu_s(folders) - before
            idle.values.append(100 * used / (time.perf_counter() - since) / n_agents)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--store", help="an s3:// URL; without it the embedded store in a temporary folder")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds of the idle phase; 0 omits it")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    n_agents, n_times, idle_s = (8, 1, 2.0) if options.quick else (options.agents, options.repeat, options.idle)
    if not Path("/proc/self/stat").exists():
        print("needs /proc: skipped")
        return
    rows = [
        Row(f"until {n_agents} agents have beaten", "s", []),
        Row("CPU of all of them until then", "s", []),
        Row("memory of all of them then", "MB", []),
        Row("idle, each", "% core", []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n_times):
            measure(options.store or f"sqlite://{folder}/sessions", n_agents, idle_s if i == 0 else 0.0, rows)
    title = f"{n_agents} agents, {'S3' if options.store else 'embedded store'}"
    Run(__file__, options).table(title, [row for row in rows if row.values])


if __name__ == "__main__":
    main()
