"""Manifest, beats and bell, to and from msgpack.

Guarantee: decoding never runs code and, for any bytes, raises only `RecordInvalid` or `VersionMismatch`.

Every record contains `format`, the number of the session's format, and a fresh `nonce`, so that ETags never repeat. A beat
is padded so that `len % 8` is its writer's state (`state_of`): a listing shows which workers have left.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgpack

from starburst_executor.config import Timings
from starburst_executor.errors import RecordInvalid, VersionMismatch

__all__ = [
    "ATTACHED",
    "DETACHED",
    "FORMAT",
    "Bell",
    "ClientBeat",
    "Launch",
    "Manifest",
    "SessionState",
    "Submitter",
    "WorkerBeat",
    "WorkerState",
    "decode_beat",
    "decode_bell",
    "decode_client_beat",
    "decode_manifest",
    "encode",
    "settings_of",
    "state_of",
]

FORMAT = 1
_ANY_BYTES = "surrogateescape"
_SETTINGS = (
    *("kind", "workers", "initializer", "owner", "keep", "idle_exit", "deadline_at"),
    *("retries", "max_losses", "max_result_bytes", "task_timeout", "max_tasks_per_child"),
    *("budget_usd", "max_hourly_cost"),
)
# The two kinds of session: an attached one ends with its client, a detached one outlives it.
ATTACHED = "attached"
DETACHED = "detached"
_T = TypeVar("_T")


class SessionState(str, enum.Enum):
    """The states of a session; it only moves forward."""

    OPEN = "open"
    CLOSING = "closing"
    TERMINATED = "terminated"
    EXPIRED = "expired"
    BROKEN = "broken"
    DELETED = "deleted"

    @property
    def is_over(self) -> bool:
        """Whether no further task may start. Any client or worker may then end the remaining tasks."""
        return self not in (SessionState.OPEN, SessionState.CLOSING)

    def may_become(self, other: SessionState) -> bool:
        """Return whether a swap from this state to `other` is a step forward."""
        return _AGE[other] > _AGE[self]


_AGE = {
    SessionState.OPEN: 0,
    SessionState.CLOSING: 1,
    SessionState.TERMINATED: 2,
    SessionState.EXPIRED: 2,
    SessionState.BROKEN: 2,
    SessionState.DELETED: 3,
}


class WorkerState(str, enum.Enum):
    """The state that a worker reports of itself. A worker may return from `LEAVING`, but not from `LEFT`."""

    WORKING = "working"
    IDLE = "idle"
    LEAVING = "leaving"
    LEFT = "left"


# The state in the length of a beat, modulo 8, by index. An attached client counts as working.
_STATES = (WorkerState.WORKING, WorkerState.IDLE, WorkerState.LEAVING, WorkerState.LEFT)


@dataclass(frozen=True, slots=True)
class Submitter:
    """One submitting client. Its ordinal is its place in the manifest.

    Attributes:
        client_id: Its id, as in its beats.
        epochs: The number of epochs it has opened.
        open: The epochs that are still listed, ascending.
        holds: Epochs that a retry keeps open, each with the retry's id.
        left: Whether the client submits nothing more: each of its epochs is then closed once all its tasks have ended, full or
            not. A client that was taken for gone by mistake resets it.
    """

    client_id: str
    epochs: int
    open: tuple[int, ...]
    holds: tuple[tuple[int, str], ...] = ()
    left: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """Workers requested from a launcher: an intent, and its handle once the launcher has replied.

    Attributes:
        launch_id: Fresh for each intent.
        launcher: The launcher's name.
        slots: The number of tasks that these workers run at once.
        handle: The launcher's text for finding them again and starting the rest; empty until the launcher has replied.
        at: The time of the request, UTC epoch seconds of the requesting client; renewed until all are started.
        settled: No more of them will be started.
        started: Slots started so far.
        since: When the first slots were started, UTC epoch seconds of that client.
        usd_per_hour: The estimated cost of all `slots` an hour; 0 if no cost is known.
        client: The id of the client that starts them; empty if it left before all were started.
        n_taken: How many of these workers the platform has interrupted, as far as a client has observed.
    """

    launch_id: str
    launcher: str
    slots: int
    handle: str
    at: float
    settled: bool = False
    started: int = 0
    since: float = 0.0
    usd_per_hour: float = 0.0
    client: str = ""
    n_taken: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The configuration and the state of a session.

    Attributes:
        seal: The seal of the settings (`settings_of`) under the session's key.
        owner: The process of the client that created it, as that client's machine names it (`client/owner.py`).
        keep: Whether its objects stay after its end until the user deletes them.

    Attributes for costs (`protocol/money.py`):
        budget_usd: The session ends when its workers have cost this many dollars, or None.
        max_hourly_cost: Workers that would raise its cost above this many dollars an hour are not started, or None.
        spent_usd: Dollars that the workers of launches have cost that are no longer in `launches`.
    """

    session_id: str
    kind: str
    created_at: float
    python: str
    library: str
    token: bytes
    workers: int
    timings: Timings
    state: SessionState = SessionState.OPEN
    reason: str = ""
    launcher: str = "none"
    launcher_seal: bytes = b""
    retries: int = 0
    max_losses: int = 3
    max_result_bytes: int = 2**40
    task_timeout: float | None = None
    max_tasks_per_child: int | None = None
    initializer: str | None = None
    deadline_at: float | None = None
    idle_exit: bool = True
    submitters: tuple[Submitter, ...] = ()
    launches: tuple[Launch, ...] = ()
    budget_usd: float | None = None
    max_hourly_cost: float | None = None
    spent_usd: float = 0.0
    seal: bytes = b""
    owner: str = ""
    keep: bool = False
    n_taken: int = 0  # interrupted workers of launches that are no longer in `launches`

    @property
    def n_interruptions(self) -> int:
        """The number of workers that the platform has interrupted, over all launches."""
        return self.n_taken + sum(launch.n_taken for launch in self.launches)

    def open_epochs(self) -> list[tuple[int, int]]:
        """Return (ordinal, number) of every epoch that is listed."""
        return [(ordinal, number) for ordinal, s in enumerate(self.submitters) for number in s.open]

    def with_submitter(self, ordinal: int, submitter: Submitter) -> Manifest:
        """Return the manifest with that submitter replaced, or appended."""
        changed = list(self.submitters)
        changed[ordinal : ordinal + 1] = [submitter]
        return replace(self, submitters=tuple(changed))


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """One beat of a worker.

    Attributes:
        number: Ascending number of the beat.
        state: The worker's state.
        slots: The number of tasks it runs at once.
        claims: Every claim that it holds or is writing, with the key of the status object.
        running: Ids of the running tasks, with the UTC epoch seconds of their start.
        n_ended: Tasks that it has ended so far.
        per_s: Tasks that it has ended per second recently.
        requests: Store requests so far, by kind.
        where: Host and process.
        words: In the last beat of a worker that cannot go on: the reason. Such a beat names only the claims whose tasks
            may have started.
        vcpus: The vCPUs that a launcher on AWS requested for its container; 0 if no such launcher started it.
        memory_gb: Likewise, its memory.
        gpus: Likewise, its GPUs.
        lost_s: Seconds of work that were lost when it was stopped.
        process: The name under which its own machine can look up this process (`launch/local/processes.py`).
    """

    worker_id: str
    number: int
    state: WorkerState
    slots: int
    started_at: float
    at: float
    claims: Mapping[str, str] = field(default_factory=dict)
    running: tuple[tuple[str, float], ...] = ()
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


