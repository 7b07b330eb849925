"""Retries of tasks for which others wait, while a worker that has read them as failed is about to fail those others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from starburst_executor import config
from starburst_executor.client.engine import Engine
from starburst_executor.client.opening import Opened
from starburst_executor.config import SessionKey
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans import after, encoding, transitions
from starburst_executor.protocol.spans.after import AFTER, Upstream
from starburst_executor.protocol.spans.record import BLOCKED, ENDED, Span, State, Status
from starburst_executor.session.dependencies import Dependencies
from starburst_executor.testing.faulty import Asked
from tests.support.session_rig import KEY, Rig
from tests.support.spans import end, pending

ERROR = outcomes.dump_error(ValueError("no"))


class Stage:
    """A task that has failed, one that waits for it, one that waits for that; a client, and a worker that knows all three."""

    def __init__(self) -> None:
        self.rig = rig = Rig()
        self.refs = [StatusRef(0, i, 1, 0) for i in range(3)]
        self.keys = [rig.keys.status(ref) for ref in self.refs]
        for i, key in enumerate(self.keys):
            rig.objects.create(key, encoding.encode(self._record(i), "n"))
        self.worker = Dependencies(rig.another())
        self.turn()
        self.fail(0)
        settings = config.resolve(detached=True, store="sqlite:///unused", workers=1)
        opened = Opened(rig.session, rig.session.store, SessionKey(KEY))  # type: ignore[arg-type]  # the rig's, patient
        self.engine = Engine(opened, None, rig.clock, detached=True, ordinal=None, settings=settings)

    def _record(self, i: int) -> Status:
        record = pending(self.rig.sealer, [b"\x80"], first=i)
        if i == 0:
            return record
        place = self.keys[i - 1].removeprefix(self.rig.keys.statuses)
        more = {AFTER: after.encoded({0: [Upstream(place, 0)]})}
        return Status(0, i, record.functions, (Span(1, BLOCKED),), record.calls, more=more)

    def fail(self, i: int) -> None:
        def step(current: Status) -> Status:
            current, _ = transitions.claim(current, "w.1", at_most=1, now=1.0, max_losses=3)
            return end(self.rig.sealer, current, "w.1", [0], ERROR, failed=True)

        self.rig.write(self.keys[i], step)

    def turn(self) -> None:
        """The worker looks, and settles what it can."""
        statuses = self.rig.session.statuses
        self.worker.turn(statuses.of_epochs([(0, 0)]))

    def turn_twice(self) -> None:
        """The second task fails, then the third."""
        self.turn()
        self.turn()

    def retry(self) -> list[int]:
        """The client retries the first task; return the indices of those that run again."""
        return [future.index for future in self.engine.tasks.retry_failed(None, {(0, 0)})]

    def states(self) -> list[int]:
        return [self.rig.read(key).span(0).state for key in self.keys]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.engine.leave()


def test_a_worker_that_read_a_task_as_failed_before_its_retry_fails_nothing_afterwards(stage: Stage) -> None:
    stage.rig.before("swap", stage.keys[1], stage.retry)
    stage.turn()
    assert stage.states() == [State.PENDING, BLOCKED, BLOCKED]
    assert [stage.rig.read(key).span(0).run for key in stage.keys] == [2, 1, 1]


def test_what_a_worker_fails_right_before_the_retry_is_reopened(stage: Stage) -> None:
    stage.rig.before("swap", stage.keys[0], stage.turn_twice)
    assert stage.retry() == [0, 1, 2]
    assert stage.states() == [State.PENDING, BLOCKED, BLOCKED]


def test_what_a_worker_fails_after_the_client_has_seen_it_waiting_is_reopened(stage: Stage) -> None:
    """The worker reads the first task as failed; the client retries it, and reads the second; the worker fails the second."""
    worker = threading.Thread(target=stage.turn_twice)
    has_read, may_write = threading.Event(), threading.Event()
    n_lists = 0

    def plan(asked: Asked) -> None:
        nonlocal n_lists
        if threading.current_thread() is worker:
            if (asked.kind, asked.key) == ("swap", stage.keys[1]):
                has_read.set()
                may_write.wait()
        elif (asked.kind, asked.key) == ("list", stage.rig.keys.statuses):
            n_lists += 1
            if n_lists == 2:
                assert stage.states() == [State.PENDING, BLOCKED, BLOCKED]
                may_write.set()
                worker.join()
                assert stage.states() == [State.PENDING, ENDED, ENDED]

    stage.rig.plan = plan
    worker.start()
    has_read.wait()
    try:
        assert stage.retry() == [0, 1, 2]
    finally:
        may_write.set()
        worker.join()
    assert stage.states() == [State.PENDING, BLOCKED, BLOCKED]


def test_a_task_that_has_failed_by_itself_meanwhile_is_not_run_again(stage: Stage) -> None:
    n_lists = 0

    def plan(asked: Asked) -> None:
        nonlocal n_lists
        n_lists += (asked.kind, asked.key) == ("list", stage.rig.keys.statuses)
        if n_lists == 2 and stage.states()[1] == BLOCKED:
            stage.rig.write_spans(stage.keys[1], state=State.PENDING)
            stage.fail(1)

    stage.rig.plan = plan
    assert stage.retry() == [0]
    assert stage.states() == [State.PENDING, ENDED, BLOCKED]
