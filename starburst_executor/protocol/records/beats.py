"""Beats of workers and of attached clients. The length of a stored beat contains its writer's state."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.records.fields import Fields, typed
from starburst_executor.texts import shortened

__all__ = [
    "NOTE_CHARS",
    "ClientBeat",
    "Latency",
    "Running",
    "WorkerBeat",
    "WorkerState",
    "decode_beat",
    "decode_client_beat",
    "one_line",
    "padded",
    "state_of",
]

# The longest text that a task's note has; a beat of 1,024 slots with such notes stays below 300 KB.
NOTE_CHARS = 200


class WorkerState(str, enum.Enum):
    """The state that a worker reports of itself. A worker may return from `LEAVING`, but not from `LEFT`."""

    WORKING = "working"
    IDLE = "idle"
    LEAVING = "leaving"
    LEFT = "left"


# The state in the length of a beat, modulo 8, by index. An attached client counts as working.
_STATES = (WorkerState.WORKING, WorkerState.IDLE, WorkerState.LEAVING, WorkerState.LEFT)


class Running(NamedTuple):
    """A task that a worker runs, with what it uses and what it has reported of itself by `TaskContext.progress`.

    Attributes:
        task: Its id.
        since: When it began, UTC epoch seconds.
        cpu: The processors that its process used, with all processes that it started, since the beat before; 1.0 is one processor. None
            if this is not known.
        memory_bytes: The memory of these processes together; None if this is not known.
        done: The steps that it has done; None if it has reported nothing.
        total: The number of its steps; None if it did not say.
        text: What it does now; at most `NOTE_CHARS` characters in one line.
    """

    task: str
    since: float
    cpu: float | None = None
    memory_bytes: int | None = None
    done: float | None = None
    total: float | None = None
    text: str = ""


class Latency(NamedTuple):
    """Store requests of a worker within the last minute, and the time they took.

    Attributes:
        n_reads: GETs, also those that were answered by "not modified", and pages of listings.
        read_us: Their microseconds.
        n_writes: Creates, swaps and puts.
        write_us: Theirs.
    """

    n_reads: int = 0
    read_us: int = 0
    n_writes: int = 0
    write_us: int = 0


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """One beat of a worker.

    Attributes:
        number: Ascending number of the beat.
        state: The worker's state.
        slots: The number of tasks it runs at once.
        claims: Every claim that it holds or is writing, with the key of the status object.
        running: The running tasks.
        n_ended: Tasks that it has ended so far.
        per_s: Tasks that it has ended per second recently.
        requests: Store requests so far, by kind.
        where: Host and process.
        words: In the last beat of a worker that cannot go on: the reason. Such a beat names only the claims whose tasks
            may have started.
        vcpus: The vCPUs that a launcher on AWS requested for its container; 0 if no such launcher started it.
        memory_gb: Likewise, its memory.
        gpus: Likewise, its GPUs.
        resources: What it has of each resource.
        lost_s: Seconds of work that were lost when it was stopped.
        n_failed: Tasks that it has ended as failed so far, with those of lost workers that it watched, and those that waited for a task that failed.
        latency: How long its store requests took within the last minute.
        launcher_id: What its launcher calls it: the ARN of its ECS task or the id of its Batch job; elsewhere its process id.
        trouble: The last error of a store request that it has made for ten seconds without a clear answer; empty if there is none.
        process: The name under which its own machine can look up this process (`launch/local/processes.py`).
    """

    worker_id: str
    number: int
    state: WorkerState
    slots: int
    started_at: float
    at: float
    claims: Mapping[str, str] = field(default_factory=dict)
    running: tuple[Running, ...] = ()
    n_ended: int = 0
    per_s: float = 0.0
    requests: Mapping[str, int] = field(default_factory=dict)
    where: str = ""
    words: str = ""
    process: str = ""
    vcpus: float = 0.0
    memory_gb: float = 0.0
    gpus: int = 0
    lost_s: float = 0.0
    n_failed: int = 0
    resources: Mapping[str, int] = field(default_factory=dict)
    latency: Latency = field(default_factory=Latency)
    launcher_id: str = ""
    trouble: str = ""

    @property
    def host(self) -> str:
        """The machine, so that a failed task can be tried on another one."""
        return self.where.rpartition(":")[0]

    @property
    def has_failed(self) -> bool:
        """Whether it left because it could not go on, without having ended a task."""
        return self.state == WorkerState.LEFT and bool(self.words) and not self.n_ended


@dataclass(frozen=True, slots=True)
class ClientBeat:
    """One beat of an attached client.

    Attributes:
        left: Whether it has left normally.
        process: A name of its process for other clients on the same machine; empty if there is none.
    """

    client_id: str
    number: int
    at: float
    left: bool = False
    process: str = ""


def padded(packed: bytes, beat: WorkerBeat | ClientBeat) -> bytes:
    """Return a packed beat, whose last field is an empty pad, in the length that shows the writer's state (`state_of`)."""
    n_pad = (_STATES.index(_state(beat)) - len(packed)) % 8
    # An empty pad ends with its length byte, so that it can be extended in place.
    return packed[:-1] + bytes([n_pad]) + b"\0" * n_pad


