"""The record of a study: what is decided, in one object that is changed by swaps alone.

    StudyRecord ── stages: StageRecord ── survivors: Survivor          decode(encode(record)) == record
        └─ changes: Change

The stored form is msgpack: `format`, `digest` (SHA-256 of `body`) and `body`, a map whose fields are read one by one.
Guarantee: reading never runs code and, for any bytes, raises only `RecordInvalid`, which names the field, or `VersionMismatch`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import msgpack

from starburst_executor.errors import RecordInvalid, VersionMismatch

__all__ = [
    "ABORTED",
    "COMPLETE",
    "DONE",
    "FORMAT",
    "OPEN",
    "PENDING",
    "RUNNING",
    "STAGE_STATES",
    "STUDY_STATES",
    "WAITING",
    "Approval",
    "Change",
    "StageRecord",
    "StudyRecord",
    "Survivor",
    "decode",
    "encode",
    "from_plain",
    "to_plain",
]

FORMAT = 1
OPEN, ABORTED, COMPLETE = "open", "aborted", "complete"
STUDY_STATES = (OPEN, ABORTED, COMPLETE)
PENDING, RUNNING, WAITING, DONE = "pending", "running", "waiting", "done"
STAGE_STATES = (PENDING, RUNNING, WAITING, DONE)

_T = TypeVar("_T")
_SURROGATES = "surrogateescape"


@dataclass(frozen=True, slots=True)
class Survivor:
    """A trial that was selected.

    Attributes:
        name: `stage/index`.
        metrics: Its metrics.
        params: Its parameters.
        artefacts: The digests of what it saved, by name.
    """

    name: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    artefacts: Mapping[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def index(self) -> int:
        return int(self.name.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a gate through: a person, or `timeout`; when, UTC epoch seconds; and a note."""

    by: str
    note: str
    at: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a stage that had started, which was accepted, or a restart."""

    stage: str
    what: str
    before: str
    after: str
    at: float


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of a study.

    Attributes:
        name: Its name.
        state: `pending`, `running`, `waiting` (for approval) or `done`.
        trials: Their number.
        edition: How often it was started over, from 1.
        round: How often trials without an outcome were submitted anew, from 1.
        mode: `function` or `command`.
        started_at: UTC epoch seconds; None before.
        completed_at: When it was decided.
        completed: Trials that completed; this and the next two are 0 until it is decided.
        failed: Trials that failed.
        cancelled: Trials that were cancelled or pruned.
        survivors: The chosen trials, the best first.
        reason: The decision, in words.
        policy: The state of the selection.
        table: The digest of the table of its trials, once it is decided.
        carried: The digest of the table of outcomes from earlier rounds.
        approval: Who approved it.
        config: The fingerprint of its configuration.
        code: The fingerprint of its code.
        metadata: The user's own values.
    """

    name: str
    state: str = PENDING
    trials: int = 1
    edition: int = 1
    round: int = 1
    mode: str = "function"
    started_at: float | None = None
    completed_at: float | None = None
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    survivors: tuple[Survivor, ...] = ()
    reason: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    table: str | None = None
    carried: str | None = None
    approval: Approval | None = None
    config: str = ""
    code: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_decided(self) -> bool:
        return self.state in (WAITING, DONE)

    @property
    def has_started(self) -> bool:
        return self.state != PENDING

    def key(self, index: int) -> str:
        """Return the key of a trial's task in its session."""
        return f"{self.name}.{self.edition}.{self.round}/{index}"


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """The whole study.

    Attributes:
        name: Its name, unique in its store.
        generation: Counts the swaps, from 1.
        created_at: UTC epoch seconds.
        state: `open`, `aborted` or `complete`.
        reason: Why it is aborted.
        seed: The seed of the study.
        driver: The id of the driver that may decide; empty before the first.
        session: The URL of the session that runs the trials; empty before it exists.
        settings: The options of the session: workers, launcher, budget and so on.
        definition: The digest of the stored stages with their functions.
        stages: One record a stage, in the order in which they were written.
        changes: Changes that were accepted.
        parent: The study from which this one was forked; empty if none.
        library: The version of this library that created it.
    """

    name: str
    generation: int = 1
    created_at: float = 0.0
    state: str = OPEN
    reason: str = ""
    seed: int = 0
    driver: str = ""
    session: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    definition: str = ""
    stages: tuple[StageRecord, ...] = ()
    changes: tuple[Change, ...] = ()
    parent: str = ""
    library: str = ""

    def stage(self, name: str) -> StageRecord:
        """Return the record of a stage. Raises: LookupError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise LookupError(f"the study {self.name} has no stage {name!r}: there are {', '.join(self.names)}")

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self.stages]


# ------------------------------------------------------------------------------------------------------------ the stored form


def encode(record: StudyRecord, nonce: str) -> bytes:
    """Return the bytes to store. `nonce` must be fresh for every write, so that no two writers have equal bytes."""
    body: bytes = msgpack.packb(to_plain(record), unicode_errors=_SURROGATES)
    digest = hashlib.sha256(body).hexdigest()
    packed: bytes = msgpack.packb({"format": FORMAT, "digest": digest, "nonce": nonce, "body": body})
    return packed


def decode(stored: bytes) -> StudyRecord:
    """Read a record. Raises: RecordInvalid, VersionMismatch."""
    whole = _unpacked(stored)
    version = whole.get("format")
    if type(version) is not int:
        raise RecordInvalid("the record of a study cannot be read: it has no format")
    if version > FORMAT:
        raise VersionMismatch(
            f"the record of this study has a newer format: format={version}, known={FORMAT}; use the version of "
            "starburst_executor that wrote it, or a newer one"
        )
    body = whole.get("body")
    if not isinstance(body, bytes):
        raise RecordInvalid("the record of a study is malformed: field body")
    if hashlib.sha256(body).hexdigest() != whole.get("digest"):
        raise RecordInvalid("the record of a study cannot be read: its content does not have its digest")
    return from_plain(_unpacked(body))


def _unpacked(stored: bytes) -> dict[str, Any]:
    try:
        whole = msgpack.unpackb(stored, unicode_errors=_SURROGATES)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordInvalid(
            f"the record of a study cannot be read: {type(error).__name__}, bytes={len(stored)}"
        ) from error
    if not isinstance(whole, dict):
        raise RecordInvalid("the record of a study cannot be read: it has no fields")
    return whole


def to_plain(record: StudyRecord) -> dict[str, Any]:
    """Return a record as plain values: texts, numbers, lists and maps."""
    return asdict(record)


def from_plain(plain: Mapping[str, Any]) -> StudyRecord:
    """Return the record of plain values, each checked. Raises: RecordInvalid: it names the field."""
    record = _read(StudyRecord, plain, "", _STUDY)
    if record.state not in STUDY_STATES:
        raise RecordInvalid(_malformed("state", f"one of {', '.join(STUDY_STATES)}", record.state))
    for number, stage in enumerate(record.stages):
        if stage.state not in STAGE_STATES:
            raise RecordInvalid(_malformed(f"stages[{number}].state", f"one of {', '.join(STAGE_STATES)}", stage.state))
    return record


_Reader = Callable[[Any, str], Any]


def _exactly(kind: type) -> _Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not kind or (kind is int and value < 0):  # type: ignore[operator]  # an int here
            raise RecordInvalid(_malformed(where, "a number, 0 or more" if kind is int else kind.__name__, value))
        return value

    return read


def _seed(value: Any, where: str) -> Any:
    if type(value) is not int:
        raise RecordInvalid(_malformed(where, "int", value))
    return value


def _number(value: Any, where: str) -> Any:
    if type(value) not in (int, float):
        raise RecordInvalid(_malformed(where, "a number", value))
    return value


def _optional(read: _Reader) -> _Reader:
    return lambda value, where: None if value is None else read(value, where)


def _mapping(read: _Reader | None = None) -> _Reader:
    def read_all(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping) or not all(type(key) is str for key in value):
            raise RecordInvalid(_malformed(where, "a map", value))
        return {key: one if read is None else read(one, f"{where}.{key}") for key, one in value.items()}

    return read_all


def _several(read: _Reader) -> _Reader:
    def read_all(value: Any, where: str) -> Any:
        if not isinstance(value, (tuple, list)):
            raise RecordInvalid(_malformed(where, "a list", value))
        return tuple(read(one, f"{where}[{number}]") for number, one in enumerate(value))

    return read_all


def _read(kind: type[_T], plain: Any, where: str, readers: Mapping[str, _Reader]) -> _T:
    if not isinstance(plain, Mapping):
        raise RecordInvalid(_malformed(where, "a map", plain))
    found = {}
    for one in fields(kind):  # type: ignore[arg-type]  # a dataclass
        place = f"{where}.{one.name}" if where else one.name
        if one.name not in plain:
            raise RecordInvalid(_malformed(place, "a value", "nothing"))
        found[one.name] = readers[one.name](plain[one.name], place)
    return kind(**found)


def _record(kind: type[Any], readers: Mapping[str, _Reader]) -> _Reader:
    return lambda value, where: _read(kind, value, where, readers)


def _malformed(where: str, wanted: str, found: Any) -> str:
    shown = repr(found)
    return f"the record of a study is malformed: field {where}: must be {wanted}, not {shown[:60]}{'…' * (len(shown) > 60)}"  # noqa: PLR2004 - a line


_TEXT, _COUNT = _exactly(str), _exactly(int)
_SURVIVOR: dict[str, _Reader] = {
    "name": _TEXT,
    "metrics": _mapping(_number),
    "params": _mapping(),
    "artefacts": _mapping(_TEXT),
}
_APPROVAL: dict[str, _Reader] = {"by": _TEXT, "note": _TEXT, "at": _number}
_CHANGE: dict[str, _Reader] = {"stage": _TEXT, "what": _TEXT, "before": _TEXT, "after": _TEXT, "at": _number}
_STAGE: dict[str, _Reader] = {
    "name": _TEXT,
    "state": _TEXT,
    "trials": _COUNT,
    "edition": _COUNT,
    "round": _COUNT,
    "mode": _TEXT,
    "started_at": _optional(_number),
    "completed_at": _optional(_number),
    "completed": _COUNT,
    "failed": _COUNT,
    "cancelled": _COUNT,
    "survivors": _several(_record(Survivor, _SURVIVOR)),
    "reason": _TEXT,
    "policy": _mapping(),
    "table": _optional(_TEXT),
    "carried": _optional(_TEXT),
    "approval": _optional(_record(Approval, _APPROVAL)),
    "config": _TEXT,
    "code": _TEXT,
    "metadata": _mapping(),
}
_STUDY: dict[str, _Reader] = {
    "name": _TEXT,
    "generation": _COUNT,
    "created_at": _number,
    "state": _TEXT,
    "reason": _TEXT,
    "seed": _seed,
    "driver": _TEXT,
    "session": _TEXT,
    "settings": _mapping(),
    "definition": _TEXT,
    "stages": _several(_record(StageRecord, _STAGE)),
    "changes": _several(_record(Change, _CHANGE)),
    "parent": _TEXT,
    "library": _TEXT,
}
