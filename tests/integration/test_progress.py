"""What tasks report of their progress while they run, and the bars of a client, on both stores with real workers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from starburst_executor import DetachedExecutor
from tests.sessions import agent_pids, detached, wait_until
from tests.support.aws_rig import run
from tests.support.moto_server import ROOT


def report_until(path: str) -> str:
    import os
    import time

    from starburst_executor import current_task

    task = current_task()
    assert task is not None
    task.progress(17, 50, "reading\nlines")
    while not os.path.exists(path):
        time.sleep(0.01)
    return "done"


def test_what_a_task_reports_is_seen_from_the_store_while_it_runs(
    store_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with detached(store_url, workers=1) as executor:
        future = executor.submit(report_until, str(tmp_path / "may-end"))
        reader = DetachedExecutor.reattach(executor.id, launcher="none")
        (task,) = wait_until(
            lambda: [task for worker in reader.status().members for task in worker.tasks if task.note and task.usage]
        )
        assert (task.id, task.done, task.total, task.text) == ("0-0", 17.0, 50.0, "reading lines")
        assert task.memory_bytes is not None
        assert reader.status().members[0].launcher_id == str(agent_pids(executor.url)[0])
        assert "34% (17 of 50) reading lines" in run("top", executor.url).stdout
        (line,) = run("top", executor.url, "--json").stdout.splitlines()
        (shown,) = json.loads(line)["running"]
        assert (shown["task"], shown["done"], shown["total"], shown["text"]) == ("0-0", 17.0, 50.0, "reading lines")
        assert "progress 0-0  34% (17 of 50) reading lines" in run("status", executor.url).stdout
        (tmp_path / "may-end").touch()
        assert future.result(timeout=60) == "done"
        wait_until(lambda: not any(worker.tasks for worker in reader.status().members))
        reader.detach()
        capfd.readouterr()
        assert len(executor.collect(wait=True, progress=True)) == 1
        assert [future.result() for future in executor.as_completed(progress=True)] == ["done"]
        assert list(executor.map(abs, [-1], progress=True)) == [1]
        assert capfd.readouterr() == ("", ""), "a bar in a pipe"
    executor.cleanup(force=True)


SCRIPT = """
import time
from starburst_executor import DetachedExecutor

def slow(x):
    time.sleep(0.05)
    if x == 3:
        raise ValueError(x)
    return x

with DetachedExecutor(workers=2) as executor:
    print("sum", sum(executor.map(slow, [1, 2] * 5, progress=True)))
    print("sum", sum(executor.map(slow, [1, 2] * 5, progress=True, buffersize=3)))
    [executor.submit(slow, x) for x in range(10)]
    print("good", sum(future.exception() is None for future in executor.as_completed(progress=True)))
    print("all", len(executor.collect(wait=True)))
executor.cleanup(force=True)
"""


def on_a_terminal(*command: str) -> str:
    """Run a program on a terminal of 200 columns; return what it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # Linux: the last process has closed the terminal
                break
            if not part:
                break
            shown += part
        assert process.wait() == 0, shown.decode()
    os.close(ours)
    return shown.decode()


def test_bars_on_a_terminal() -> None:
    shown = on_a_terminal(sys.executable, "-c", SCRIPT)
    lines = [line for line in shown.replace("\r", "\n").splitlines() if "%|" in line]
    ended = [line for line in lines if line.startswith("100%")]
    assert sum("10/10" in line for line in ended) >= 2
    assert sum("30/30" in line for line in ended) >= 2
    assert any("1 failed" in line for line in ended)
    assert any("running" in line for line in lines)
    assert any("1 worker" in line for line in lines)
    assert [line for line in shown.splitlines() if line.startswith(("sum", "good", "all"))] == [
        "sum 15", "sum 15", "good 29", "all 30"
    ]  # fmt: skip


def test_a_bar_in_a_notebook() -> None:
    code = (
        "from starburst_executor import StarburstExecutor\n"
        "with StarburstExecutor(workers=2) as executor:\n"
        "    total = sum(executor.map(abs, range(-10, 0), progress=True))\n"
        "print(total)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    text = "".join(output.get("text", "") for output in outputs)
    assert "55" in text
    assert "10/10" in text or any(
        "application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs
    )
