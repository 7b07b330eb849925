"""Lists, fetches and cleans up what the trials of a study saved. Needs no key and loads no function."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from starburst_executor.errors import ConfigError, RecordInvalid
from starburst_executor.study.artefacts import BYTES, KEEP_ALL, KEEP_SURVIVORS, Artefact, check_name, keep_of
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import RUNNING, StudyRecord

__all__ = ["Cleaned", "TrialArtefact", "artefacts_of", "check_trials", "chosen_of", "clean", "fetch"]

_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class TrialArtefact:
    """An artefact and the trial that saved it.

    Attributes:
        trial: `stage/index`.
        name: As the trial named it.
        digest: The SHA-256 of its bytes.
        size: Their number.
        kind: `bytes` (also of files and figures), `array` (a NumPy file) or `pickle`.
        is_survivor: Whether the trial was selected.
    """

    trial: str
    name: str
    digest: str
    size: int
    kind: str = BYTES
    is_survivor: bool = False

    @property
    def artefact(self) -> Artefact:
        return Artefact(self.digest, self.size, self.kind)

    @property
    def stage(self) -> str:
        return self.trial.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a cleanup did.

    Attributes:
        removed: The number of objects that were removed.
        removed_bytes: The sum of their sizes.
        kept: The number of different artefacts that were kept.
    """

    removed: int
    removed_bytes: int
    kept: int


def artefacts_of(objects: StudyObjects, record: StudyRecord) -> list[TrialArtefact]:
    """Return the artefacts of all trials of decided stages, by stage, index and name. Store: 1 GET for each decided stage."""
    return list(_named(objects, record))


def _named(objects: StudyObjects, record: StudyRecord) -> Iterator[TrialArtefact]:
    for stage in record.stages:
        if stage.table is None:
            continue
        survivors = {survivor.name for survivor in stage.survivors}
        for row in objects.read_table(stage.table):
            for name, artefact in sorted(row.artefacts.items()):
                yield TrialArtefact(row.name, name, *artefact, is_survivor=row.name in survivors)


def fetch(objects: StudyObjects, chosen: Iterable[TrialArtefact], folder: Path) -> Iterator[tuple[TrialArtefact, Path]]:
    """Write artefacts as `folder/stage/index/name`, and yield each with its path once it is whole. A file that is there already
    with the same content is left as it is.

    Raises: RecordInvalid: an artefact is missing or has been changed, or its name is no safe path. OSError.
    """
    for one in chosen:
        try:
            path = folder / one.trial / check_name(one.name)
        except ValueError as error:
            raise RecordInvalid(
                f"an artefact of trial {one.trial} has a name that no trial can give: {error}"
            ) from error
        if not _has(path, one.digest, one.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = path.with_name(f".{one.digest[:16]}.part")
            try:
                with begun.open("wb") as file:
                    for part in objects.artefacts.stream(one.artefact):
                        file.write(part)
                begun.replace(path)
            finally:
                begun.unlink(missing_ok=True)
        yield one, path


def check_trials(record: StudyRecord, trials: Iterable[str]) -> None:
    """Check that these are trials or stages of a study. Raises: LookupError: it says which there are."""
    for named in trials:
        if named in record.names:
            continue
        name, _, index = named.rpartition("/")
        if not name:
            record.stage(named)  # raises
        stage = record.stage(name)
        if not index.isdecimal() or int(index) >= stage.trials:
            raise LookupError(
                f"no such trial: {named!r}: stage {name} has {name}/0 to {name}/{stage.trials - 1}: study={record.name}"
            )


def chosen_of(
    found: Iterable[TrialArtefact], *, trials: Collection[str] = (), name: str | None = None, survivors: bool = False
) -> list[TrialArtefact]:
    """Return the artefacts of these trials or stages, with names that match a pattern, of survivors only if wanted.

    Args:
        trials: `stage/index`, or `stage` for all of its trials; every trial if empty.
        name: A shell pattern, such as `*.png`.
    """
    return [
        one
        for one in found
        if (not trials or one.trial in trials or one.stage in trials)
        and (name is None or fnmatch.fnmatchcase(one.name, name))
        and (one.is_survivor or not survivors)
    ]


def _has(path: Path, digest: str, size: int) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            whole.update(part)
    return whole.hexdigest() == digest


def clean(objects: StudyObjects, record: StudyRecord, keep: str | None = None) -> Cleaned:
    """Remove artefacts, also those that no outcome names, and keep those that the policy says and those of baselines.

    Args:
        keep: A policy for all stages; that of each stage if not given.
    Raises: ConfigError: no such policy; or a stage is running, whose outcomes are not known yet. RecordInvalid.
    Store: 1 GET for each decided stage and each baseline, 2 LISTs, 1 delete per 1,000 objects.
    """
    keep = keep_of(keep)
    running = [stage.name for stage in record.stages if stage.state == RUNNING]
    if running:
        raise ConfigError(
            f"stage {running[0]} has trials without an outcome, whose artefacts are not known yet: clean up when it is decided "
            f"(of an aborted study, `starburst study run {record.name} --continue` decides it)"
        )
    policies = {stage.name: keep or stage.keep for stage in record.stages}
    kept = {one.artefact for one in _named(objects, record) if _is_kept(one, policies[one.stage])}
    kept |= objects.artefacts.of_baselines()
    removed, removed_bytes = objects.artefacts.remove_all_but(kept)
    return Cleaned(removed, removed_bytes, len({artefact.digest for artefact in kept}))


def _is_kept(one: TrialArtefact, policy: str) -> bool:
    return policy == KEEP_ALL or (policy == KEEP_SURVIVORS and one.is_survivor)
