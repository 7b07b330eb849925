"""The user's own modules, zipped and stored once by content, so that a change of code needs no new image.

    sys.modules, sources ──modules.find_modules──► files ──zip──► code/<month>/<SHA-256> ◄──names── functions/<digest>

A *snapshot* holds the whole of every top-level module or package that is the user's own (`starburst_executor/modules.py`).
It is made before the first function is sent, and again before a later one if modules have been imported or reloaded
in between. Editing a file alone changes nothing in a running session.

Guarantees: the same files give the same bytes, independent of their times and owners; a function's snapshot is stored
before the function. A snapshot omits files that no import needs: hidden files and folders (`.env`, `.git`),
`__pycache__`, and matches of `code_exclude`. A snapshot that is already stored under this month is not written again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from importlib.machinery import EXTENSION_SUFFIXES
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from starburst_executor.client.loads import Load, are_unchanged, loads_of
from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, PayloadError, PreconditionFailed
from starburst_executor.modules import Place, find_modules, is_hidden
from starburst_executor.protocol.keys import code_key
from starburst_executor.store.base import ObjectStore

__all__ = ["Code", "zipped"]

_log = logging.getLogger(__name__)

# A home connection takes a minute or more to upload this, and each worker downloads it; larger files are data or belong in
# an image.
_MOST_BYTES = 50 * 2**20
_NAMED = 5  # largest files that the error names
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_REGULAR, _EXECUTABLE = 0o100644, 0o100755
_UNIX = 3


class _File(NamedTuple):
    """A file of a snapshot: its name in the zip, and the facts by which a change is noticed."""

    name: str
    path: str
    n_bytes: int
    mtime_ns: int
    mode: int


class _Snapshot(NamedTuple):
    """A stored snapshot, and the facts that show whether another one is needed.

    Attributes:
        own: The top-level modules in it.
        n_loaded: The number of all loaded modules at that time.
        loads: The user's own modules among them.
    """

    name: str
    own: frozenset[str]
    n_loaded: int
    loads: list[Load]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A snapshot that is not stored yet.

    Attributes:
        body: The zip; None if it was made before, for another session of this process.
        is_taken: Whether a thread stores it.
    """

    files: tuple[_File, ...]
    body: bytes | None
    is_taken: bool = False
    stored: threading.Event = field(default_factory=threading.Event)


# The digest of the last zip, by the files in it: the next session of this process need not zip them again.
_digests: dict[tuple[_File, ...], str] = {}
_digests_lock = threading.Lock()


class Code:
    """Stores this process's own modules for the workers of one store. Thread-safe.

    Args:
        exclude: The setting `code_exclude`.
    """

    def __init__(self, store: ObjectStore, clock: Clock, exclude: str) -> None:
        self._store = store
        self._clock = clock
        self._patterns = tuple(filter(None, re.split(r"[,\s]+", exclude)))
        self._lock = threading.Lock()  # guards: _known, _waiting, and whether those are taken
        self._known: _Snapshot | None = None
        self._waiting: dict[str, _Waiting] = {}  # by name, in the order of submits

    def name(self) -> str:
        """Return the name of the snapshot for a function that is sent now; empty if there are no own modules.

        `store_waiting` stores it: this makes no request, because a submit in an event loop calls it.

        Raises: PayloadError: it is too big, or a file cannot be read.
        """
        known = self._known  # unlocked: replaced as a whole
        # The usual case ends here: every submit calls this.
        if known is not None and len(sys.modules) == known.n_loaded and are_unchanged(known.loads):
            return known.name
        n_loaded = len(sys.modules)  # counted first: the next call notices what another thread imports meanwhile
        own = find_modules().own
        loads = loads_of(own)
        if known is not None and known.own == own.keys() and are_unchanged(known.loads):
            name = known.name
        else:
            name = self._waiting_name(tuple(_files(own, self._patterns)))
        with self._lock:
            self._known = _Snapshot(name, frozenset(own), n_loaded, loads)
        return name

    def store_waiting(self, error: Callable[[], BaseException | None] = lambda: None) -> None:
        """Store the snapshots that were named and are not stored yet; wait for those that another thread stores.

        Args:
            error: Returns the error with which the client has failed, which ends the wait; None while it has not.

        Raises: PayloadError: a file was changed between a submit and this.
        Store: usually nothing; for a new snapshot 1 GET and perhaps 1 create.
        """
        while True:
            with self._lock:
                name, waiting = next(iter(self._waiting.items()), ("", None))
                is_mine = waiting is not None and not waiting.is_taken
                if waiting is None:
                    return
                waiting.is_taken = True
            if is_mine:
                self._store_snapshot(name, waiting)
                with self._lock:
                    self._waiting.pop(name)
                waiting.stored.set()
                continue
            while not waiting.stored.wait(1.0):
                if (failed := error()) is not None:
                    raise failed

    def _waiting_name(self, files: tuple[_File, ...]) -> str:
        if not files:
            return ""
        with _digests_lock:
            digest = _digests.get(files)
        body = None
        if digest is None:
            body = zipped(files)
            digest = hashlib.sha256(body).hexdigest()
            with _digests_lock:
                _digests.clear()
                _digests[files] = digest
        name = self._named(digest)
        with self._lock:
            self._waiting.setdefault(name, _Waiting(files, body))
        return name

    def _store_snapshot(self, name: str, waiting: _Waiting) -> None:
        if self._is_there(name):
            return
        body = waiting.body
        if body is None:
            # An earlier session of this process has made it, and the store has lost it, or is another one.
            body = zipped(waiting.files)
            if hashlib.sha256(body).hexdigest() != name.rpartition("/")[2]:
                raise PayloadError("a file of your own modules was changed while it was being sent; submit again")
        _log.info("storing the modules of your own: files=%d, bytes=%d", len(waiting.files), len(body))
        try:
            self._store.create(code_key(name), body)
        except PreconditionFailed:
            _log.debug("another session has stored the same code meanwhile")

    def _is_there(self, name: str) -> bool:
        # Read first: the store refuses a conditional write only after it has received the whole body.
        try:
            self._store.get(code_key(name), length=1)
        except ObjectNotFound:
            return False
        return True

    def _named(self, digest: str) -> str:
        return f"{datetime.fromtimestamp(self._clock.now(), timezone.utc):%Y-%m}/{digest}"


