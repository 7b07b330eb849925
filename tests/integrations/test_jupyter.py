"""A notebook, run by nbclient: functions of cells, an interrupt, a session that is left and found again, and how a status looks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

_FIRST = """
from starburst_executor import DetachedExecutor, StarburstExecutor
scale = 3
def scaled(x):
    return scale * x
ex = StarburstExecutor(workers=1)
print(list(ex.map(scaled, range(4))))
"""
_SECOND = """
scale = 10
print(list(ex.map(scaled, range(4))))
"""
_INTERRUPTED = """
import os, signal, threading, time
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
ex.submit(time.sleep, 600).result()
"""
_AFTER = """
try:
    print(ex.submit(abs, -1).done(), len(list(ex.map(abs, []))))
finally:
    ex.terminate_workers()
"""
_DETACHED = """
with DetachedExecutor(workers=1) as left:
    left.submit(scaled, 5)
found = DetachedExecutor.reattach(left.id)
print([outcome.value for outcome in found.collect(wait=True)])
status = found.status()
found.cleanup(force=True)
status
"""


def test_a_notebook_can_do_what_a_script_can(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in (_FIRST, _SECOND, _INTERRUPTED, _AFTER, _DETACHED)]
    )
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}})

    async def run() -> None:
        async with client.async_setup_kernel():
            for number, cell in enumerate(notebook.cells):
                if cell.source == _INTERRUPTED:
                    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
                        await client.async_execute_cell(cell, number)
                else:
                    await client.async_execute_cell(cell, number)

    asyncio.run(run())
    texts = ["".join(one.get("text", "") for one in cell.outputs) for cell in notebook.cells]
    assert "[0, 3, 6, 9]" in texts[0]
    assert "[0, 10, 20, 30]" in texts[1]
    assert "0" in texts[3]
    assert "[50]" in texts[4]
    [shown] = [one for one in notebook.cells[4].outputs if one.output_type == "execute_result"]
    assert "<table" in shown["data"]["text/html"]
    assert "completed" in shown["data"]["text/plain"]
