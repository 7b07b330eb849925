"""Draws the picture of a run in the README: a client killed, a worker killed, another client that reattaches.

    python benchmarks/_picture.py docs/images/run.png

Nothing is simulated: the client, its three workers and their runners are processes of this machine, the deaths are
SIGKILL, and each bar is drawn from the lines that one runner wrote when a task began and ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import _plotting  # noqa: E402 - found through the path above

N_TASKS = 60
CLIENT_DIES_S, WORKER_DIES_S, REATTACHED_S = 2.0, 4.0, 6.5
LOST_COLOUR = _plotting.COLOURS[1]

SUBMIT = """
import json, os, sys, time
from starburst_executor import DetachedExecutor, Local

def work(number, notes):
    def note(**facts):
        with open(notes, "a") as file:
            file.write(json.dumps({"pid": os.getpid(), "at": time.time(), "task": number, **facts}) + "\\n")
    note(agent=[int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1]) for pid in [os.getppid()]][0])
    time.sleep(0.25 + number * 37 % 11 / 10)
    note(ended=True)
    return number

ex = DetachedExecutor(workers=6, launcher=Local(agents=3))
for number in range(int(sys.argv[2])):
    ex.submit(work, number, sys.argv[1])
ex.flush()
print(ex.id, flush=True)
time.sleep(60)
"""
COLLECT = """
import sys
from starburst_executor import DetachedExecutor
ex = DetachedExecutor.reattach(sys.argv[1])
numbers = [future.result() for future in ex.futures]
assert numbers == list(range(len(numbers))), numbers
ex.cleanup(force=True)
print(len(numbers))
"""


@dataclass
class Bar:
    """One attempt of a task on one runner; times in seconds since the first task began."""

    pid: int
    agent: int
    task: int
    began_s: float
    ended_s: float | None = None


def run(folder: Path) -> tuple[list[Bar], dict[str, float], int]:
    """Make one run; return its bars, the times of its events, and the process id of the killed worker."""
    notes = folder / "notes"
    notes.touch()
    environment = {**os.environ, "STARBURST_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}

    def python(code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )

    client = python(SUBMIT, str(notes), str(N_TASKS))
    assert client.stdout is not None
    session_id = client.stdout.readline().strip()
    while not bars_of(notes):
        time.sleep(0.01)
    start = min(bar.began_s for bar in bars_of(notes))
    time.sleep(max(0.0, start + CLIENT_DIES_S - time.time()))
    client.kill()
    happened = {"client": time.time() - start}
    time.sleep(max(0.0, start + WORKER_DIES_S - time.time()))
    victim = sorted({bar.agent for bar in bars_of(notes)})[1]
    os.kill(victim, signal.SIGKILL)
    happened["worker"] = time.time() - start
    time.sleep(max(0.0, start + REATTACHED_S - time.time()))
    happened["reattached"] = time.time() - start
    collected, _ = python(COLLECT, session_id).communicate(timeout=120)
    happened["all"] = time.time() - start
    assert collected.strip() == str(N_TASKS), collected
    bars = bars_of(notes)
    for bar in bars:
        bar.began_s -= start
        bar.ended_s = None if bar.ended_s is None else bar.ended_s - start
    return bars, happened, victim


def bars_of(notes: Path) -> list[Bar]:
    """The attempts noted so far, in the order in which they began."""
    bars: list[Bar] = []
    for line in notes.read_text(encoding="utf-8").splitlines():
        fact = json.loads(line)
        if "ended" in fact:
            next(bar for bar in bars if (bar.pid, bar.task) == (fact["pid"], fact["task"])).ended_s = fact["at"]
        else:
            bars.append(Bar(fact["pid"], fact["agent"], fact["task"], fact["at"]))
    return bars


def draw(bars: list[Bar], happened: dict[str, float], victim: int, file: Path) -> None:
    agents = list(dict.fromkeys(bar.agent for bar in sorted(bars, key=lambda bar: bar.began_s)))
    rows: dict[int, float] = {}
    labels: dict[float, str] = {}
    y = 0.0
    for i, agent in enumerate(agents):
        pids = list(dict.fromkeys(bar.pid for bar in bars if bar.agent == agent))
        labels[y + (len(pids) - 1) / 2] = f"worker {i + 1}" + (" (killed)" if agent == victim else "")
        for pid in pids:
            rows[pid] = y
            y += 1
        y += 0.5
    fig, axes = _plotting.figure(f"{N_TASKS} tasks; a client and a worker are killed; every result arrives", height=3.2)
    ax = axes.flat[0]
    n_lost = 0
    for bar in bars:
        is_lost = bar.ended_s is None
        n_lost += is_lost
        ended_s = happened["worker"] if bar.ended_s is None else bar.ended_s
        ax.barh(
            rows[bar.pid], ended_s - bar.began_s, left=bar.began_s, height=0.8, zorder=2,
            color="white" if is_lost else _plotting.OURS, edgecolor=LOST_COLOUR if is_lost else "white",
            hatch="////" if is_lost else None, linewidth=1,
        )  # fmt: skip
    last_s = max(bar.ended_s or 0.0 for bar in bars)
    moments = {
        "client": "the client is killed;\nworkers go on",
        "worker": f"worker {agents.index(victim) + 1} is killed;\nits tasks run again",
        "reattached": "another process reattaches;\nnew workers start",
    }
    for name, words in moments.items():
        ax.axvline(happened[name], color=_plotting.BLACK, linewidth=1, linestyle="--", zorder=3)
        ax.annotate(words, (happened[name], -0.9), xytext=(4, 0), textcoords="offset points", fontsize=9, va="bottom")
    ax.set_yticks(list(labels), list(labels.values()))
    ax.set_ylim(y - 0.4, -2.4)
    ax.set_xlim(0, last_s * 1.02)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(f"seconds; a bar is one task on one process; hatched: {n_lost} tasks cut short, which ran again")
    file.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(file)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw(*run(Path(folder)), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
