"""The memory that a runner and its agent share: `worker/runner/ledger.py`. Both ends are in this process."""

from __future__ import annotations

import math
import os
import random
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from starburst_executor.worker.runner import ledger as ledger_module
from starburst_executor.worker.runner.jobs import Completed
from starburst_executor.worker.runner.ledger import RECORD_BYTES, Ledger, LedgerWriter, Record

ALL_BYTES = 256 * 1024
RING = 64


@contextmanager
def both_ends() -> Iterator[tuple[Ledger, LedgerWriter]]:
    ledger = Ledger()
    try:
        yield ledger, LedgerWriter(os.dup(ledger.fd))
    finally:
        ledger.close()


def write(writer: LedgerWriter, number: int, outcome: bytes = b"Vx", seconds: float = 0.5) -> int:
    ends = (number, 2 * number) if number % 3 else None
    return writer.record(number, outcome, seconds, True, True, ends)


def take(ledger: Ledger, numbers: Iterable[int]) -> list[Record]:
    """Take the records of these jobs, each by itself."""
    taken: list[Record] = []
    for part in ledger.take([range(number, number + 1) for number in numbers]):
        if isinstance(part, Completed):
            taken += [
                (part.number + i, True, True, *ended, None) for i, ended in enumerate(zip(*part[1:], strict=True))
            ]
        else:
            taken.append(part)
    return taken


def test_a_record_comes_back_as_it_was_written() -> None:
    with both_ends() as (ledger, writer):
        assert writer.record(7, b"", 0.25, False, True, (3, 2**40))
        assert writer.record(8, b"V", 0.5, False, False)
        assert take(ledger, [7, 8, 9]) == [
            (7, False, True, b"", 0.25, (3, 2**40)),
            (8, False, False, b"V", 0.5, None),
        ]
        assert take(ledger, [9]) == []


def test_plain_records_of_neighbours_come_together() -> None:
    with both_ends() as (ledger, writer):
        for number in (1, 2, 3, 4, 7, 8, 9, 12):
            writer.record(number, b"V%d" % number, number / 2, True, True, (5, 0) if number == 3 else None)
        assert ledger.take([range(1, 5), range(7, 10), range(12, 14)]) == [
            Completed(1, [b"V1", b"V2"], [0.5, 1.0]),
            (3, True, True, b"V3", 1.5, (5, 0)),
            Completed(4, [b"V4"], [2.0]),
            Completed(7, [b"V7", b"V8", b"V9"], [3.5, 4.0, 4.5]),
            Completed(12, [b"V12"], [6.0]),
        ]


@pytest.mark.parametrize("n_bytes", [0, 3, 17, 1001])
def test_neighbours_come_together_over_the_end_of_the_memory_and_of_a_copy(n_bytes: int) -> None:
    with both_ends() as (ledger, writer):
        number = n_rounds = 0
        while n_rounds < 3:
            first = number
            while writer.record(number, bytes(n_bytes), 0.5, True, True):
                number += 1
            n = number - first
            assert ledger.take([range(first, number + 5)]) == [Completed(first, [bytes(n_bytes)] * n, [0.5] * n)]
            n_rounds += 1


@pytest.mark.parametrize("seed", range(5))
def test_records_of_every_size_come_back_in_order_round_after_round(seed: int) -> None:
    chance = random.Random(seed)
    with both_ends() as (ledger, writer):
        sent: dict[int, bytes] = {}
        number = n_full = n_taken = 0
        while n_taken < 3000:
            outcome = chance.randbytes(chance.choice([0, 1, 10, 100, 1000, RECORD_BYTES]))
            if write(writer, number, outcome):
                sent[number] = outcome
                number += 1
            else:
                n_full += 1
            if n_full % 3 == 1 or chance.random() < 0.01:
                for taken, *facts, ends in take(ledger, list(sent)[: chance.randrange(1, 300)]):
                    assert facts == [True, True, sent.pop(taken), 0.5]
                    assert ends == ((taken, 2 * taken) if taken % 3 else None)
                    n_taken += 1
                n_full += n_full % 3 == 1
        assert n_full > 10


