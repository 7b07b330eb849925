"""The start record that a launcher sends a worker through a pipe, so that it appears in no process list or environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

import msgpack

from starburst_executor.clock import Clock
from starburst_executor.errors import ConfigError, RecordInvalid
from starburst_executor.protocol.resources import resources_of

__all__ = [
    "EXIT_DRAINED",
    "PLATFORMS",
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

_LENGTH_BYTES = 4
# The platforms that start workers without a bootstrap record.
PLATFORMS = ("ecs", "batch")
# Batch kills a container 30 s after SIGTERM, and a job definition with one container cannot change that:
# https://docs.aws.amazon.com/batch/latest/userguide/job_timeouts.html. The other 10 s are for releasing running tasks.
_BATCH_GRACE_S = 20.0
# The exit status of a Batch worker after SIGTERM, as a shell would report it: Batch then starts the job again.
EXIT_DRAINED = 143
# A container's exit status above this means death by a signal: 137 for SIGKILL.
SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The start record of a worker.

    Attributes:
        key: The session's key in hexadecimal; empty to look for it as a user's program would.
        path: `sys.path` of the client, so that modules beside its script are found.
        worker_id: The worker's id.
        bound: Whether the pipe stays open, and the worker ends when the pipe closes.
        tee: Whether to also print the output of tasks on the worker's own standard output.
        authkey: The client's `multiprocessing` key, so that proxies of its managers work in tasks; empty for a worker
            that is not bound to it.
        words: The file for its error message, if it cannot continue; empty for its standard error.
        resources: What the worker has, in place of what it finds by itself.
        launcher_id: What its launcher calls it, if it knows: the ARN of an ECS task or the id of a Batch job.
    """

    key: str
    path: tuple[str, ...]
    worker_id: str
    bound: bool = False
    tee: bool = False
    words: str = ""
    authkey: bytes = b""
    launcher_id: str = ""
    resources: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        return f"Bootstrap(worker_id={self.worker_id!r}, bound={self.bound})"


def new_worker_id(clock: Clock) -> str:
    """Return a new worker id; ids sort by their creation time on the creator's clock."""
    return f"{int(clock.now() * 1000):011x}-{clock.new_id(4)}"


def new_launch_id(clock: Clock) -> str:
    """Return a new launch id, which begins with the time too."""
    return f"{int(clock.now() * 1000):011x}-{clock.new_id()}"


def launched_at(launch_id: str) -> float:
    """Return when a launch began, on its client's clock: UTC epoch seconds, 0 if the id has no time."""
    try:
        return int(launch_id.partition("-")[0], 16) / 1000
    except ValueError:
        return 0.0


def worker_id_of(launch_id: str, digits: str) -> str:
    """Return the id of a worker that its platform names: client and worker derive the same id, which sorts by launch time."""
    return f"{launch_id.partition('-')[0]}-{digits}"


def grace_of(platform: str | None, grace_s: float) -> float:
    """Return how long running tasks may continue after a request to stop: the session's grace, or less if the platform limits it."""
    return min(grace_s, _BATCH_GRACE_S) if platform == "batch" else grace_s


def write_bootstrap(pipe: IO[bytes], bootstrap: Bootstrap) -> None:
    """Write the record and leave the pipe open."""
    fields = tuple(getattr(bootstrap, name) for name in Bootstrap.__slots__)
    body: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
    rest = memoryview(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    while rest:
        rest = rest[pipe.write(rest) :]  # an unbuffered pipe accepts only as many bytes as it has room for


def read_bootstrap(pipe: IO[bytes]) -> Bootstrap:
    """Read the record and no byte after it. Raises: RecordInvalid: it is not a start record, or the launcher died meanwhile."""
    length = int.from_bytes(_read(pipe, _LENGTH_BYTES), "big")
    body = _read(pipe, length)
    if not length or len(body) != length:
        raise RecordInvalid("the launcher ended before it had sent this worker's start record")
    try:
        fields = msgpack.unpackb(body, use_list=False, unicode_errors="surrogateescape")
        key, path, worker_id, bound, tee, words, authkey, launcher_id, resources = fields
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"not a worker's start record: {type(error).__name__}, bytes={length}") from error
    kinds = tuple(type(field) for field in fields)
    if kinds != (str, tuple, str, bool, bool, str, bytes, str, tuple) or not all(type(entry) is str for entry in path):
        raise RecordInvalid(f"a worker's start record has a field of the wrong type: bytes={length}")
    try:
        amounts = resources_of(resources, may_be_zero=True)
    except ConfigError as error:
        raise RecordInvalid(f"a worker's start record has resources that no worker has: bytes={length}") from error
    return Bootstrap(key, path, worker_id, bound, tee, words, authkey, launcher_id, amounts)


def _read(pipe: IO[bytes], n_bytes: int) -> bytes:
    """Read `n_bytes`, or fewer if the pipe ends; an unbuffered pipe returns fewer per read."""
    body = b""
    while len(body) < n_bytes and (more := pipe.read(n_bytes - len(body))):
        body += more
    return body
