"""Jobs whose tokens a runner has read together are taken back from it: `worker/runner/recall.py`."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.worker.runner import recall as recalling
from starburst_executor.worker.runner.handle import Runner
from starburst_executor.worker.runner.jobs import Completed, Finished, each_event
from starburst_executor.worker.runner.ledger import Ledger, LedgerWriter
from starburst_executor.worker.runner.tokens import TokenReader, Tokens
from tests.support.runner_rig import Rig, death, finished, number_of, value_of, wait_until

# The fields of the ledger that both sides look at.
NUMBER, RECALLED = 1, 4
# Tasks that leave nothing, after which a runner trusts their function.
QUICK = 64


class _Cells:
    """A ledger's memory that notes who looks at what."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def __getitem__(self, i: int) -> int:
        self.seen.append(("read", i))
        return 0

    def __setitem__(self, i: int, value: int) -> None:
        self.seen.append(("write", i))


def test_each_side_writes_before_it_reads_and_the_agent_waits_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any other order both could miss what the other has written; no test with real processes shows it in reasonable time."""
    ledger = Ledger()
    writer = LedgerWriter(os.dup(ledger.fd))
    cells = _Cells()
    writer._cells = writer._times = cells  # type: ignore[assignment]
    assert writer.start(7, 0.0)
    assert cells.seen.index(("write", NUMBER)) < cells.seen.index(("read", RECALLED))

    steps: list[str] = []

    class _Side:
        def __init__(self, **answers: Any) -> None:
            for name, answer in answers.items():
                setattr(self, name, lambda *_, name=name, answer=answer: (steps.append(name), answer)[1])

    monkeypatch.setattr(recalling, "_CLOCK", _Side(wait=False))
    side: Any = _Side(recall=None, started=(7, 0.0), rule=None)
    assert recalling.recall([7, 8, 9], 6, side, side) == [8, 9]
    assert steps == ["recall", "wait", "started", "rule"]
    ledger.close()


@pytest.mark.parametrize(
    ("started", "taken"),
    [(6, [7, 8, 12]), (7, [8, 12]), (8, [12]), (11, [12]), (12, []), (0, []), (5, []), (13, []), (2**64 - 1, [])],
)
def test_what_makes_no_sense_counts_as_started(started: int, taken: list[int]) -> None:
    """It was overwritten by user code. It must be a job that has ended or that the runner holds."""
    ledger, tokens = Ledger(), Tokens()
    LedgerWriter(os.dup(ledger.fd)).start(started, 0.0)
    assert recalling.recall([7, 8, 12], 6, ledger, tokens) == taken
    assert TokenReader(tokens.reader).ruling() == (12 if not taken else started)
    ledger.close()
    tokens.close()


def hanging(rig: Rig, folder: Path) -> tuple[Runner, list[int]]:
    """A runner with 200 jobs that hangs in that after `QUICK + 5` others, until there is a file `go`; and their numbers."""

    def run(i: int) -> int:
        if i == QUICK + 5:
            (folder / "started").touch()
            wait_until((folder / "go").exists)
        return i

    runner = rig.spawn()
    numbers = rig.send(runner, run, *((i,) for i in range(200)))
    wait_until((folder / "started").exists)
    return runner, numbers


def test_what_a_runner_holds_is_taken_back_though_it_hangs(tmp_path: Path) -> None:
    with Rig() as rig:
        runner, numbers = hanging(rig, tmp_path)
        ended = [event.number for event in finished(runner, QUICK + 5)]
        assert (ended, number_of(runner)) == (numbers[: QUICK + 5], numbers[QUICK + 5])
        # Some of these tokens have been read, or this test would test nothing.
        assert runner._tokens.n_unread() < len(numbers) - QUICK - 6
        assert runner.retract() == numbers[QUICK + 6 :]
        assert runner.retract() == []
        later = rig.send(runner, abs, *((-i,) for i in range(40)))
        (tmp_path / "go").touch()
        after = finished(runner, 41)
        assert [event.number for event in after] == [numbers[QUICK + 5], *later]
        assert [value_of(event) for event in after[1:]] == list(range(40))


def test_a_recall_stays_while_the_runner_has_not_heard_of_it(tmp_path: Path) -> None:
    """The second one finds less than the first, among it what has ended."""

    with Rig() as rig:
        runner, numbers = hanging(rig, tmp_path)
        assert runner.retract() == numbers[QUICK + 6 :]
        later = rig.send(runner, abs, *((-i,) for i in range(40)))
        assert runner.retract() == later
        last = rig.send(runner, abs, *((-i,) for i in range(40)))
        (tmp_path / "go").touch()
        assert [event.number for event in finished(runner, QUICK + 46)] == [*numbers[: QUICK + 6], *last]


@pytest.mark.parametrize("seed", range(6))
def test_each_job_runs_exactly_once_or_is_taken_back(seed: int, tmp_path: Path) -> None:
    """Retracted at any moment, while the runner is between two jobs, in one, or has just read tokens."""
    chance, file = random.Random(seed), tmp_path / "ran"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def run(i: int) -> None:
        os.write(255, b"%d\n" % i)

    def begin() -> None:
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), 255)

    os.close(fd)
    ran: list[int] = []
    ended: list[int] = []
    taken: list[int] = []
    with Rig() as rig:
        runner = rig.spawn()
        rig.run(runner, begin)
        first = 2
        for _ in range(150):
            n = chance.randrange(1, 300)
            numbers = rig.send(runner, run, *((first + i,) for i in range(n)))
            assert numbers[0] == first
            first += n
            for _ in range(chance.randrange(4)):
                for event in runner.poll(chance.choice([0, 0.0002, 0.001])):
                    assert isinstance(event, Completed | Finished)
                    ended += [each.number for each in each_event([event]) if isinstance(each, Finished)]
                if chance.random() < 0.5:
                    taken += runner.retract()
        while len(ended) + len(taken) < first - 2:
            ended += [each.number for each in each_event(runner.poll(1)) if isinstance(each, Finished)]
    ran = [int(line) for line in file.read_text().splitlines()]
    assert taken
    assert ran == ended
    assert sorted(ended + taken) == list(range(2, first))


def test_of_several_jobs_that_a_dead_runner_holds_the_one_that_ran_is_the_culprit() -> None:
    def run(i: int) -> int:
        if i == QUICK + 5:
            os._exit(3)
        return i

    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, run, *((i,) for i in range(200)))
        before, died = death(runner)
        assert [event.number for event in before if isinstance(event, Finished)] == numbers[: QUICK + 5]
        assert (died.culprit, runner.retract()) == (numbers[QUICK + 5], numbers[QUICK + 6 :])


def test_a_runner_that_dies_before_the_first_of_the_jobs_that_it_holds_has_no_culprit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig() as rig:
        runner, numbers = hanging(rig, tmp_path)
        finished(runner, QUICK + 5)
        # As if it had been killed a moment earlier, when it had not said yet that the next one starts.
        monkeypatch.setattr(runner._ledger, "started", lambda: (numbers[QUICK + 4], 0.0))
        runner.kill()
        before, died = death(runner)
        assert (before, died.culprit) == ([], None)
        assert runner.retract() == numbers[QUICK + 5 :]
