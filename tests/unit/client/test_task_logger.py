"""Records of tasks in the client's `logging`: its levels hold, names make no loggers, and user code may fail."""

from __future__ import annotations

import logging

import msgpack
import pytest

from starburst_executor.client.completing import FoundBlock
from starburst_executor.client.task_logs import TaskLogger, level_number
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.logged import Logged, encode_logged
from starburst_executor.protocol.spans.record import OutcomeBlock
from tests.support.session_rig import Rig

REF = StatusRef(0, 10, 4, 0)


def stored(rig: Rig, position: int, *records: Logged) -> FoundBlock:
    body = msgpack.packb((b"", b"", b"".join(map(encode_logged, records))))
    rig.objects.put(rig.keys.logs(REF.status_id, "w1.1-1"), body)
    block = OutcomeBlock(0, 4, 1, 1, "w1.1", b"", logs=((position, 1, 0, len(body)),))
    return FoundBlock(block, [], position, b"\1")


def test_levels_of_this_process_hold(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    entry = stored(rig, 2, *(Logged(level, name, "text", 1.0) for level in (20, 40) for name in ("loud", "quiet.part")))
    caplog.set_level(logging.ERROR, "quiet")
    caplog.set_level(logging.INFO, "loud")
    with rig.requests() as counts:
        TaskLogger(rig.session).ended(REF, [entry])
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("loud", "INFO"), ("loud", "ERROR"), ("quiet.part", "ERROR")
    ]  # fmt: skip
    assert {record.getMessage() for record in caplog.records} == {"[0-12] text"}
    assert counts == {"get": 1}


def test_names_of_tasks_make_no_loggers_and_a_text_is_no_format(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    entry = stored(rig, 0, *(Logged(40, f"made.up.{i}", "100 %s %(name)s", 1.0) for i in range(100)))
    before = set(logging.root.manager.loggerDict)
    TaskLogger(rig.session).ended(REF, [entry])
    assert set(logging.root.manager.loggerDict) == before
    assert caplog.records[-1].getMessage() == "[0-10] 100 %s %(name)s"


def test_a_filter_that_raises_and_records_that_are_missing_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: logging.LogRecord) -> bool:
        raise ValueError("in a filter")

    rig = Rig()
    entry = stored(rig, 0, Logged(40, "failing", "text", 1.0))
    logger = logging.getLogger("failing")
    logger.addFilter(fail)
    try:
        TaskLogger(rig.session).ended(REF, [entry])
    finally:
        logger.removeFilter(fail)
    assert "a record of a task was not logged: task=0-10: ValueError: in a filter" in caplog.text
    rig.objects.delete([rig.keys.logs(REF.status_id, "w1.1-1")])
    TaskLogger(rig.session).ended(REF, [entry])
    assert "records of tasks cannot be read" in caplog.text


def test_a_level_is_a_number_or_a_name() -> None:
    assert (level_number(None), level_number(25), level_number("info"), level_number("WARNING")) == (None, 25, 20, 30)
    with pytest.raises(ConfigError, match="task_logs='loud'"):
        level_number("loud")
