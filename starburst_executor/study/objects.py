"""A study's objects in a store: its record, changed by swaps alone, its tables of trials, and its artefacts (`artefact_store.py`).

    known record ──step──► changed ──put previous──► swap on its ETag ──► the newest known record
          ▲                                              │
          └────────────── fresh read ◄───────────────────┘ another process changed it meanwhile

Guarantee: every change is a swap on the ETag that was read, of what `step` returns for exactly that record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from starburst_executor.clock import Clock
from starburst_executor.errors import (
    ConfigError,
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    StudyNotFound,
    VersionMismatch,
)
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.latest import Latest, Version
from starburst_executor.store.url import split_url
from starburst_executor.study import record_form as records
from starburst_executor.study.artefact_store import ArtefactStore
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.record import StudyRecord
from starburst_executor.study.tables import TrialRow, decode_table, encode_table

__all__ = ["StudyObjects"]


class StudyObjects:
    """The objects of one study. Thread-safe.

    Args:
        store: Waits for clear answers: a `PatientStore`, except in tests.

    Attributes:
        artefacts: What its trials saved.
    """

    def __init__(self, store: ObjectStore, name: str, clock: Clock) -> None:
        self.store = store
        self.keys = StudyKeys(name)
        self.artefacts = ArtefactStore(store, self.keys)
        self._clock = clock
        self._latest = Latest(store, self.keys.record, self._decoded)

    def create(self, record: StudyRecord) -> StudyRecord:
        """Create the record; return the one that is there, which another process may have created first. Store: 1 create."""
        body, decoded = self._encoded(record)
        try:
            etag = self.store.create(self.keys.record, body)
        except PreconditionFailed:
            return self.read()
        return self._remember(decoded, body, etag, after=None)

    def read(self) -> StudyRecord:
        """Read the record. Store: 1 GET, usually a 304.

        Raises: StudyNotFound; RecordInvalid: it cannot be read, or is malformed; VersionMismatch: its format is newer.
        """
        try:
            return self._latest.read().value
        except ObjectNotFound as error:
            raise self._not_found() from error

    def _decoded(self, body: bytes) -> StudyRecord:
        try:
            return records.decode(body)
        except VersionMismatch as error:
            raise VersionMismatch(f"{error}: study={self.keys.name}, store={self.store.url}") from error
        except RecordInvalid as error:
            raise RecordInvalid(
                f"{error}: study={self.keys.name}, store={self.store.url}; {self._way_out()}"
            ) from error

    @property
    def known(self) -> StudyRecord:
        """The newest record that this process read or wrote, without a request once there is one."""
        return self._latest.value or self.read()

    def exists(self) -> bool:
        """Return whether there is a record, whatever it holds. Store: 1 GET."""
        try:
            self.store.get(self.keys.record, length=1)
        except ObjectNotFound:
            return False
        return True

    def previous(self) -> StudyRecord:
        """Read the generation before the last swap. Raises: StudyNotFound, RecordInvalid, VersionMismatch. Store: 1 GET."""
        try:
            return records.decode(self.store.get(self.keys.previous).body)
        except ObjectNotFound as error:
            raise self._not_found() from error

    def change(self, step: Callable[[StudyRecord], StudyRecord]) -> StudyRecord:
        """Swap in `step(record)`, after fresh reads until it lands; return the record. Nothing is written if `step` changes nothing.

        Args:
            step: A pure function. It may raise: then nothing is written.
        Store: 1 put, 1 swap; 1 GET and both again for each lost race; 1 delete if the study was deleted.
        """
        if self._latest.version is None:
            self.read()
        while True:
            version = self._latest.version
            assert version is not None  # noqa: S101 - once known, it is never forgotten
            record = version.value
            changed = step(record)
            if changed is record or changed == record:
                # The known record may be old: only with a fresh one is it certain that there is nothing to change.
                if self.read() is record:
                    return record
                continue
            body, decoded = self._encoded(replace(changed, generation=record.generation + 1))
            # The generation that is replaced is kept first. A crash here leaves it there twice.
            self.store.put(self.keys.previous, version.body)
            try:
                etag = self.store.swap(self.keys.record, body, version.etag)
            except PreconditionFailed:
                self.read()
                continue
            except ObjectNotFound as error:
                # It was deleted meanwhile, and nothing of it is to stay.
                self.store.delete([self.keys.previous])
                raise self._not_found() from error
            return self._remember(decoded, body, etag, after=version)

    def replace(self, record: StudyRecord) -> StudyRecord:
        """Swap in a record in place of one that cannot be read. Raises: ConfigError: it can. Store: 1 GET, 1 swap."""
        stored = self.store.get(self.keys.record)
        with suppress(RecordInvalid):
            found = records.decode(stored.body)
            raise ConfigError(
                f"the record of this study can be read: study={self.keys.name}, generation={found.generation}; only one that cannot be is "
                "replaced"
            )
        # A session of this store is that of the broken record, so that the trials that run there are not run again.
        session = record.session if record.session and split_url(record.session)[0] == self.store.url else ""
        body, decoded = self._encoded(replace(record, name=self.keys.name, driver="", session=session))
        return self._remember(decoded, body, self.store.swap(self.keys.record, body, stored.etag), after=None)

    def write_table(self, stage: str, rows: Sequence[TrialRow]) -> str:
        """Write a table of trials; return its digest. Harmless twice. Store: 1 create."""
        digest, body = encode_table(stage, rows)
        with suppress(PreconditionFailed):  # the same bytes are there already
            self.store.create(self.keys.trials(digest), body)
        return digest

    def read_table(self, digest: str) -> list[TrialRow]:
        """Read a table of trials. Raises: RecordInvalid: it is missing or has been changed; VersionMismatch. Store: 1 GET."""
        try:
            body = self.store.get(self.keys.trials(digest)).body
        except ObjectNotFound as error:
            raise RecordInvalid(f"a table of trials is missing: study={self.keys.name}, digest={digest}") from error
        return decode_table(body, digest)

    def delete(self) -> None:
        """Delete every object of the study, the record last. Store: 1 LIST, 1 delete per 1,000 objects."""
        keys = [listed.key for listed in self.store.list(self.keys.folder)]
        self.store.delete([key for key in keys if key != self.keys.record])
        self.store.delete([self.keys.record])

    def _encoded(self, record: StudyRecord) -> tuple[bytes, StudyRecord]:
        """Return the bytes of a record, and what is read from them. Raises: RecordInvalid: no process could read them."""
        body = records.encode(record, self._clock.new_id())
        # Guarantee: before a write, so that no record is stored that makes its study unreadable. What was read from the bytes is used after it,
        # too: a value is then the same object in this process and in one that resumes.
        return body, records.decode(body)

    def _remember(
        self, record: StudyRecord, body: bytes, etag: str, *, after: Version[StudyRecord] | None
    ) -> StudyRecord:
        version = Version(record, etag, body)
        self._latest.remember(version, after=after)
        return version.value

    def _way_out(self) -> str:
        try:
            record = self.previous()
        except (StudyNotFound, RecordInvalid, VersionMismatch):
            return "there is no generation before it that can be read"
        return f"generation {record.generation} before it can be read: `starburst study export {self.keys.name} FILE --previous` writes it, and `starburst study import FILE --replace` goes on from there"

    def _not_found(self) -> StudyNotFound:
        return StudyNotFound(
            f"no such study: study={self.keys.name}, store={self.store.url}; its name and store are those of `run`"
        )