@dataclass(frozen=True, slots=True)
class Bell:
    """Wakes idle workers. It is only a hint: correctness does not depend on it.

    Attributes:
        keys: The newest status objects with pending tasks, newest last.
        n_tasks: Approximate number of tasks that became pending since the previous ring.
    """

    keys: tuple[str, ...] = ()
    n_tasks: int = 0


def encode(record: Manifest | WorkerBeat | ClientBeat | Bell, nonce: str) -> bytes:
    """Return the bytes to store. `nonce` must be fresh for every write."""
    fields = {name: _plain(getattr(record, name)) for name in record.__dataclass_fields__}
    # Host names and other programs' messages may contain bytes that are not UTF-8; Python represents them as surrogates.
    whole = {"format": FORMAT, "nonce": nonce, **fields}
    if isinstance(record, Manifest | Bell):
        packed: bytes = msgpack.packb(whole, unicode_errors=_ANY_BYTES)
        return packed
    packed = msgpack.packb({**whole, "pad": b""}, unicode_errors=_ANY_BYTES)
    n_pad = (_STATES.index(_state(record)) - len(packed)) % 8
    # The pad is the last field, and an empty pad ends with its length byte, so that it can be extended in place.
    return packed[:-1] + bytes([n_pad]) + b"\0" * n_pad


