"""What a runner gets beside its jobs: each stored function and each big piece of a call crosses the socket once.

The agent decides what the runner keeps, and tells it by frames what to forget. The runner reads frames in order, so jobs that
were sent earlier still find a function or a piece that is forgotten here.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import msgpack

from starburst_executor.worker.recent import Recent
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.jobs import Job

__all__ = ["Outgoing"]

_PIECES_BYTES = 64 * 2**20  # of pieces of calls that a runner keeps, in addition to those of the running call
_FUNCTIONS_BYTES = 64 * 2**20  # of stored functions that a runner keeps, in addition to the running one
_LOADED_BYTES = 4096  # about the memory of a small loaded function with its own globals


class Outgoing:
    """Queues the frames of one runner. Not thread-safe."""

    def __init__(self, outbox: wire.Outbox) -> None:
        self._outbox = outbox
        self._functions: Recent[str, bool] = Recent(_FUNCTIONS_BYTES)  # functions that the runner has, by digest
        self._pieces: dict[bytes, int] = {}  # pieces that it has, with lengths, least recently used first
        self.last_number = 0

    def __bool__(self) -> bool:
        """True while frames wait for room in the socket."""
        return bool(self._outbox)

    def set_up(self, settings: Mapping[str, object]) -> None:
        """Queue the settings: the first frame."""
        self._outbox.add([wire.SETUP], msgpack.packb(settings, unicode_errors="surrogateescape"))

    def add(self, job: Job, functions: Mapping[str, bytes]) -> None:
        """Queue a job, after the function and the pieces that the runner does not have."""
        if job.number <= self.last_number:
            raise ValueError(f"job numbers must ascend: number={job.number}, last={self.last_number}")
        if not self._functions.get(job.digest):
            body = functions[job.digest]
            for digest in self._functions.add(job.digest, True, len(body) + _LOADED_BYTES):
                self._outbox.add([wire.FORGET_FUNCTION, digest], b"")
            self._outbox.add([wire.FUNCTION, job.digest], body)
        if job.pieces:
            self._add_pieces(dict(job.pieces))
        head = [wire.JOB, job.number, job.digest, job.index, job.attempt, job.task_id]
        self._outbox.add(head, job.call, number=job.number)
        self.last_number = job.number

    def drop(self, numbers: Container[int]) -> None:
        """Drop the frames of these jobs, as far as they are unsent."""
        self._outbox.drop(numbers)

    def flush(self) -> None:
        """Send as much as the socket accepts now. Raises: OSError if the runner is gone."""
        self._outbox.flush()

    def _add_pieces(self, needed: Mapping[bytes, bytes]) -> None:
        """Queue the pieces of a job that the runner does not have. It keeps them for later jobs, within `_PIECES_BYTES`."""
        missing = [name for name in needed if name not in self._pieces]
        n_bytes = sum(self._pieces.values()) + sum(len(needed[name]) for name in missing)
        for name in [name for name in self._pieces if name not in needed]:
            if n_bytes <= _PIECES_BYTES:
                break
            n_bytes -= self._pieces.pop(name)
            self._outbox.add([wire.FORGET, name], b"")
        for name in missing:
            self._outbox.add([wire.PIECE, name], needed[name])
        for name, body in needed.items():
            self._pieces.pop(name, None)
            self._pieces[name] = len(body)  # moved to the end: the most recently used
