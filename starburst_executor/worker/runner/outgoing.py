"""What a runner gets: jobs, many in one frame, and beside them each stored function and each big piece of a call once, and the
paths of shared values.

The agent decides what the runner keeps, and tells it by frames what to forget. The runner reads frames in order, so jobs that
were sent earlier still find a function or a piece that is forgotten here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgpack

from starburst_executor.worker.recent import Recent
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.jobs import Job, Jobs

__all__ = ["Outgoing"]

_PIECES_BYTES = 64 * 2**20  # of pieces of calls that a runner keeps, in addition to those of the running call
_FUNCTIONS_BYTES = 64 * 2**20  # of stored functions that a runner keeps, in addition to the running one
_SHARED_BYTES = 2**30  # of shared values that a runner keeps, in addition to those of the running call
_FRAME_BYTES = 64 * 1024  # of calls in one frame: a frame that was begun cannot be dropped when its jobs are taken back
_LOADED_BYTES = 4096  # about the memory of a small loaded function with its own globals


class Outgoing:
    """Queues the frames of one runner. Not thread-safe."""

    def __init__(self, outbox: wire.Outbox) -> None:
        self._outbox = outbox
        self._functions: Recent[str, bool] = Recent(_FUNCTIONS_BYTES)  # functions that the runner has, by digest
        self._pieces: dict[bytes, int] = {}  # pieces that it has, with lengths, least recently used first
        self._shared: dict[str, tuple[str, int]] = {}  # shared values that it knows, with paths and lengths, likewise
        # Jobs of one function and the same options that are not queued yet.
        self._kind = ("", 0, b"")  # digest, ordinal and options of all
        self._numbers: list[range] = []
        self._runs: list[
            tuple[int, int, int, int]
        ] = []  # of neighbours: number and index of the first, attempt, how many
        self._calls: list[bytes] = []
        self._n_bytes = 0  # of the calls
        self.last_number = 0

    def __bool__(self) -> bool:
        """True while frames wait for room in the socket."""
        return bool(self._outbox)

    def set_up(self, settings: Mapping[str, object]) -> None:
        """Queue the settings: the first frame."""
        self._outbox.add([wire.SETUP], msgpack.packb(settings, unicode_errors="surrogateescape"))

    def add(self, jobs: Iterable[Job | Jobs], functions: Mapping[str, bytes]) -> None:
        """Queue jobs, each after the function and the pieces that the runner does not have."""
        for job in jobs:
            calls = [job.call] if isinstance(job, Job) else job.calls
            n, n_bytes = len(calls), sum(map(len, calls))
            self._begin(job, n_bytes, functions)
            if isinstance(job, Job):
                if job.pieces:
                    self._need_pieces(dict(job.pieces))
                if job.shared:
                    self._need_shared({name: (path, length) for name, path, length in job.shared})
            self._numbers.append(job.numbers)
            self._runs.append((job.number, job.index, job.attempt, n))
            self._calls += calls
            self._n_bytes += n_bytes
        self._end_frame()

    def _begin(self, job: Job | Jobs, n_bytes: int, functions: Mapping[str, bytes]) -> None:
        """Have a frame to which a job can be added."""
        if job.number <= self.last_number:
            self._end_frame()
            raise ValueError(f"job numbers must ascend: number={job.number}, last={self.last_number}")
        self.last_number = job.numbers[-1]
        kind = (job.digest, job.ordinal, job.options)
        if self._numbers and (kind != self._kind or self._n_bytes + n_bytes > _FRAME_BYTES):
            self._end_frame()
        if not self._numbers:
            self._kind = kind
            self._need_function(job.digest, functions)

    def _end_frame(self) -> None:
        """Queue the jobs that are gathered: a frame of another kind must not overtake them."""
        numbers, calls = self._numbers, self._calls
        if not numbers:
            return
        digest, ordinal, packed_options = self._kind
        head = [wire.JOBS, digest, ordinal, self._runs, [*map(len, calls)]]
        if packed_options:
            head.append(packed_options)
        self._outbox.add(head, calls[0] if len(calls) == 1 else b"".join(calls), jobs=numbers)
        self._numbers, self._runs, self._calls, self._n_bytes = [], [], [], 0

    def _need_function(self, digest: str, functions: Mapping[str, bytes]) -> None:
        if not self._functions.get(digest):
            body = functions[digest]
            for forgotten in self._functions.add(digest, True, len(body) + _LOADED_BYTES):
                self._outbox.add([wire.FORGET_FUNCTION, forgotten], b"")
            self._outbox.add([wire.FUNCTION, digest], body)

    def answer(self, *, is_given: bool) -> None:
        """Queue the answer to a job that has asked to lend its place."""
        self._outbox.add([wire.PLACE, is_given], b"")

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

    def _need_shared(self, needed: Mapping[str, tuple[str, int]]) -> None:
        """Queue the paths of a job's shared values that the runner does not know. It keeps them within `_SHARED_BYTES`."""
        new = {name: place for name, place in needed.items() if self._shared.get(name) != place}
        n_bytes = sum(length for _, length in self._shared.values()) + sum(length for _, length in new.values())
        if new or n_bytes > _SHARED_BYTES:
            self._end_frame()
        for name in [name for name in self._shared if name not in needed]:
            if n_bytes <= _SHARED_BYTES:
                break
            n_bytes -= self._shared.pop(name)[1]
            self._outbox.add([wire.FORGET_SHARED, name], b"")
        for name, (path, _) in new.items():
            self._outbox.add([wire.SHARED, name, path], b"")
        for name, place in needed.items():
            self._shared.pop(name, None)
            self._shared[name] = place  # moved to the end: the most recently used
