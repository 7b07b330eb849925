"""What tasks log is recorded once, belongs to its task, is bounded, and changes nothing of what they print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from starburst_executor.protocol.logged import MOST_BYTES, Logged, decode_logged, encode_logged
from starburst_executor.worker.runner.notes import NoteReader
from starburst_executor.worker.runner.recorder import HEAD, Recorder
from tests.support.runner_rig import Rig, death, finished


def logged(records: bytes) -> list[tuple[int, str, str]]:
    return [(record.level, record.name, record.message) for record in decode_logged(records)]


def test_records_belong_to_the_task_that_made_them() -> None:
    def talk(i: int) -> None:
        import logging

        if i % 2:
            logging.getLogger(f"a.{i}").warning("number %d", i)

    with Rig() as rig:
        runner = rig.spawn(task_logs=20)
        rig.send(runner, talk, *((i,) for i in range(20)))
        for i, event in enumerate(finished(runner, 20)):
            assert logged(event.records) == ([(30, f"a.{i}", f"number {i}")] if i % 2 else [])


def test_a_tasks_own_configuration_works_and_what_it_prints_stays() -> None:
    def configure() -> None:
        import logging
        import warnings

        logging.basicConfig(format="%(levelname)s|%(message)s")
        logging.getLogger("here").info("shown")
        warnings.simplefilter("default")  # in tests they are errors
        warnings.warn("old", stacklevel=1)

    with Rig() as rig:
        runner = rig.spawn(task_logs=20)
        rig.send(runner, configure, ())
        (event,) = finished(runner, 1)
        assert event.stderr.startswith(b"INFO|shown\n")
        assert logged(event.records) == [(20, "here", "shown"), (30, "py.warnings", "UserWarning: old")]


def test_forked_children_and_a_crash_lose_no_record() -> None:
    def die() -> None:
        import logging
        import os

        if os.fork() == 0:
            logging.getLogger("here").error("child")
            os._exit(0)
        os.wait()
        logging.getLogger("here").error("parent")
        os.kill(os.getpid(), 9)

    with Rig() as rig:
        runner = rig.spawn(task_logs=30)
        rig.send(runner, die, ())
        _, died = death(runner)
        assert [message for _, _, message in logged(died.records)] == ["child", "parent"]


def test_what_a_task_logs_is_bounded_and_said_so() -> None:
    def chatter() -> None:
        import logging

        for i in range(10_000):
            logging.getLogger("here").info("%d %s", i, "x" * 100)

    class Bad:
        def __str__(self) -> str:
            raise ValueError

    def odd() -> None:
        import logging

        logging.raiseExceptions = False
        logging.getLogger("here").info("%s", Bad())
        logging.getLogger("here").info("\ud800 %s", "y" * 100_000)

    with Rig() as rig:
        runner = rig.spawn(task_logs=20)
        rig.send(runner, chatter, ())
        rig.send(runner, odd, ())
        first, second = finished(runner, 2)
        assert len(first.records) < MOST_BYTES + 1000
        records = list(decode_logged(first.records))
        assert len(records) > 300
        assert records[-1].message.startswith(
            f"{10_000 - len(records) + 1:,} further records of this task were dropped"
        )
        bad, long = decode_logged(second.records)
        assert "its arguments cannot be shown: ValueError" in bad.message
        assert len(long.message) < 9000


def test_without_a_level_nothing_is_recorded() -> None:
    def talk() -> None:
        import logging

        logging.getLogger("here").error("shown only")

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, talk, ())
        (event,) = finished(runner, 1)
        assert event.records == b""
        assert b"shown only" in event.stderr


# --- the file ---------------------------------------------------------------------------------------------------------


@contextmanager
def reader() -> Iterator[NoteReader]:
    opened = NoteReader()
    try:
        yield opened
    finally:
        opened.close()


def test_records_are_taken_by_job_and_the_file_does_not_grow() -> None:
    with reader() as notes:
        for number in range(1, 101):
            recorder = Recorder(notes.fd, 20)
            recorder.begin(number)
            for _ in range(8):
                recorder._add(Logged(20, "a", "x" * 4000, 1.0))
            if number % 10 == 0:
                assert len(list(decode_logged(notes.take(number)))) == 8
                assert notes.take(number - 1) == b"", "those of earlier jobs are forgotten"
        used = os.fstat(notes.fd).st_blocks * 512
        assert used < 2 * 2**20


def test_half_a_record_waits_for_the_rest() -> None:
    with reader() as notes:
        body = encode_logged(Logged(20, "a", "text", 1.0))
        whole = HEAD.pack(1, len(body)) + body
        os.write(notes.fd, whole[:20])
        assert notes.take(1) == b""
        os.write(notes.fd, whole[20:])
        assert logged(notes.take(1)) == [(20, "a", "text")]


# --- stored records ---------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was() -> None:
    record = Logged(20, "name", "text", 1.5, "/a/file.py", 7, "function", "Traceback")
    assert list(decode_logged(encode_logged(record) * 2)) == [record, record]


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff" * 40, b"\xc1", encode_logged(Logged(20, "a", "b", 1.0))[:-1], b"\x93\x01\x02\x03", b"\x01\x02"],
)
def test_what_is_no_record_ends_the_list(body: bytes) -> None:
    assert list(decode_logged(body)) == []
    good = encode_logged(Logged(20, "a", "b", 1.0))
    assert len(list(decode_logged(good + body))) == 1