def _state(beat: WorkerBeat | ClientBeat) -> WorkerState:
    if isinstance(beat, WorkerBeat):
        return beat.state
    return WorkerState.LEFT if beat.left else WorkerState.WORKING


def state_of(size: int) -> WorkerState:
    """Return the state of the writer of a beat of this size. `LEFT` is final; any other state may be out of date."""
    return _STATES[size % 8] if size % 8 < len(_STATES) else WorkerState.WORKING


def decode_manifest(body: bytes) -> Manifest:
    """Decode a manifest. Raises: RecordInvalid, VersionMismatch."""
    fields = _Fields(body, "manifest")
    return Manifest(
        session_id=fields.take("session_id", str),
        kind=fields.take("kind", str),
        created_at=fields.take("created_at", float),
        python=fields.take("python", str),
        library=fields.take("library", str),
        token=fields.take("token", bytes),
        workers=fields.take("workers", int),
        timings=Timings.from_record(fields.take("timings", dict)),
        state=fields.member("state", SessionState),
        reason=fields.take("reason", str),
        launcher=fields.take("launcher", str),
        launcher_seal=fields.take("launcher_seal", bytes),
        retries=fields.take("retries", int),
        max_losses=fields.take("max_losses", int),
        max_result_bytes=fields.take("max_result_bytes", int),
        task_timeout=fields.optional("task_timeout", float),
        max_tasks_per_child=fields.optional("max_tasks_per_child", int),
        initializer=fields.optional("initializer", str),
        deadline_at=fields.optional("deadline_at", float),
        idle_exit=fields.take("idle_exit", bool),
        submitters=tuple(_submitter(raw) for raw in fields.take("submitters", tuple)),
        launches=tuple(_launch(raw) for raw in fields.take("launches", tuple)),
        budget_usd=fields.optional("budget_usd", float),
        max_hourly_cost=fields.optional("max_hourly_cost", float),
        spent_usd=fields.take("spent_usd", float),
        seal=fields.take("seal", bytes),
        owner=fields.take("owner", str),
        keep=fields.take("keep", bool),
        n_taken=fields.take("n_taken", int),
    )


def settings_of(manifest: Manifest) -> bytes:
    """Return the bytes that a manifest's seal covers: all settings that only a client with the session's key may choose.

    These are the initializer, the budget and cost limits, the session's lifetime, the rules by which tasks fail, and whether
    the session may be swept. The seal does not cover the fields that workers and clients change continually: states, epochs,
    launches and money spent. It does not cover the launcher, which has its own seal; the version of Python, which can only
    cause a refusal; or the timings, to which other releases may add fields.
    """
    values = [getattr(manifest, name) for name in _SETTINGS]
    # A limit may be set as an integer; it is decoded as a float.
    numbers = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    packed: bytes = msgpack.packb(numbers, unicode_errors=_ANY_BYTES)
    return packed


def decode_beat(body: bytes) -> WorkerBeat:
    """Decode a worker's beat. Raises: RecordInvalid, VersionMismatch."""
    fields = _Fields(body, "worker's beat")
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
    )


def decode_client_beat(body: bytes) -> ClientBeat:
    """Decode a client's beat. Raises: RecordInvalid, VersionMismatch."""
    fields = _Fields(body, "client's beat")
    return ClientBeat(
        client_id=fields.take("client_id", str),
        number=fields.take("number", int),
        at=fields.take("at", float),
        left=fields.take("left", bool),
        process=fields.take("process", str),
    )


