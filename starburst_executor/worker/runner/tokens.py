"""Tokens: the right to start a job, which either the runner takes or the agent takes back, exactly once.

The agent writes a job's number, eight bytes, into a pipe. The runner reads one token before each job, or some at once while jobs
take microseconds. The agent keeps a duplicate of the reading end, and takes back jobs that have not started by reading their
tokens from it. The kernel gives each token to one of the two readers, even while the runner hangs, is stopped or dies; so
the agent knows which jobs the runner has without asking it. Those among them that have not started are recalled (`recall.py`); the runner
learns by a *ruling* in the same pipe how that was decided: it is the number of the last job that it keeps.

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

__all__ = ["TOKEN_BYTES", "TokenReader", "Tokens"]

_TOKEN = struct.Struct("=Q")
TOKEN_BYTES = _TOKEN.size
_RULING = 1 << 63  # the bit that tells a ruling from a job's number
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

    def read(self, n: int) -> list[int]:
        """Read up to `n` tokens; return their numbers, the last one first; none at the end.

        Raises: BlockingIOError: there are none yet; OSError.
        """
        while data := os.read(self._fd, n * TOKEN_BYTES):
            # A runner that reads tokens has none left, so a ruling is of no interest to it.
            numbers = [number for number in memoryview(data).cast("Q") if number < _RULING]
            if numbers:
                numbers.reverse()
                return numbers
        return []

    def ruling(self) -> int:
        """Wait for the agent's ruling; return the number of the last job that the runner keeps. 0 at the end. Raises: OSError."""
        while True:
            try:
                data = os.read(self._fd, TOKEN_BYTES)
            except BlockingIOError:
                self.wait()
                continue
            return _TOKEN.unpack(data)[0] & ~_RULING if data else 0

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
        self._ruling = 0  # the last one

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

    def rule(self, last: int) -> None:
        """Tell the runner that it keeps the jobs that it has up to this one, and none that follows."""
        self._ruling = last
        self.give((last | _RULING,))

    def take_back(self) -> list[int]:
        """Take back the jobs whose tokens the runner has not read and return their numbers in order; they will never start."""
        taken = bytearray()
        try:
            while data := os.read(self._reader, _TAKE_BYTES):
                taken += data
        except BlockingIOError:
            pass
        taken += self._unsent
        self._unsent.clear()
        tokens = memoryview(taken).cast("Q").tolist()
        numbers = [number for number in tokens if number < _RULING]
        if len(numbers) < len(tokens):
            self.rule(self._ruling)  # which the runner has not read
        return numbers

    def n_unread(self) -> int:
        """Return how many tokens the runner has not read."""
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
