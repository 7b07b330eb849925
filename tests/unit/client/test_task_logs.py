"""The output of tasks in rounds: each line once, also after an explicit retry, and not one record a task for ever."""

from __future__ import annotations

from dataclasses import replace

import msgpack

from starburst_executor.client.logs import TaskLogs
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import State, Status
from starburst_executor.session.statuses import ListedStatus
from tests.support.session_rig import Rig
from tests.support.spans import ends, with_spans


def listed(rig: Rig, key: str) -> ListedStatus:
    return next(line for line in rig.session.statuses.all() if line.key == key)


def end_with_output(rig: Rig, key: str, *tasks: int) -> None:
    """The tasks at these places of a status object end, and each has printed a line."""
    ref = listed(rig, key).ref

    def step(seen: Status) -> Status:
        for i in tasks:
            run, claim = seen.entry(i).run, f"w.{i}"
            body: bytes = msgpack.packb((f"task {ref.first + i}, run {run}\n".encode(), b""))
            rig.objects.put(rig.keys.logs(ref.status_id, f"{claim}-{run}"), body)
            seen = with_spans(seen, [i], state=State.CLAIMED, claim=claim)
            (block,) = ends(rig.sealer, seen, [i], b"V")
            seen, _ = transitions.commit(seen, claim, [block._replace(logs=((0, run, 0, len(body)),))], 0.0)
        return seen

    rig.write(key, step)


def retry(rig: Rig, key: str, *tasks: int) -> None:
    def step(seen: Status) -> Status:
        for i in tasks:
            seen = with_spans(seen, [i], state=State.PENDING, claim="", run=seen.entry(i).run + 1)
        return replace(seen, outcomes=tuple(block for block in seen.outcomes if block.first not in tasks))

    rig.write(key, step)


def texts(logs: TaskLogs) -> list[str]:
    return [line.text for line in logs.fresh()]


def test_each_line_comes_once_in_whatever_rounds_the_tasks_end() -> None:
    rig = Rig()
    key, logs = rig.submit(3), TaskLogs(rig.session)
    assert texts(logs) == []
    end_with_output(rig, key, 1)
    assert texts(logs) == ["task 1, run 1"]
    assert texts(logs) == []
    end_with_output(rig, key, 0, 2)
    assert texts(logs) == ["task 0, run 1", "task 2, run 1"]
    assert texts(logs) == []


def test_a_retry_of_some_prints_these_and_no_others_again() -> None:
    rig = Rig()
    key, logs = rig.submit(3), TaskLogs(rig.session)
    end_with_output(rig, key, 0, 1, 2)
    assert len(texts(logs)) == 3
    retry(rig, key, 1)
    assert texts(logs) == []
    end_with_output(rig, key, 1)
    assert texts(logs) == ["task 1, run 2"]
    retry(rig, key, 0, 1)
    end_with_output(rig, key, 1)
    assert texts(logs) == ["task 1, run 3"]
    end_with_output(rig, key, 0)
    assert texts(logs) == ["task 0, run 2"]


def test_of_tasks_that_have_ended_no_record_stays_and_of_objects_that_are_gone_none() -> None:
    rig, logs = Rig(), None
    keys = [rig.submit(100, first=100 * n) for n in range(5)]
    logs = TaskLogs(rig.session)
    for key in keys:
        end_with_output(rig, key, *range(100))
    assert len(texts(logs)) == 500
    assert [len(printed.runs) for printed in logs._printed.values()] == [0] * 5
    for key in keys[1:]:
        rig.objects.delete([key])
    assert texts(logs) == []
    assert list(logs._printed) == keys[:1]


def test_of_one_task_alone_only_its_lines_come() -> None:
    rig = Rig()
    key, logs = rig.submit(3, first=7), TaskLogs(rig.session, "0-8")
    end_with_output(rig, key, 0, 1, 2)
    assert texts(logs) == ["task 8, run 1"]
    assert texts(logs) == []