def decode_bell(body: bytes) -> Bell:
    """Decode a bell. Raises: RecordInvalid, VersionMismatch."""
    fields = _Fields(body, "bell")
    keys = tuple(_of(key, str, "bell") for key in fields.take("keys", tuple))
    return Bell(keys, fields.take("n_tasks", int))


class _Fields:
    """Decodes one record, field by field, and checks each field's type."""

    def __init__(self, body: bytes, what: str) -> None:
        self._what = what
        try:
            record = msgpack.unpackb(body, use_list=False, unicode_errors=_ANY_BYTES)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise RecordInvalid(f"not a {what}: {type(error).__name__}, bytes={len(body)}") from error
        if not isinstance(record, dict):
            raise RecordInvalid(f"not a {what}: no fields")
        self._record: dict[object, Any] = record
        if (stored := self.take("format", int)) != FORMAT:
            raise VersionMismatch(
                f"a {what} of a format that this version does not support: format={stored}, known={FORMAT}; "
                "use the version of starburst_executor that wrote it, or a newer one"
            )

    def take(self, name: str, kind: type[_T]) -> _T:
        return _of(self._record.get(name), kind, f"{self._what}, field {name}")

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        return None if self._record.get(name) is None else self.take(name, kind)

    def member(self, name: str, kind: type[_T]) -> _T:
        try:
            return kind(self.take(name, str))  # type: ignore[call-arg]  # an Enum is called with its value
        except ValueError as error:
            raise RecordInvalid(f"an unknown value in a {self._what}: field {name}") from error

    def mapping(self, name: str, kind: type[_T]) -> dict[str, _T]:
        where = f"{self._what}, field {name}"
        return {_of(k, str, where): _of(v, kind, where) for k, v in self.take(name, dict).items()}


def _of(value: object, kind: type[_T], where: str) -> _T:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is int and value < 0):  # type: ignore[operator]  # an int here
        raise RecordInvalid(f"a wrong type in a {where}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _submitter(raw: object) -> Submitter:
    where = "manifest, field submitters"
    fields = _of(raw, tuple, where)
    if len(fields) != len(Submitter.__slots__):
        raise RecordInvalid(f"a wrong length in a {where}")
    client_id, epochs, opened, holds, left = fields
    return Submitter(
        _of(client_id, str, where),
        _of(epochs, int, where),
        tuple(_of(number, int, where) for number in _of(opened, tuple, where)),
        tuple(_hold(hold, where) for hold in _of(holds, tuple, where)),
        _of(left, bool, where),
    )


def _hold(raw: object, where: str) -> tuple[int, str]:
    hold = _of(raw, tuple, where)
    if len(hold) != 2:  # noqa: PLR2004 - epoch and id
        raise RecordInvalid(f"a wrong length in a {where}")
    return _of(hold[0], int, where), _of(hold[1], str, where)


def _launch(raw: object) -> Launch:
    where = "manifest, field launches"
    fields = _of(raw, tuple, where)
    if len(fields) != len(Launch.__slots__):
        raise RecordInvalid(f"a wrong length in a {where}")
    launch_id, launcher, slots, handle, at, settled, started, since, usd_per_hour, client, n_taken = fields
    return Launch(
        _of(launch_id, str, where),
        _of(launcher, str, where),
        _of(slots, int, where),
        _of(handle, str, where),
        _of(at, float, where),
        _of(settled, bool, where),
        _of(started, int, where),
        _of(since, float, where),
        _of(usd_per_hour, float, where),
        _of(client, str, where),
        _of(n_taken, int, where),
    )


def _running(raw: object) -> tuple[str, float]:
    where = "worker's beat, field running"
    pair = _of(raw, tuple, where)
    if len(pair) != 2:  # noqa: PLR2004 - task and time
        raise RecordInvalid(f"a wrong length in a {where}")
    return _of(pair[0], str, where), _of(pair[1], float, where)


def _plain(value: object) -> object:
    """Convert a field for msgpack; records within records become tuples of their fields."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Timings):
        return value.to_record()
    if isinstance(value, Submitter | Launch):
        return tuple(getattr(value, name) for name in value.__slots__)
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return dict(value) if isinstance(value, Mapping) else value
