"""What a runner gets: jobs, many in one frame, and beside them each stored function and each big piece of a call once.

The agent decides what the runner keeps, and tells it by frames what to forget. The runner reads frames in order, so jobs that
were sent earlier still find a function or a piece that is forgotten here.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import msgpack

from starburst_executor.worker.recent import Recent
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.jobs import Job

__all__ = ["Outgoing"]

_PIECES_BYTES = 64 * 2**20  # of pieces of calls that a runner keeps, in addition to those of the running call
_FUNCTIONS_BYTES = 64 * 2**20  # of stored functions that a runner keeps, in addition to the running one
_FRAME_BYTES = 64 * 1024  # of calls in one frame: a frame that was begun cannot be dropped when its jobs are taken back
_LOADED_BYTES = 4096  # about the memory of a small loaded function with its own globals


class Outgoing:
    """Queues the frames of one runner. Not thread-safe."""

    def __init__(self, outbox: wire.Outbox) -> None:
        self._outbox = outbox
        self._functions: Recent[str, bool] = Recent(_FUNCTIONS_BYTES)  # functions that the runner has, by digest
        self._pieces: dict[bytes, int] = {}  # pieces that it has, with lengths, least recently used first
        self._frame: list[Job] = []  # jobs of one function that are not queued yet
        self._frame_bytes = 0  # of their calls
        self.last_number = 0

    def __bool__(self) -> bool:
        """True while frames wait for room in the socket."""
        return bool(self._outbox)

    def set_up(self, settings: Mapping[str, object]) -> None:
        """Queue the settings: the first frame."""
        self._outbox.add([wire.SETUP], msgpack.packb(settings, unicode_errors="surrogateescape"))

    def add(self, jobs: Sequence[Job], functions: Mapping[str, bytes]) -> None:
        """Queue jobs, each after the function and the pieces that the runner does not have."""
        frame, last, function = self._frame, self.last_number, ("", -1)
        for job in jobs:
            number, ordinal, _, _, digest, call, pieces = job
            if number <= last:
                self._end_frame()
                raise ValueError(f"job numbers must ascend: number={number}, last={last}")
            self.last_number = last = number
            if frame and (function != (digest, ordinal) or self._frame_bytes + len(call) > _FRAME_BYTES):
                self._end_frame()
            if not frame:
                function = (digest, ordinal)
                self._need_function(digest, functions)
            if pieces:
                self._need_pieces(dict(pieces))
            frame.append(job)
            self._frame_bytes += len(call)
        self._end_frame()

    def _end_frame(self) -> None:
        """Queue the jobs that are gathered: a frame of another kind must not overtake them."""
        jobs = self._frame
        if not jobs:
            return
        numbers = [job.number for job in jobs]
        calls = [job.call for job in jobs]
        head = [
            *(wire.JOBS, jobs[0].digest, jobs[0].ordinal, numbers),
            *([job.index for job in jobs], [job.attempt for job in jobs], [len(call) for call in calls]),
        ]
        self._outbox.add(head, calls[0] if len(calls) == 1 else b"".join(calls), jobs=numbers)
        jobs.clear()
        self._frame_bytes = 0

    def _need_function(self, digest: str, functions: Mapping[str, bytes]) -> None:
        if not self._functions.get(digest):
            body = functions[digest]
            for forgotten in self._functions.add(digest, True, len(body) + _LOADED_BYTES):
                self._outbox.add([wire.FORGET_FUNCTION, forgotten], b"")
            self._outbox.add([wire.FUNCTION, digest], body)

    def drop(self, numbers: Container[int]) -> None:
        """Drop the frames of these jobs, as far as they are unsent."""
        self._outbox.drop(numbers)

    def flush(self) -> None:
        """Send as much as the socket accepts now. Raises: OSError if the runner is gone."""
        self._outbox.flush()

    def _need_pieces(self, needed: Mapping[bytes, bytes]) -> None:
        """Queue the pieces of a job that the runner does not have. It keeps them for later jobs, within `_PIECES_BYTES`."""
        missing = [name for name in needed if name not in self._pieces]
        n_bytes = sum(self._pieces.values()) + sum(len(needed[name]) for name in missing)
        if missing or n_bytes > _PIECES_BYTES:
            self._end_frame()
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
