"""What tasks write and log reaches the client, on both stores with real workers."""

from __future__ import annotations

import logging
from concurrent.futures import InvalidStateError
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, SessionNotFound, StarburstExecutor, TaskCrashed
from tests.sessions import detached, timings_for, wait_until
from tests.support.aws_rig import run


def talk(x: int) -> int:
    import logging
    import os
    import sys
    import warnings

    log = logging.getLogger("my.library")
    log.info("opened %s", {"file": x})
    log.debug("not wanted")
    warnings.warn("old", stacklevel=1)
    print("on", x)
    print("err", x, file=sys.stderr)
    if x == 1:
        try:
            raise KeyError("why")
        except KeyError:
            log.exception("it failed")
    if x == 2:
        log.critical("last words")
        os._exit(1)
    return x


def wait_for_file(path: str) -> None:
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


def of_tasks(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """The records that came from tasks since the last call."""
    found = [(r.task, r.levelname, r.getMessage()) for r in caplog.records if hasattr(r, "task")]
    caplog.clear()
    return found


def test_records_of_tasks_reach_every_client(store_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with detached(store_url, workers=1, task_logs="info") as executor:
        assert executor.submit(talk, 0).result() == 0
        (record, *_) = [record for record in caplog.records if hasattr(record, "task")]
        assert (record.name, record.levelno, record.funcName) == ("my.library", logging.INFO, "talk")
        assert record.session == executor.id
        assert record.worker == record.processName
        warned = ("0-0", "WARNING", "[0-0] UserWarning: old")
        assert of_tasks(caplog) == [("0-0", "INFO", "[0-0] opened {'file': 0}"), warned]
        second = executor.submit(talk, 1)
        assert second.result() == 1
        (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "KeyError: 'why'" in str(error.exc_text)
        with pytest.raises(TaskCrashed):
            executor.submit(talk, 2).result()
        assert ("0-2", "CRITICAL", "[0-2] last words") in of_tasks(caplog)
        # What they print did not change.
        assert second.log().startswith("on 1\n")
        assert "err 1\n" in executor.output(second)[1]
        executor.submit(wait_for_file, str(tmp_path / "may-end"))
        running = executor.futures[3]
        wait_until(running.running)
        with pytest.raises(InvalidStateError, match="has not ended"):
            running.log()
        (tmp_path / "may-end").touch()
        running.result()
        assert running.log() == ""
    assert second.log().startswith("on 1\n"), "after the client has left"
    caplog.clear()
    again = DetachedExecutor.reattach(executor.id)
    assert len(again.collect(wait=True)) == 4
    assert [task for task, level, _ in of_tasks(caplog) if level == "INFO"] == ["0-0", "0-1", "0-2"]
    printed = run("logs", executor.url, "--search", "my.library")
    assert "[0-1] INFO:my.library:opened {'file': 1}" in printed.stderr
    again.cleanup(force=True)
    with pytest.raises(SessionNotFound):
        second.log()


def test_nothing_is_recorded_unless_asked_for(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        future = executor.submit(talk, 0)
        assert future.result() == 0
        assert future.log().startswith("on 0\n")
    assert of_tasks(caplog) == []
    with pytest.raises(SessionNotFound):
        future.log()
