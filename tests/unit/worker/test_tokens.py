"""Tokens in a real pipe: `worker/runner/tokens.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from starburst_executor.worker.runner.tokens import TokenReader, Tokens

MANY = 100_000  # more than any system's pipe holds


def test_giving_more_tokens_than_the_pipe_holds_does_not_wait_for_the_runner() -> None:
    """The agent gives tokens under the lock that its listening thread needs to read the runner's outcomes."""
    tokens = Tokens()
    reader = TokenReader(tokens.reader)
    try:
        for number in range(1, MANY + 1):
            tokens.give([number])
        assert tokens  # some wait for room
        assert reader.read(1) == [1]
        assert tokens.n_unread() == MANY - 1
        tokens.flush()
        assert tokens.take_back() == list(range(2, MANY + 1))
        assert not tokens
    finally:
        tokens.close()


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    given = Tokens()
    yield given
    given.close()


def test_tokens_are_read_together_the_last_one_first(tokens: Tokens) -> None:
    reader = TokenReader(tokens.reader)
    tokens.give([1, 2, 3, 7, 8])
    assert (reader.read(3), reader.read(3)) == ([3, 2, 1], [8, 7])
    with pytest.raises(BlockingIOError):
        reader.read(3)
    tokens.end()
    assert reader.read(3) == []


def test_a_ruling_is_only_for_a_runner_that_waits_for_it(tokens: Tokens) -> None:
    reader = TokenReader(tokens.reader)
    tokens.rule(5)
    tokens.give([6])
    assert reader.ruling() == 5
    assert reader.read(9) == [6]
    tokens.rule(6)
    tokens.give([7])
    assert reader.read(1) == [7]
    tokens.rule(7)
    tokens.end()
    assert (reader.read(1), reader.ruling()) == ([], 0)


def test_a_ruling_that_was_not_read_stays_when_tokens_are_taken_back(tokens: Tokens) -> None:
    reader = TokenReader(tokens.reader)
    tokens.rule(5)
    tokens.give([6, 7])
    assert tokens.take_back() == [6, 7]
    tokens.give([8])
    assert reader.ruling() == 5
    assert reader.read(9) == [8]