def test_a_record_may_end_where_the_memory_ends() -> None:
    with both_ends() as (ledger, writer):
        number = 0
        used = RING
        while used < ALL_BYTES:
            room = ALL_BYTES - used
            number += 1
            head = 40 if number % 3 else 24
            used += write(writer, number, bytes(min(RECORD_BYTES, room - head if room < 32_000 else 8_000)))
        assert used == ALL_BYTES
        assert write(writer, number + 1) == 0
        assert len(take(ledger, range(1, number + 1))) == number
        for later in range(number + 1, number + 1000):
            assert write(writer, later)
            assert [record[0] for record in take(ledger, [later])] == [later]


def test_a_record_that_is_cut_anywhere_is_not_there() -> None:
    """A process can be killed between any two bytes, and its processor may show them in any order."""
    with both_ends() as (ledger, writer):
        write(writer, 1, b"V the outcome of a task")
        whole = bytes(ledger._memory[RING : RING + 64])
        n_bytes = 40 + len(b"V the outcome of a task")
        for before in (bytes(64), random.Random(1).randbytes(64)):
            for cut in range(n_bytes):
                for part in (whole[:cut] + before[cut:], before[:cut] + whole[cut:]):
                    ledger._memory[RING : RING + 64] = part
                    assert part[:n_bytes] == whole[:n_bytes] or take(ledger, [1]) == []
        ledger._memory[RING : RING + 64] = whole
        assert len(take(ledger, [1])) == 1


def test_what_an_earlier_round_left_is_not_taken_for_a_record() -> None:
    with both_ends() as (ledger, writer):
        n_places = 0
        while write(writer, n_places, bytes(1000)):
            n_places += 1
        assert len(take(ledger, range(n_places))) == n_places
        assert take(ledger, range(n_places, 2 * n_places)) == []


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_user_code_writes_there_raises(seed: int) -> None:
    chance = random.Random(seed)
    with both_ends() as (ledger, writer):
        for number in range(200):
            write(writer, number, bytes(chance.randrange(500)))
        if seed % 2:
            ledger._memory[:] = chance.randbytes(ALL_BYTES)
        else:
            for _ in range(200):
                at = chance.randrange(8, 20_000)
                ledger._memory[at] = chance.randrange(256)
        for _, _, _, outcome, _, _ in take(ledger, range(200)):
            assert len(outcome) <= RECORD_BYTES
        ledger.started()
        ledger.n_terms()
        for number in range(200, 300):
            write(writer, number)
        take(ledger, range(200, 300))


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_duration_that_is_none_is_not_taken(seconds: float) -> None:
    with both_ends() as (ledger, writer):
        write(writer, 1, seconds=seconds)
        assert take(ledger, [1]) == []


def test_a_wrong_number_of_bytes_taken_is_no_room() -> None:
    with both_ends() as (ledger, writer):
        while write(writer, 1, bytes(1000)):
            pass
        for wrong in (2**63, 2**64 - 1):
            ledger._memory[:8] = struct.pack("=Q", wrong)
            assert write(writer, 2, bytes(1000)) == 0


def test_the_start_and_sigterms_are_seen() -> None:
    with both_ends() as (ledger, writer):
        assert ledger.n_terms() == 0
        writer.start(2**40, 123.5)
        writer.caught_term()
        writer.caught_term()
        assert (ledger.started(), ledger.n_terms()) == ((2**40, 123.5), 2)


def test_a_system_without_files_in_memory_has_one_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ledger_module.os, "memfd_create", raising=False)
    with both_ends() as (ledger, writer):
        assert os.fstat(ledger.fd).st_nlink == 0
        write(writer, 1)
        assert len(take(ledger, [1])) == 1
