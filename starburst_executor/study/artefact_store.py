"""The artefacts of one study in its store, by content: a small one is one object, a big one parts and a list of their digests.

artefacts/<digest>      the bytes, or of a big artefact the digests of its parts
artefacts/parts/<digest>
baselines/<name>        digests that no cleanup removes

Guarantee: an object has the content that its key names from the moment it exists, so a save that is killed leaves nothing wrong, and
equal bytes are stored once, also when many trials save them at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO

import msgpack

from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid
from starburst_executor.store.base import ObjectStore
from starburst_executor.study.artefacts import Artefact, of_plain
from starburst_executor.study.keys import StudyKeys

__all__ = ["PART_BYTES", "ArtefactStore", "size_of"]

# Assumes: never changes, or the key of an artefact's list would have another content. What is held in memory is two of these.
PART_BYTES = 8 * 2**20


def size_of(file: IO[bytes]) -> int:
    """Return the size of a file that can be read twice, and go back to its beginning."""
    size = file.seek(0, 2)
    file.seek(0)
    return size


class ArtefactStore:
    """The artefacts of one study. Thread-safe.

    Args:
        store: Waits for clear answers: a `PatientStore`, except in tests.
    """

    def __init__(self, store: ObjectStore, keys: StudyKeys) -> None:
        self._store = store
        self._keys = keys

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, file: IO[bytes], kind: str) -> Artefact:
        """Store the bytes of a file that can be read twice; return the artefact. Harmless twice.

        Raises: ValueError: the file changed meanwhile.
        Store: 1 create up to 8 MiB. Of more 1 GET, and if they are not there yet, 1 create for each 8 MiB and 1 more.
        """
        size = size_of(file)
        if size <= PART_BYTES:
            body = file.read()
            digest = hashlib.sha256(body).hexdigest()
            self._create(self._keys.artefact(digest), body)
            return Artefact(digest, len(body), kind)
        whole = hashlib.sha256()
        for part in _parts(file):
            whole.update(part)
        digest = whole.hexdigest()
        if not self._is_there(digest):
            self._write_parts(file, digest)
        return Artefact(digest, size, kind)

    def _write_parts(self, file: IO[bytes], digest: str) -> None:
        file.seek(0)
        whole, digests = hashlib.sha256(), []
        for part in _parts(file):
            whole.update(part)
            digests.append(hashlib.sha256(part).hexdigest())
            self._create(self._keys.artefact_part(digests[-1]), part)
        if whole.hexdigest() != digest:
            raise ValueError("the file changed while it was saved: save it when it is written")
        # Crash here: parts that no list names; a cleanup removes them.
        self._create(self._keys.artefact(digest), msgpack.packb(digests))

    def _create(self, key: str, body: bytes) -> None:
        with suppress(PreconditionFailed):  # equal bytes are there already
            self._store.create(key, body)

    def _is_there(self, digest: str) -> bool:
        try:
            self._store.get(self._keys.artefact(digest), length=1)
        except ObjectNotFound:
            return False
        return True

    def copy(self, artefact: Artefact, other: ArtefactStore) -> None:
        """Copy an artefact to another study. Raises: RecordInvalid. Store: 1 GET and 1 create, for each part too."""
        key = other._keys.artefact(artefact.digest)
        if artefact.size <= PART_BYTES:
            other._create(key, self.read(artefact))
            return
        digests = self._list(artefact)
        for digest in digests:
            other._create(other._keys.artefact_part(digest), self._part(artefact, digest))
        other._create(key, msgpack.packb(digests))

    # --- reading ------------------------------------------------------------------------------------------------------

    def stream(self, artefact: Artefact) -> Iterator[bytes]:
        """Yield an artefact's bytes in parts of at most 8 MiB. Store: 1 GET; 1 more for each part of a big one.

        Raises: RecordInvalid: it is missing or has been changed; at the latest after the last part.
        """
        whole, size = hashlib.sha256(), 0
        if artefact.size <= PART_BYTES:
            parts: Iterable[bytes] = [self._get(self._keys.artefact(artefact.digest), artefact)]
        else:
            parts = (self._part(artefact, digest) for digest in self._list(artefact))
        for part in parts:
            whole.update(part)
            size += len(part)
            yield part
        if whole.hexdigest() != artefact.digest or size != artefact.size:
            raise RecordInvalid(f"an artefact has been changed: study={self._keys.name}, digest={artefact.digest}")

    def read(self, artefact: Artefact) -> bytes:
        """Return an artefact's bytes. Raises and store: as for `stream`."""
        return b"".join(self.stream(artefact))

    def digest_of(self, artefact: Artefact) -> str | None:
        """Return the digest that an artefact's bytes have now, or a word for bytes that cannot be read; None if some are missing."""
        whole = hashlib.sha256()
        try:
            for part in self.stream(artefact):
                whole.update(part)
        except RecordInvalid as error:
            if isinstance(error.__cause__, ObjectNotFound):
                return None
        return whole.hexdigest()

    def parts_of(self, artefact: Artefact) -> list[str]:
        """Return the digests of the parts of a big artefact; none of a small one. Raises: RecordInvalid. Store: at most 1 GET."""
        return [] if artefact.size <= PART_BYTES else self._list(artefact)

    def _list(self, artefact: Artefact) -> list[str]:
        body = self._get(self._keys.artefact(artefact.digest), artefact)
        try:
            digests = msgpack.unpackb(body)
        except (ValueError, msgpack.UnpackException):
            digests = None
        if not isinstance(digests, list) or not all(type(digest) is str for digest in digests):
            raise RecordInvalid(f"an artefact has been changed: study={self._keys.name}, digest={artefact.digest}")
        return digests

    def _part(self, artefact: Artefact, digest: str) -> bytes:
        return self._get(self._keys.artefact_part(digest), artefact)

    def _get(self, key: str, artefact: Artefact) -> bytes:
        try:
            return bytes(self._store.get(key).body)
        except ObjectNotFound as error:
            raise RecordInvalid(
                "an artefact is missing; a cleanup removes those that its policy (keep) does not keep: "
                f"study={self._keys.name}, digest={artefact.digest}"
            ) from error

    # --- baselines and cleanup ----------------------------------------------------------------------------------------

    def keep_for(self, baseline: str, artefacts: Iterable[Artefact]) -> None:
        """Keep these artefacts for a baseline, until it names others. Store: 1 put."""
        self._store.put(self._keys.baseline(baseline), msgpack.packb(sorted(set(artefacts))))

    def of_baselines(self) -> set[Artefact]:
        """Return the artefacts that baselines name. Raises: RecordInvalid. Store: 1 LIST, 1 GET each."""
        found: set[Artefact] = set()
        for listed in self._store.list(self._keys.baselines):
            try:
                values = msgpack.unpackb(self._store.get(listed.key).body)
                found.update(of_plain({str(i): value for i, value in enumerate(values)}).values())
            except ObjectNotFound:
                continue
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                raise RecordInvalid(f"the artefacts of a baseline cannot be read: {listed.key}") from error
        return found

    def remove_all_but(self, kept: Iterable[Artefact]) -> tuple[int, int]:
        """Remove every artefact that is not to be kept; return the number of removed objects, and of their bytes.

        Assumes: no trial runs. One that saved equal bytes in this moment would name what is removed.
        Store: 1 LIST, 1 GET for each big artefact to keep, 1 delete per 1,000 objects.
        """
        keys = set()
        for artefact in kept:
            keys.add(self._keys.artefact(artefact.digest))
            keys |= {self._keys.artefact_part(digest) for digest in self.parts_of(artefact)}
        removed = [listed for listed in self._store.list(self._keys.artefacts) if listed.key not in keys]
        parts = [listed.key for listed in removed if listed.key.startswith(self._keys.artefact_part(""))]
        # The lists first: a kill in between leaves parts without a list, not a list without parts.
        self._store.delete([listed.key for listed in removed if listed.key not in set(parts)])
        self._store.delete(parts)
        return len(removed), sum(listed.size for listed in removed)


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    while part := file.read(PART_BYTES):
        yield part
