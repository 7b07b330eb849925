"""What a launcher tells a worker at its start, through a pipe, so that it is in no process list and no environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

import msgpack

from starburst_executor.clock import Clock
from starburst_executor.errors import RecordInvalid

__all__ = [
    "ENGINES",
    "EXIT_DRAINED",
    "MOST_SLOTS",
    "SIGNALLED",
    "Bootstrap",
    "grace_of",
    "launched_at",
    "new_launch_id",
    "new_worker_id",
    "read_bootstrap",
    "worker_id_of",
    "write_bootstrap",
]

# More processes than any one machine runs well.
MOST_SLOTS = 1024
_LENGTH_BYTES = 4
# What may start a worker without a bootstrap record.
ENGINES = ("ecs", "batch")
# Batch kills what has not ended 30 s after it was told to, and no job definition of one container can change that:
# https://docs.aws.amazon.com/batch/latest/userguide/job_timeouts.html. What is left is for releasing what still runs.
_BATCH_GRACE_S = 20.0
# What a worker of Batch exits with that was told to stop, as a shell reports a SIGTERM: Batch starts it again elsewhere.
EXIT_DRAINED = 143
# A container's exit status above this tells a signal: 137 for SIGKILL.
SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A worker's start.

    Attributes:
        key: The session's key in hexadecimal; empty to look for it as a user's program would.
        path: `sys.path` of the client, so that modules beside its script are found.
        worker_id: The id to work under.
        bound: Whether the pipe stays open and its end is the end of this worker.
        tee: Whether to show what tasks print on its own standard output too.
        authkey: The client's `multiprocessing` key, so that proxies of its managers work in tasks; empty for a worker
            that is not bound to it.
        words: The file for its last words, if it ends because it cannot go on; empty for its error output.
    """

    key: str
    path: tuple[str, ...]
    worker_id: str
    bound: bool = False
    tee: bool = False
    words: str = ""
    authkey: bytes = b""

    def __repr__(self) -> str:
        return f"Bootstrap(worker_id={self.worker_id!r}, bound={self.bound})"


def new_worker_id(clock: Clock) -> str:
    """A fresh worker id; ids sort by the time of their making, as told by whoever made them."""
    return f"{int(clock.now() * 1000):011x}-{clock.new_id(4)}"


def new_launch_id(clock: Clock) -> str:
    """A fresh launch id, of the same form."""
    return f"{int(clock.now() * 1000):011x}-{clock.new_id()}"


def launched_at(launch_id: str) -> float:
    """When a launch began, by the clock of whoever began it: UTC epoch seconds, 0 if it does not say."""
    try:
        return int(launch_id.partition("-")[0], 16) / 1000
    except ValueError:
        return 0.0


def worker_id_of(launch_id: str, digits: str) -> str:
    """The id of a worker that its engine names: both sides can tell it, and it sorts by the time of its launch."""
    return f"{launch_id.partition('-')[0]}-{digits}"


def grace_of(engine: str | None, grace_s: float) -> float:
    """How long what runs may go on once this worker is told to stop: as the session has it, or as the engine lets it."""
    return min(grace_s, _BATCH_GRACE_S) if engine == "batch" else grace_s


def write_bootstrap(pipe: IO[bytes], bootstrap: Bootstrap) -> None:
    """Write it and leave the pipe open."""
    fields = tuple(getattr(bootstrap, name) for name in Bootstrap.__slots__)
    body: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
    rest = memoryview(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    while rest:
        rest = rest[pipe.write(rest) :]  # a pipe without a buffer takes what it has room for


def read_bootstrap(pipe: IO[bytes]) -> Bootstrap:
    """Read it, and nothing after it. Raises: RecordInvalid: it is something else, or the launcher died meanwhile."""
    length = int.from_bytes(_read(pipe, _LENGTH_BYTES), "big")
    body = _read(pipe, length)
    if not length or len(body) != length:
        raise RecordInvalid("the launcher ended before it had told this worker what to do")
    try:
        fields = msgpack.unpackb(body, use_list=False, unicode_errors="surrogateescape")
        key, path, worker_id, bound, tee, words, authkey = fields
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"not a worker's start: {type(error).__name__}, bytes={length}") from error
    kinds = tuple(type(field) for field in fields)
    if kinds != (str, tuple, str, bool, bool, str, bytes) or not all(type(entry) is str for entry in path):
        raise RecordInvalid(f"a worker's start with a field of a wrong type: bytes={length}")
    return Bootstrap(key, path, worker_id, bound, tee, words, authkey)


def _read(pipe: IO[bytes], n_bytes: int) -> bytes:
    """So many bytes, or fewer where the pipe ends; a pipe without a buffer gives them as they come."""
    body = b""
    while len(body) < n_bytes and (more := pipe.read(n_bytes - len(body))):
        body += more
    return body
