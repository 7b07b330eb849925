"""Tokens in a real pipe: `worker/runner/tokens.py`."""

from __future__ import annotations

from starburst_executor.worker.runner.tokens import TokenReader, Tokens, number_of

MANY = 100_000  # more than any system's pipe holds


def test_giving_more_tokens_than_the_pipe_holds_does_not_wait_for_the_runner() -> None:
    """The agent gives tokens under the lock that its listening thread needs to read the runner's outcomes."""
    tokens = Tokens()
    reader = TokenReader(tokens.reader)
    try:
        for number in range(1, MANY + 1):
            tokens.give([number])
        assert tokens  # some wait for room
        assert number_of(reader.read()) == (1,)
        assert tokens.n_unread() == MANY - 1
        tokens.flush()
        assert tokens.take_back() == list(range(2, MANY + 1))
        assert not tokens
    finally:
        tokens.close()
