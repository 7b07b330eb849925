"""A study's objects in a store: its record, changed by swaps alone, its tables of trials and its artefacts.

    known record ──step──► changed ──put previous──► swap on its ETag ──► the newest known record
          ▲                                              │
          └────────────── fresh read ◄───────────────────┘ another process changed it meanwhile

Guarantee: every change is a swap on the ETag that was read, of what `step` returns for exactly that record.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid, StudyNotFound, VersionMismatch
from starburst_executor.store.base import Body, ObjectStore
from starburst_executor.study import record as records
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.record import StudyRecord
from starburst_executor.study.tables import TrialRow, decode_table, encode_table

__all__ = ["StudyObjects"]


class StudyObjects:
    """The objects of one study. Thread-safe.

    Args:
        store: Waits for clear answers: a `PatientStore`, except in tests.
    """

    def __init__(self, store: ObjectStore, name: str, clock: Clock) -> None:
        self.store = store
        self.keys = StudyKeys(name)
        self._clock = clock
        self._lock = threading.Lock()  # guards: _known, _etag, _body
        self._known: StudyRecord | None = None
        self._etag = ""
        self._body = b""

    def create(self, record: StudyRecord) -> StudyRecord:
        """Create the record; return the one that is there, which another process may have created first. Store: 1 create."""
        body = records.encode(record, self._clock.new_id())
        try:
            etag = self.store.create(self.keys.record, body)
        except PreconditionFailed:
            return self.read()
        return self._remember(body, etag, after="")

    def read(self) -> StudyRecord:
        """Read the record. Store: 1 GET, usually a 304.

        Raises: StudyNotFound; RecordInvalid: it cannot be read, or is malformed; VersionMismatch: its format is newer.
        """
        with self._lock:
            known, etag = self._known, self._etag
        try:
            if known is None:
                stored = self.store.get(self.keys.record)
            elif (changed := self.store.get_if_changed(self.keys.record, etag)) is None:
                return known
            else:
                stored = changed
        except ObjectNotFound as error:
            raise self._not_found() from error
        try:
            return self._remember(stored.body, stored.etag, after=etag)
        except VersionMismatch as error:
            raise VersionMismatch(f"{error}: study={self.keys.name}, store={self.store.url}") from error
        except RecordInvalid as error:
            raise RecordInvalid(
                f"{error}: study={self.keys.name}, store={self.store.url}; {self._way_out()}"
            ) from error

    @property
    def known(self) -> StudyRecord:
        """The newest record that this process read or wrote, without a request once there is one."""
        return self._known or self.read()  # unlocked: one reference, replaced as a whole

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
        Store: 1 put, 1 swap; 1 GET and both again for each lost race.
        """
        record = self.known
        while True:
            with self._lock:
                record, etag, body = self._known or record, self._etag, self._body
            changed = step(record)
            if changed is record or changed == record:
                fresh = self.read()
                if fresh is record:
                    return record
                record = fresh
                continue
            changed = replace(changed, generation=record.generation + 1)
            new_body = records.encode(changed, self._clock.new_id())
            # The generation that is replaced is kept first. A crash here leaves it there twice.
            self.store.put(self.keys.previous, body)
            try:
                new_etag = self.store.swap(self.keys.record, new_body, etag)
            except PreconditionFailed:
                record = self.read()
                continue
            except ObjectNotFound as error:
                raise self._not_found() from error
            return self._remember(new_body, new_etag, after=etag)

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

    def write_artefact(self, body: Body) -> str:
        """Write bytes under their digest; return it. Harmless twice. Store: 1 create."""
        digest = hashlib.sha256(body).hexdigest()
        with suppress(PreconditionFailed):
            self.store.create(self.keys.artefact(digest), body)
        return digest

    def read_artefact(self, digest: str) -> bytes:
        """Read an artefact. Raises: RecordInvalid: it is missing or has been changed. Store: 1 GET."""
        try:
            body = self.store.get(self.keys.artefact(digest)).body
        except ObjectNotFound as error:
            raise RecordInvalid(f"an artefact is missing: study={self.keys.name}, digest={digest}") from error
        if hashlib.sha256(body).hexdigest() != digest:
            raise RecordInvalid(f"an artefact has been changed: study={self.keys.name}, digest={digest}")
        return body

    def digest_of(self, digest: str) -> str | None:
        """Return the digest that an artefact's bytes have now; None if it is missing. Store: 1 GET."""
        try:
            return hashlib.sha256(self.store.get(self.keys.artefact(digest)).body).hexdigest()
        except ObjectNotFound:
            return None

    def delete(self) -> None:
        """Delete every object of the study, the record last. Store: 1 LIST, 1 delete per 1,000 objects."""
        keys = [listed.key for listed in self.store.list(self.keys.folder)]
        self.store.delete([key for key in keys if key != self.keys.record])
        self.store.delete([self.keys.record])

    def _remember(self, body: bytes, etag: str, *, after: str) -> StudyRecord:
        # Decoded again also after a write: a value is then the same object in this process and in one that resumes.
        record = records.decode(body)
        with self._lock:
            if self._known is None or self._etag == after:
                self._known, self._etag, self._body = record, etag, body
            return self._known

    def _way_out(self) -> str:
        try:
            record = self.previous()
        except (StudyNotFound, RecordInvalid, VersionMismatch):
            return "there is no generation before it that can be read"
        return f"generation {record.generation} before it can be read: `starburst study export {self.keys.name} --previous` writes it"

    def _not_found(self) -> StudyNotFound:
        return StudyNotFound(
            f"no such study: study={self.keys.name}, store={self.store.url}; its name and store are those of `run`"
        )
