"""The stored form of a study's record: msgpack with `format`, `digest` (SHA-256 of `body`) and `body`, a map whose fields are read one by one.

    StudyRecord ──encode──► bytes ──decode──► StudyRecord        decode(encode(record)) == record

Guarantee: reading never runs code and, for any bytes, raises only `RecordInvalid`, which names the field, or `VersionMismatch`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

import msgpack

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.study.artefacts import Artefact, of_plain
from starburst_executor.study.record import (
    STAGE_STATES,
    STUDY_STATES,
    Approval,
    Change,
    Measure,
    StageRecord,
    StudyRecord,
    Survivor,
)
from starburst_executor.study.stage import MOST_TRIALS

__all__ = ["FORMAT", "decode", "encode", "from_plain", "to_plain"]

_YEAR_10000 = 253_402_300_800
FORMAT = 3  # 2: settings and code of a stage as maps, what it depends on and measures; size and kind of artefacts. 3: seals of stages

_T = TypeVar("_T")
_SURROGATES = "surrogateescape"


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
    if version < FORMAT:
        raise VersionMismatch(
            f"the record of this study has an older format: format={version}, known={FORMAT}; finish it with the version of "
            "starburst_executor that wrote it, or delete it"
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


def _trials(value: Any, where: str) -> Any:
    if type(value) is not int or not 0 <= value <= MOST_TRIALS:
        raise RecordInvalid(_malformed(where, f"a number, 0..{MOST_TRIALS:,}", value))
    return value


def _seed(value: Any, where: str) -> Any:
    if type(value) is not int:
        raise RecordInvalid(_malformed(where, "int", value))
    return value


def _number(value: Any, where: str) -> Any:
    if type(value) not in (int, float):
        raise RecordInvalid(_malformed(where, "a number", value))
    return value


def _time(value: Any, where: str) -> Any:
    if type(value) not in (int, float) or not 0 <= value < _YEAR_10000:
        raise RecordInvalid(_malformed(where, "seconds since 1970, before the year 10000", value))
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


def _artefact(value: Any, where: str) -> Artefact:
    try:
        return of_plain({"": value})[""]
    except (TypeError, ValueError) as error:
        raise RecordInvalid(_malformed(where, "a digest, a size and a kind", value)) from error


def _measure(value: Any, where: str) -> Measure:
    if isinstance(value, (tuple, list)) and len(value) == len(Measure._fields) and all(type(v) is str for v in value):
        return Measure(*value)
    raise RecordInvalid(_malformed(where, "a direction and a unit", value))


def _malformed(where: str, wanted: str, found: Any) -> str:
    shown = repr(found)
    return f"the record of a study is malformed: field {where}: must be {wanted}, not {shown[:60]}{'…' * (len(shown) > 60)}"  # noqa: PLR2004 - a line


_TEXT, _COUNT = _exactly(str), _exactly(int)
_SURVIVOR: dict[str, _Reader] = {
    "name": _TEXT,
    "metrics": _mapping(_number),
    "params": _mapping(),
    "artefacts": _mapping(_artefact),
}
_APPROVAL: dict[str, _Reader] = {"by": _TEXT, "note": _TEXT, "at": _time}
_CHANGE: dict[str, _Reader] = {"stage": _TEXT, "what": _TEXT, "before": _TEXT, "after": _TEXT, "at": _time}
_STAGE: dict[str, _Reader] = {
    "name": _TEXT,
    "state": _TEXT,
    "trials": _trials,
    "edition": _COUNT,
    "round": _COUNT,
    "mode": _TEXT,
    "started_at": _optional(_time),
    "completed_at": _optional(_time),
    "completed": _COUNT,
    "failed": _COUNT,
    "cancelled": _COUNT,
    "survivors": _several(_record(Survivor, _SURVIVOR)),
    "reason": _TEXT,
    "policy": _mapping(),
    "table": _optional(_TEXT),
    "carried": _optional(_TEXT),
    "approval": _optional(_record(Approval, _APPROVAL)),
    "config": _mapping(_TEXT),
    "code": _mapping(_TEXT),
    "metadata": _mapping(),
    "depends_on": _several(_TEXT),
    "measures": _mapping(_measure),
    "seal": _TEXT,
}
_STUDY: dict[str, _Reader] = {
    "name": _TEXT,
    "generation": _COUNT,
    "created_at": _time,
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
