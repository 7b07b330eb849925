"""Copies of studies: forks beside them in the store, and files that another store can take in."""

from __future__ import annotations

from collections.abc import Collection

from starburst_executor import config
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError, KeyNotFound, RecordInvalid
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.base import ObjectStore
from starburst_executor.study import exporting, transitions
from starburst_executor.study.asks import entries_of, put_entries
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.opened import OpenedStudy
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import StudyRecord

__all__ = ["exported", "forked", "imported"]


def forked(opened: OpenedStudy, plan: Plan, stage: str, name: str) -> OpenedStudy:
    """Create the fork of a study at a stage, under a name; return it opened. `Study.fork` says the rest."""
    source = opened.objects.read()
    record = transitions.forked(source, plan, stage, name=name, at=opened.clock.now())
    opened.seals().check(source, [one.name for one in record.stages if one.is_decided])
    other = OpenedStudy(name, opened.store, opened.key)
    other.settings = dict(opened.settings)
    if other.objects.exists():
        raise ConfigError(f"name={name!r}: there is a study of that name: store={other.store.url}")
    definition = other.define(plan)
    sealers = opened.sealer(is_new=False), other.sealer(is_new=False)
    _copy(record, opened.objects, other.objects, sealers, removed=source.removed)
    other.objects.create(transitions.defined(other.seals().sealed(record), definition))
    return other


def _copy(
    record: StudyRecord,
    source: StudyObjects,
    target: StudyObjects,
    sealers: tuple[Sealer, Sealer],
    *,
    removed: Collection[str],
) -> None:
    """Copy what a record names: tables, survivors' artefacts and logs of searches. Store: 1 GET and 1 create each; 1 LIST a search.

    Args:
        sealers: Those of both studies, in this order.
        removed: The stages whose artefacts a cleanup has removed.
    Raises: RecordInvalid: an entry of a log has a wrong seal.
    """
    for stage in record.stages:
        if stage.table is not None:
            target.write_table(stage.name, source.read_table(stage.table))
        if stage.has_started and stage.is_searched:
            entries = entries_of(source.store, source.keys, stage.name, stage.edition)
            put_entries(target.store, target.keys, stage.name, stage.edition, entries, sealers)
        if stage.name not in removed:
            for artefact in {artefact for survivor in stage.survivors for artefact in survivor.artefacts.values()}:
                source.artefacts.copy(artefact, target.artefacts)


def exported(objects: StudyObjects, record: StudyRecord) -> str:
    """Return a generation of a study as JSON: record, tables, logs of searches. Store: 1 GET a table; 1 LIST a search, 1 GET an entry."""
    digests = [digest for stage in record.stages for digest in (stage.table, stage.carried) if digest is not None]
    searches = {
        stage.name: entries_of(objects.store, objects.keys, stage.name, stage.edition)
        for stage in record.stages
        if stage.has_started and stage.is_searched
    }
    return exporting.to_json(record, {digest: objects.read_table(digest) for digest in digests}, searches)


def imported(text: str, store: ObjectStore, name: str | None, *, replaces: bool) -> StudyRecord:
    """Create a study from what `exported` returned; return its record. `Study.import_` says the rest."""
    record, tables, searches = exporting.from_json(text)
    objects = StudyObjects(store, name or record.name, SystemClock())
    is_there = objects.exists()
    if is_there and not replaces:
        raise ConfigError(
            f"there is a study of that name: study={objects.keys.name}, store={store.url}; give another one with name=, or delete that study"
        )
    for rows in tables.values():
        objects.write_table(rows[0].stage if rows else "", rows)
    name = objects.keys.name
    sealers = None if name == record.name or not any(searches.values()) else _sealers(record.name, name)
    for stage, entries in searches.items():
        put_entries(store, objects.keys, stage, record.stage(stage).edition, entries, sealers)
    record = _resealed(record, name)
    if is_there:
        return objects.replace(record)
    return objects.create(transitions.imported(record, objects.keys.name))


def _resealed(record: StudyRecord, name: str) -> StudyRecord:
    """Return the record with the seals of a study of another name, where this user has the key of the exported one and its seals are right.

    A stage with a wrong seal keeps it: it can be looked at, and no trial loads what it names.
    """
    from starburst_executor.study.seals import Seals

    if name == record.name:
        return record
    try:
        old, new = _sealers(record.name, name)
        Seals(old).check(record, record.names)
    except (KeyNotFound, RecordInvalid):
        return record
    return Seals(new).sealed(record)


def _sealers(old: str, new: str) -> tuple[Sealer, Sealer]:
    """Return the sealers of two studies of this user. Raises: KeyNotFound."""
    from starburst_executor.study.definitions import sealer_of

    first, second = (sealer_of(name, bytes(config.find_session_key(f"study-{name}"))) for name in (old, new))
    return first, second
