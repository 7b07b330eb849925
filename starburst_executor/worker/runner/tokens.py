"""Tokens: the right to start a job, which either the runner takes or the agent takes back, exactly once.

The agent writes a job's number, eight bytes, into a stream socket pair; the process that reads it owns the job. The runner
reads one token before each job. The agent keeps a duplicate of the runner's reading end, and takes back jobs that have not
started by reading their tokens from it. The kernel gives each token to one of the two readers, even while the runner hangs,
is stopped or dies; so the agent knows which jobs have started without asking the runner.

Assumes: the kernel serves readers of a stream socket one after the other, and does not split eight bytes that were
appended in one write and are only read in multiples of eight. Linux: `unix_stream_read_generic` holds the socket's `iolock`,
and one send of this size is one buffer. macOS: `soreceive` holds the receive buffer's lock (`sblock`), and up to 64 bytes fit
into one mbuf, which is appended under the socket's lock. Therefore one send has at most eight tokens. A datagram socket would
be safe by definition, but Linux queues only ten datagrams (`net.unix.max_dgram_qlen`).

The other direction of the pair transmits one byte each time that the runner catches SIGTERM (`send_term`).
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
    """Wait for the next job that may start; return None if there are no more. The runner calls this. Raises: OSError."""
    token = sock.recv(TOKEN_BYTES)
    return _TOKEN.unpack(token)[0] if token else None


def send_term(sock: socket.socket) -> None:
    """Report a caught SIGTERM to the agent. The runner's signal handler calls this: one system call that never waits."""
    with suppress(OSError):  # the agent is gone or the buffer is full, or the task has closed the descriptor
        sock.send(b"T", socket.MSG_DONTWAIT)


class Tokens:
    """The agent's end of the socket pair. Not thread-safe."""

    def __init__(self, writer: socket.socket, reader: socket.socket) -> None:
        """Args: writer: the agent's end. reader: a duplicate of the runner's end, which must stay blocking."""
        self._writer = writer
        self._reader = reader
        self._unsent = bytearray()

    def __bool__(self) -> bool:
        """True while tokens wait for room in the socket."""
        return bool(self._unsent)

    def give(self, numbers: Iterable[int]) -> None:
        """Allow these jobs to start, in this order, after those given before."""
        for number in numbers:
            self._unsent += _TOKEN.pack(number)
        self.flush()

    def flush(self) -> None:
        """Send as many tokens as the socket accepts now."""
        while self._unsent:
            try:
                sent = self._writer.send(self._unsent[:_SEND_BYTES], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            del self._unsent[:sent]

    def take_back(self) -> list[int]:
        """Take back the jobs that have not started and return their numbers in order; they will never start."""
        taken = b""
        while data := self._read(_TAKE_BYTES, 0):
            taken += data
        taken += self._unsent
        self._unsent.clear()
        return [number for (number,) in _TOKEN.iter_unpack(taken)]

    def first_unread(self) -> int | None:
        """Return the first job that has not started; None if no sent token is unread."""
        token = self._read(TOKEN_BYTES, socket.MSG_PEEK)
        return _TOKEN.unpack(token)[0] if token else None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the runner has caught SIGTERM; -1 after `end`."""
        return self._writer.fileno()

    def take_terms(self) -> bool:
        """Return whether the runner has caught SIGTERM since the last call."""
        try:
            return bool(self._writer.recv(_TAKE_BYTES, socket.MSG_DONTWAIT))
        except OSError:  # no data, or the socket is closed
            return False

    def end(self) -> None:
        """Signal the runner that there are no more jobs."""
        self._writer.close()

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def _read(self, at_most: int, flags: int) -> bytes:
        try:
            return self._reader.recv(at_most, socket.MSG_DONTWAIT | flags)
        except BlockingIOError:
            return b""
