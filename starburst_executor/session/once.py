"""The log of keys of one session: which tasks `submit_once` and `map_once` have submitted, in entries that are created one after another.

    read 0, 1, … ──► the next number ──create──► acknowledged: these keys have these tasks
                            └── another client's entry is there: read it, and try the number after it with what is left

Guarantee: an entry is created under a number only by a client that has read all entries before it. So no key that an earlier entry has gets
another task, unless its task was cancelled; then the last entry counts. Sequences and status objects follow from the entries, without gaps.
"""

from __future__ import annotations

import hmac
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import replace

from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid
from starburst_executor.protocol import pieces, records
from starburst_executor.protocol.records import Manifest, OnceEntry, Submitter
from starburst_executor.protocol.records.once import DIGEST_BYTES, ONCE
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.store import SessionStore

__all__ = ["OnceLog", "open_once"]

# Up to this number of keys are searched one by one, in the entries' bytes.
_FEW = 16


def open_once(session: SessionStore) -> int:
    """Return the ordinal of the log, which any client may write. Store: 1 swap if it is the first in the session."""

    def step(manifest: Manifest) -> Manifest | None:
        if any(submitter.client_id == ONCE for submitter in manifest.submitters):
            return None
        return replace(manifest, submitters=(*manifest.submitters, Submitter(ONCE, 1, (0,))))

    manifest = session.manifest.current
    if step(manifest) is not None:
        manifest = session.manifest.change(step)
    return [submitter.client_id for submitter in manifest.submitters].index(ONCE)


class OnceLog:
    """The log as far as this process has read it. Not thread-safe. Memory: 47 bytes a key, and the texts of given keys."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._entries: list[OnceEntry] = []
        self._firsts: list[int] = []

    @property
    def n_entries(self) -> int:
        return len(self._entries)

    @property
    def n_tasks(self) -> int:
        return self._entries[-1].first + self._entries[-1].n_tasks if self._entries else 0

    @property
    def n_objects(self) -> int:
        return self._entries[-1].first_object + len(self._entries[-1].sizes) if self._entries else 0

    def last(self) -> OnceEntry | None:
        """Return the last entry; None if there is none."""
        return self._entries[-1] if self._entries else None

    def read(self) -> None:
        """Read the entries that are new. Raises: RecordInvalid, VersionMismatch.

        Store: 1 GET; the first time 1 LIST per 1,000 entries, 1 GET an entry.
        """
        session = self._session
        if not self._entries:
            listed = session.store.list(session.keys.once_entries)
            numbers = sorted(n for line in listed if (n := session.keys.parse_once(line.key)) is not None)
            for entry in fan_out(session.store, self._get, numbers):
                self._add(entry)
        while (entry := self._get(self.n_entries)) is not None:
            self._add(entry)

    def append(self, entry: OnceEntry) -> bool:
        """Create an entry under the next number; return False if another client was first. Store: 1 create."""
        session = self._session
        entry = replace(entry, number=self.n_entries, first=self.n_tasks, first_object=self.n_objects)
        entry = entry.sealed(session.sealer)
        try:
            session.store.create(session.keys.once(entry.number), records.encode(entry, session.clock.new_id()))
        except PreconditionFailed:
            return False
        self._add(entry)
        return True

    def find(self, keys: Collection[bytes]) -> dict[bytes, int]:
        """Return the sequences of the tasks of those keys that are known; the last one counts. Store: nothing."""
        found: dict[bytes, int] = {}
        for entry in self._entries:
            if len(keys) <= _FEW:
                for key in keys:
                    position = _position(entry.keys, key)
                    if position >= 0:
                        found[key] = entry.first + position
                continue
            text = entry.keys
            for i in range(0, len(text), DIGEST_BYTES):
                key = text[i : i + DIGEST_BYTES]
                if key in keys:
                    found[key] = entry.first + i // DIGEST_BYTES
        return found

    def entry_of(self, sequence: int) -> OnceEntry:
        """Return the entry of a task."""
        return self._entries[bisect_right(self._firsts, sequence) - 1]

    def calls_of(self, entry: OnceEntry) -> list[bytes]:
        """Return the records of an entry's calls, verified. Raises: RecordInvalid, PayloadError. Store: 1 GET."""
        session = self._session
        if entry.calls_id:
            n_bytes = sum(length for _, length in entry.places())
            body = bytes(session.payloads.calls(entry.calls_id, entry.start, n_bytes))
            if not hmac.compare_digest(pieces.name_of(session.sealer, body), entry.name):
                raise RecordInvalid(f"calls that do not match the log of keys were not used: calls={entry.calls_id}")
        else:
            again = self._get(entry.number)
            if again is None:
                raise RecordInvalid(f"an entry of the log of keys is missing: {session.keys.once(entry.number)}")
            body = again.records
        return [body[start : start + length] for start, length in entry.places()]

    def _get(self, number: int) -> OnceEntry | None:
        session = self._session
        key = session.keys.once(number)
        try:
            entry = records.decode_once(session.store.get(key).body)
        except ObjectNotFound:
            return None
        if entry.number != number or not hmac.compare_digest(entry.sealed(session.sealer).seal, entry.seal):
            raise RecordInvalid(f"an entry of the log of keys has a wrong seal: key={key}")
        return entry

    def _add(self, entry: OnceEntry | None) -> None:
        number = self.n_entries
        if entry is None or (entry.number, entry.first, entry.first_object) != (number, self.n_tasks, self.n_objects):
            raise RecordInvalid(
                f"the log of keys has a gap; another program has deleted from it: key={self._session.keys.once(number)}"
            )
        self._firsts.append(entry.first)
        # The calls are needed only to make good for a client that died.
        self._entries.append(replace(entry, records=b"", seal=b""))


def _position(text: bytes, key: bytes) -> int:
    """Return the last position of a key in an entry; -1 if it is not there."""
    at = text.rfind(key)
    while at >= 0 and at % DIGEST_BYTES:
        at = text.rfind(key, 0, at + DIGEST_BYTES - 1)
    return at // DIGEST_BYTES if at >= 0 else -1