def _state(beat: WorkerBeat | ClientBeat) -> WorkerState:
    if isinstance(beat, WorkerBeat):
        return beat.state
    return WorkerState.LEFT if beat.left else WorkerState.WORKING


def state_of(size: int) -> WorkerState:
    """Return the state of the writer of a beat of this size. `LEFT` is final; any other state may be out of date."""
    return _STATES[size % 8] if size % 8 < len(_STATES) else WorkerState.WORKING


def decode_beat(body: bytes) -> WorkerBeat:
    """Decode a worker's beat. Raises: RecordInvalid, VersionMismatch."""
    fields = Fields(body, "worker's beat")
    return WorkerBeat(
        worker_id=fields.take("worker_id", str),
        number=fields.take("number", int),
        state=fields.member("state", WorkerState),
        slots=fields.take("slots", int),
        started_at=fields.take("started_at", float),
        at=fields.take("at", float),
        claims=fields.mapping("claims", str),
        running=tuple(_running(raw) for raw in fields.take("running", tuple)),
        n_ended=fields.take("n_ended", int),
        per_s=fields.take("per_s", float),
        requests=fields.mapping("requests", int),
        where=fields.take("where", str),
        words=fields.take("words", str),
        process=fields.take("process", str),
        vcpus=fields.take("vcpus", float),
        memory_gb=fields.take("memory_gb", float),
        gpus=fields.take("gpus", int),
        lost_s=fields.take("lost_s", float),
        n_failed=fields.take("n_failed", int),
        resources=fields.mapping("resources", int),
        latency=_latency(fields.take("latency", tuple)),
        launcher_id=one_line(fields.take("launcher_id", str)),
        trouble=fields.take("trouble", str),
    )


def decode_client_beat(body: bytes) -> ClientBeat:
    """Decode a client's beat. Raises: RecordInvalid, VersionMismatch."""
    fields = Fields(body, "client's beat")
    return ClientBeat(
        client_id=fields.take("client_id", str),
        number=fields.take("number", int),
        at=fields.take("at", float),
        left=fields.take("left", bool),
        process=fields.take("process", str),
    )


def one_line(text: str) -> str:
    """Return a text of a task as at most `NOTE_CHARS` printable characters: it may be shown on a terminal."""
    return "".join(character if character.isprintable() else " " for character in shortened(text, NOTE_CHARS))


def _latency(raw: tuple[object, ...]) -> Latency:
    where = "worker's beat, field latency"
    if len(raw) != len(Latency._fields):
        raise RecordInvalid(f"a wrong length in a {where}")
    return Latency(*(typed(number, int, where) for number in raw))


def _running(raw: object) -> Running:
    where = "worker's beat, field running"
    fields = typed(raw, tuple, where)
    if len(fields) != len(Running._fields):
        raise RecordInvalid(f"a wrong length in a {where}")
    task, since, cpu, memory_bytes, done, total, text = fields
    return Running(
        typed(task, str, where),
        typed(since, float, where),
        _amount(cpu, where),
        None if memory_bytes is None else typed(memory_bytes, int, where),
        _amount(done, where),
        _amount(total, where),
        one_line(typed(text, str, where)),
    )


def _amount(value: object, where: str) -> float | None:
    if value is None:
        return None
    amount = typed(value, float, where)
    if not (math.isfinite(amount) and amount >= 0):
        raise RecordInvalid(f"a number out of range in a {where}")
    return amount