def zipped(files: tuple[_File, ...]) -> bytes:
    """Return a zip of these files, the same bytes for the same contents. Raises: PayloadError."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = _UNIX
            entry.external_attr = (_EXECUTABLE if file.mode & 0o100 else _REGULAR) << 16
            try:
                body = Path(file.path).read_bytes()
            except OSError as error:
                raise _unreadable(file.path, error) from error
            archive.writestr(entry, body)
            if stream.tell() > _MOST_BYTES:
                raise _too_big(files)
    return stream.getvalue()


def _unreadable(path: str, error: OSError) -> PayloadError:
    return PayloadError(
        f"a file of your own modules cannot be read: {error.strerror}: {path}; leave it out by code_exclude"
    )


def _too_big(files: tuple[_File, ...]) -> PayloadError:
    largest = sorted(files, key=lambda file: -file.n_bytes)[:_NAMED]
    named = ", ".join(f"{file.name} ({file.n_bytes / 2**20:.1f} MB)" for file in largest)
    return PayloadError(
        f"your own modules are too big to be sent to workers: over {_MOST_BYTES // 2**20} MB zipped, files={len(files)}; "
        f"the largest: {named}; leave out what no import needs, for example "
        f"STARBURST_CODE_EXCLUDE='{largest[0].name}' or code_exclude in the config file, or have it in the workers' image"
    )


def _files(own: dict[str, Place], patterns: tuple[str, ...]) -> Iterator[_File]:
    """Yield the files of these modules, ordered by their names in the snapshot."""
    paths: dict[str, str] = {}
    for name, place in own.items():
        if place.file is not None:
            paths[f"{name}.{Path(place.file).name.partition('.')[2]}"] = place.file
        for folder in place.folders:
            for path in _walk(folder):
                paths.setdefault(f"{name}/{Path(path).relative_to(folder).as_posix()}", path)
    kept = sorted((name, path) for name, path in paths.items() if not _is_excluded(name, patterns))
    compiled = [name for name, _ in kept if name.endswith(tuple(EXTENSION_SUFFIXES))]
    if compiled:
        _log.warning(
            "compiled modules of your own run only on workers with the same system and processor: %s; for others, build "
            "them into the image",
            ", ".join(compiled[:_NAMED]),
        )
    for name, path in kept:
        try:
            stat = Path(path).stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        yield _File(name, path, stat.st_size, stat.st_mtime_ns, stat.st_mode)


def _walk(top: str) -> Iterator[str]:
    """Yield every file that may be part of a package; follow links, but enter each folder only once."""
    visited: set[str] = set()
    for folder, names, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        names[:] = [] if real in visited else [name for name in names if not is_hidden(name)]
        if real not in visited:
            yield from (str(path) for name in files if not is_hidden(name) and (path := Path(folder, name)).is_file())
        visited.add(real)


def _is_excluded(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern matches the name, a folder above it or, for a pattern without "/", a part of it."""
    parts = name.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(
        fnmatchcase(candidate, pattern.rstrip("/"))
        for pattern in patterns
        for candidate in (above if "/" in pattern.rstrip("/") else [*parts, *above])
    )
