"""Tokens: the right to start a job, given to a runner and taken back by the agent, each exactly once.

The agent writes a job's number, eight bytes, into a stream socket pair; whoever reads it has the job. The runner reads
one token before each job. The agent keeps a duplicate of the runner's reading end and takes back what has not started
by reading it too. The kernel lets one of them have each token, also while the runner hangs, stops or dies; so what has
started is known without asking it.

# Assumes: readers of a stream socket are served one after the other, and eight bytes that were appended at once and are
only ever read by eights are never torn. Linux: `unix_stream_read_generic` holds the socket's `iolock`, and one send of
this size is one buffer. macOS: `soreceive` holds the receive buffer's lock (`sblock`), and up to 64 bytes fit into one
mbuf, which is appended under the socket's lock. That is why a send has eight tokens at most. A datagram socket would be
safe by definition, but Linux queues only ten datagrams (`net.unix.max_dgram_qlen`).

The other direction of the pair carries one thing: a byte each time that the runner catches SIGTERM (`send_term`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["TOKEN_BYTES", "Tokens", "read_token", "send_term"]

_TOKEN = struct.Struct("<Q")
TOKEN_BYTES = _TOKEN.size
_SEND_BYTES = 8 * TOKEN_BYTES
_TAKE_BYTES = 512 * TOKEN_BYTES


def read_token(sock: socket.socket) -> int | None:
    """Wait for the next job that may start; None if there will be no more. For the runner. Raises: OSError."""
    token = sock.recv(TOKEN_BYTES)
    return _TOKEN.unpack(token)[0] if token else None


def send_term(sock: socket.socket) -> None:
    """Tell the agent that SIGTERM was caught. For the runner's signal handler: one system call that never waits."""
    with suppress(OSError):  # the agent is gone or has not read the last ones, or the task has closed the descriptor
        sock.send(b"T", socket.MSG_DONTWAIT)


class Tokens:
    """The agent's end. Not thread-safe."""

    def __init__(self, writer: socket.socket, reader: socket.socket) -> None:
        """Args: writer: does not block. reader: a duplicate of the runner's end, which must go on blocking."""
        self._writer = writer
        self._reader = reader
        self._unsent = bytearray()

    def __bool__(self) -> bool:
        """True while tokens wait for room in the socket."""
        return bool(self._unsent)

    def give(self, numbers: Iterable[int]) -> None:
        """Let these jobs start, in this order, after those given before."""
        for number in numbers:
            self._unsent += _TOKEN.pack(number)
        self.flush()

    def flush(self) -> None:
        """Send as many as the socket takes now."""
        while self._unsent:
            try:
                sent = self._writer.send(self._unsent[:_SEND_BYTES])
            except BlockingIOError:
                return
            del self._unsent[:sent]

    def take_back(self) -> list[int]:
        """The jobs that had not started, in order; now they never will."""
        taken = b""
        while some := self._read(_TAKE_BYTES, 0):
            taken += some
        taken += self._unsent
        self._unsent.clear()
        return [number for (number,) in _TOKEN.iter_unpack(taken)]

    def first_unread(self) -> int | None:
        """The first job that has not started, if it was given and could be sent."""
        token = self._read(TOKEN_BYTES, socket.MSG_PEEK)
        return _TOKEN.unpack(token)[0] if token else None

    def fileno(self) -> int:
        """The descriptor that can be read when the runner has caught SIGTERM; -1 after `end`."""
        return self._writer.fileno()

    def take_terms(self) -> bool:
        """Whether the runner has caught SIGTERM since the last call."""
        try:
            return bool(self._writer.recv(_TAKE_BYTES, socket.MSG_DONTWAIT))
        except OSError:  # nothing is there, or it is closed
            return False

    def end(self) -> None:
        """Tell the runner that there will be no more."""
        self._writer.close()

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def _read(self, at_most: int, flags: int) -> bytes:
        try:
            return self._reader.recv(at_most, socket.MSG_DONTWAIT | flags)
        except BlockingIOError:
            return b""
