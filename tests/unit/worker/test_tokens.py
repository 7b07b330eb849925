"""Tokens on a real socket pair: `worker/runner/tokens.py`."""

from __future__ import annotations

import socket

from starburst_executor.worker.runner.tokens import Tokens, read_token

MANY = 10_000  # more than any system's socket buffer holds, one token a send


def test_giving_more_tokens_than_the_socket_holds_does_not_wait_for_the_runner() -> None:
    """The agent gives tokens under the lock that its listening thread needs to read the runner's outcomes."""
    writer, reader = socket.socketpair()
    tokens = Tokens(writer, reader)
    try:
        for number in range(1, MANY + 1):
            tokens.give([number])
        assert tokens  # some wait for room
        assert read_token(reader) == 1
        tokens.flush()
        assert tokens.take_back() == list(range(2, MANY + 1))
        assert not tokens
    finally:
        tokens.close()
