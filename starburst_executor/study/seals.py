"""Seals of what a study's record hands on to later trials: survivors with their artefacts, and the digests of tables of outcomes.

    a driver decides, or carries outcomes ──sealed──► StageRecord.seal ──checked──► inputs of later stages, outcomes that count already

Guarantee: an artefact that a trial loads was named by a driver with the study's key. A program that can write the store, but has no key, may
change the record, yet no worker unpickles what it put there.

A seal stands for one stage and edition of one study. The session's key is used instead of the study's by a driver that is a task on AWS.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import msgpack

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.seal import Sealer
from starburst_executor.study.record import StageRecord, StudyRecord

__all__ = ["Seals", "digests_of"]

_KIND = "stage"


class Seals:
    """Seals the stages of one study's record, and checks their seals. Not thread-safe.

    Args:
        sealer: Under the study's key.
        others: Returns further sealers whose seals count; asked at most once, and only for a seal that is not of `sealer`.
        known: Digests of stages that count without their seal, since a process that could check it has.
    """

    def __init__(
        self,
        sealer: Sealer,
        others: Callable[[], Iterable[Sealer]] = tuple,
        known: Collection[str] = (),
    ) -> None:
        self._sealer = sealer
        self._ask_others = others
        self._others: list[Sealer] | None = None
        self._known = frozenset(known)

    def sealed(self, changed: StudyRecord, before: StudyRecord | None = None) -> StudyRecord:
        """Return the record with a new seal for each stage whose survivors or tables differ from those of `before`."""
        old = {} if before is None else {stage.name: stage for stage in before.stages}
        stages = tuple(self._with_seal(stage, old.get(stage.name)) for stage in changed.stages)
        is_same = all(one is other for one, other in zip(stages, changed.stages, strict=True))
        return changed if is_same else replace(changed, stages=stages)

    def check(self, record: StudyRecord, names: Iterable[str]) -> None:
        """Check the seals of these stages. Raises: RecordInvalid: one has no seal of this study's, or another one."""
        for name in names:
            stage = record.stage(name)
            if not self._is_valid(stage):
                raise RecordInvalid(
                    f"the record of a study has a wrong seal, and nothing that it names was loaded: study={record.name}, stage={name}; it was "
                    f"changed, or sealed with another key: with the key of the user who ran that stage it goes on; without it, restart={name!r} "
                    f"(--restart {name}) runs the stage again"
                )

    def _is_valid(self, stage: StageRecord) -> bool:
        handed_on = _handed_on(stage)
        if handed_on is None or _matches(self._sealer, stage, handed_on) or _digest(stage, handed_on) in self._known:
            return True
        if self._others is None:
            self._others = list(self._ask_others())
        return any(_matches(sealer, stage, handed_on) for sealer in self._others)

    def _with_seal(self, stage: StageRecord, old: StageRecord | None) -> StageRecord:
        # What did not change keeps the seal that it has, also a wrong one.
        if (
            stage is old
            or (handed_on := _handed_on(stage)) is None
            or (old is not None and handed_on == _handed_on(old))
        ):
            return stage
        return replace(stage, seal=_seal(self._sealer, stage, handed_on))


def digests_of(record: StudyRecord) -> list[str]:
    """Return what `Seals` takes as known of stages whose seals were checked."""
    found = [(stage, _handed_on(stage)) for stage in record.stages]
    return [_digest(stage, handed_on) for stage, handed_on in found if handed_on is not None]


def _handed_on(stage: StageRecord) -> bytes | None:
    """Return what later trials get of a stage, as bytes; None if it is nothing."""
    if not stage.survivors and stage.table is None and stage.carried is None:
        return None
    survivors = [(one.name, dict(one.metrics), dict(one.params), dict(one.artefacts)) for one in stage.survivors]
    packed: bytes = msgpack.packb([survivors, stage.table, stage.carried], unicode_errors="surrogateescape")
    return packed


def _seal(sealer: Sealer, stage: StageRecord, handed_on: bytes) -> str:
    return sealer.seal(_KIND, f"{stage.name}.{stage.edition}", handed_on).hex()


def _matches(sealer: Sealer, stage: StageRecord, handed_on: bytes) -> bool:
    found = stage.seal.encode("utf-8", "replace")
    return hmac.compare_digest(_seal(sealer, stage, handed_on).encode(), found)


def _digest(stage: StageRecord, handed_on: bytes) -> str:
    return hashlib.sha256(f"{stage.name}.{stage.edition}\0".encode() + handed_on).hexdigest()
