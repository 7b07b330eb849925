"""Tokens: the right to start a job, which either the runner takes or the agent takes back, exactly once.

The agent writes a job's number, eight bytes, into a pipe; the process that reads it owns the job. The runner reads one token
before each job. The agent keeps a duplicate of the reading end, and takes back jobs that have not started by reading their
tokens from it. The kernel gives each token to one of the two readers, even while the runner hangs, is stopped or dies; so
the agent knows which jobs have started without asking the runner.

Assumes: the kernel serves readers of a pipe one after the other, does not split a write of at most `PIPE_BUF` bytes (POSIX),
and a read of a multiple of eight bytes from a pipe that holds a multiple of eight returns one. Linux: `pipe_read` and
`pipe_write` hold the pipe's mutex from their first byte to their last. macOS: `pipe_read` holds the pipe's `pipeio_lock`.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from array import array
from collections.abc import Iterable
from functools import partial

__all__ = ["TOKEN_BYTES", "TokenReader", "Tokens", "number_of"]

_TOKEN = struct.Struct("=Q")
TOKEN_BYTES = _TOKEN.size
number_of = _TOKEN.unpack  # of a token
_SEND_BYTES = select.PIPE_BUF // TOKEN_BYTES * TOKEN_BYTES
_TAKE_BYTES = 512 * TOKEN_BYTES
_COUNT = struct.Struct("=i")


class TokenReader:
    """The runner's end.

    Args:
        fd: The reading end of the pipe, which does not block.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)
        # Read a token; empty at the end. Raises: BlockingIOError: none yet; OSError. No method: a runner calls it for each task.
        self.read = partial(os.read, fd, TOKEN_BYTES)

    def wait(self) -> None:
        """Wait until there is a token or there are no more; it may be gone again."""
        self._poller.poll()

    def close(self) -> None:
        """Close this process's copy of the descriptor."""
        os.close(self._fd)


class Tokens:
    """The agent's end of the pipe. Not thread-safe."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        # For both processes: they share the open file. The runner polls when it finds no token.
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._unsent = bytearray()

    def __bool__(self) -> bool:
        """True while tokens wait for room in the pipe."""
        return bool(self._unsent)

    @property
    def reader(self) -> int:
        """The descriptor that the runner gets a copy of."""
        return self._reader

    def give(self, numbers: Iterable[int]) -> None:
        """Allow these jobs to start, in this order, after those given before."""
        self._unsent += array("Q", numbers).tobytes()
        self.flush()

    def flush(self) -> None:
        """Write as many tokens as the pipe accepts now."""
        while self._unsent:
            try:
                n_sent = os.write(self._writer, self._unsent[:_SEND_BYTES])
            except BlockingIOError:
                return
            del self._unsent[:n_sent]

    def take_back(self) -> list[int]:
        """Take back the jobs that have not started and return their numbers in order; they will never start."""
        taken = bytearray()
        try:
            while data := os.read(self._reader, _TAKE_BYTES):
                taken += data
        except BlockingIOError:
            pass
        taken += self._unsent
        self._unsent.clear()
        return [number for (number,) in _TOKEN.iter_unpack(taken)]

    def n_unread(self) -> int:
        """Return how many jobs have not started."""
        unread = fcntl.ioctl(self._reader, termios.FIONREAD, bytes(_COUNT.size))
        return (int(_COUNT.unpack(unread)[0]) + len(self._unsent)) // TOKEN_BYTES

    def end(self) -> None:
        """Signal the runner that there are no more jobs. A second call is harmless."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
            self._unsent.clear()

    def close(self) -> None:
        """Release the pipe. A second call is harmless."""
        self.end()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
