"""SqliteStore: the embedded default. One durable file per session, with the conditional writes of S3.

`sessions/<id>/…` is in `<folder>/<id>.db`, all other keys in `<folder>/_store.db`. Several processes on one machine
share a folder; network file systems break SQLite's locks, so the folder must be on a local disk.

Durability: an acknowledged write survives the death of any process, also by SIGKILL, immediately. A power loss or kernel
crash may lose the newest writes since the file's last checkpoint (about every 1,000 pages, 4 MB): the file then has an
earlier consistent state and is never damaged (WAL, synchronous=NORMAL).

Guarantee: every write is one transaction; a reader sees the whole object before it or after it. ETags are random, so two
writes never share one, even with equal bytes.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    StoreUnavailable,
)
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.sqlite import objects
from starburst_executor.store.sqlite.errors import Gone, translated
from starburst_executor.store.sqlite.files import StoreFiles

__all__ = ["SqliteStore"]

_DELETED_AT_ONCE = 1_000
_TRIES_TO_MAKE = 100
_SESSION_ID = re.compile(r"[a-z0-9-]{1,64}")
_SESSIONS = "sessions/"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class SqliteStore:
    """Objects in SQLite files. Thread-safe, and safe in a child after a fork.

    It has more than twenty methods because it is a whole `ObjectStore`, each operation with the part that holds a connection.

    Args:
        folder: The folder of the files; created with the first object.
        clock: The source of the time of each write and of the ETags.
    """

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        self._folder = folder
        self._files = StoreFiles(folder)
        self._clock = clock or SystemClock()
        self._skipped: set[str] = set()  # already warned about

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._folder)!r})"

    @property
    def url(self) -> str:
        return f"sqlite://{quote(os.fsencode(self._folder))}"

    @property
    def limiter(self) -> None:
        return None

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        return self._read(key, None, start, length)

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        stored = self._read(key, etag, start, length)
        return None if stored.etag == etag else stored

    def create(self, key: str, body: Body) -> str:
        etag = self._clock.new_id()
        if not self._made(key, lambda connection: objects.create(connection, key, body, etag, self._clock.now())):
            raise PreconditionFailed(f"the object already exists: {self.url}/{key}")
        return etag

    def swap(self, key: str, body: Body, expected: str) -> str:
        etag = self._clock.new_id()
        try:
            with self._files.writing(self._path(key)) as connection:
                before = objects.swap(connection, key, body, expected, etag, self._clock.now())
        except Gone:
            before = None
        if before is None:
            raise self._not_found(key)
        if before != expected:
            raise PreconditionFailed(f"another writer was first: {self.url}/{key}")
        return etag

    def put(self, key: str, body: Body) -> str:
        etag = self._clock.new_id()
        self._made(key, lambda connection: objects.put(connection, key, body, etag, self._clock.now()))
        return etag

    def list_folders(self, prefix: str) -> list[str]:
        if prefix == _SESSIONS:
            # From the names of the files, without opening them: there may be thousands, and some may not be stores. An
            # empty file, left by a process that died while it created or removed it, is included.
            return sorted(Path(path).stem for path in self._session_files())
        names: set[str] = set()
        for path in self._paths(prefix):
            with suppress(Gone), self._files.reading(path) as connection:
                names.update(objects.folders(connection, prefix))
        return sorted(names)

    def list(self, prefix: str) -> list[Listed]:
        listed: list[Listed] = []
        is_alone = not _SESSIONS.startswith(prefix)
        for path in self._paths(prefix):
            with self._skipping(path, is_alone=is_alone), self._files.reading(path) as connection:
                listed += objects.listed(connection, prefix)
        return sorted(listed)

    def delete(self, keys: Iterable[str]) -> None:
        by_path: dict[str, list[str]] = {}
        for key in keys:
            by_path.setdefault(self._path(key), []).append(key)
        for path, of_path in by_path.items():
            for first in range(0, len(of_path), _DELETED_AT_ONCE):
                self._delete(path, of_path[first : first + _DELETED_AT_ONCE])

    def close(self) -> None:
        self._files.close()

    def _read(self, key: str, known: str | None, start: int, length: int | None) -> Stored:
        """Read an object; if its ETag is `known`, without its body."""
        stored = None
        with suppress(Gone), self._files.reading(self._path(key)) as connection:
            stored = objects.read(connection, key, known, start, length)
        if stored is None:
            raise self._not_found(key)
        return stored

    def _path(self, key: str) -> str:
        if not key.startswith(_SESSIONS):
            return f"{self._folder}/_store.db"
        session_id = key[len(_SESSIONS) :].partition("/")[0]
        if not _SESSION_ID.fullmatch(session_id):
            raise ConfigError(f"a session id is 1 to 64 of a-z, 0-9 and -: session={session_id!r}")
        return f"{self._folder}/{session_id}.db"

    def _paths(self, prefix: str) -> Sequence[str]:
        """Return the files that may hold keys under `prefix`."""
        if prefix.startswith(_SESSIONS) and prefix != _SESSIONS:
            return [self._path(prefix)]
        paths = [] if prefix == _SESSIONS else [self._path("")]
        if _SESSIONS.startswith(prefix):
            paths += self._session_files()
        return paths

    def _session_files(self) -> Sequence[str]:
        """Return every file with the name of a session's file; not folders, sockets or broken links."""
        try:
            with os.scandir(self._folder) as entries:
                return [
                    f"{self._folder}/{entry.name}"
                    for entry in entries
                    if entry.name.endswith(".db") and _SESSION_ID.fullmatch(entry.name[:-3]) and _is_file(entry)
                ]
        except FileNotFoundError:
            return []
        except OSError as error:
            meaning = translated(error, f"{self._folder}/")
            raise StoreUnavailable(str(error)) if meaning is None else meaning from error

    @contextmanager
    def _skipping(self, path: str, *, is_alone: bool) -> Iterator[None]:
        """Skip a file without objects and, in a listing of several files, a file that is not a store."""
        try:
            yield
        except Gone:
            return
        except (RecordInvalid, AccessDenied) as error:
            if is_alone:
                raise
            if path not in self._skipped:
                self._skipped.add(path)
                _log.warning("ignored a file that is not a session: %s", error)

    def _made(self, key: str, write: Callable[[sqlite3.Connection], _T]) -> _T:
        """Write to a file, and create it if it does not exist."""
        path = self._path(key)
        for _ in range(_TRIES_TO_MAKE):
            with suppress(Gone), self._files.writing(path) as connection:
                return write(connection)
            with suppress(Gone):  # the folder was removed too
                self._files.make(path)
        if not self._folder.is_dir():
            raise AccessDenied(f"the embedded store's folder cannot be made, pass another one: folder={self._folder}")
        raise StoreUnavailable(f"the embedded store's file was removed each time it was made: file={path}")

    def _delete(self, path: str, keys: Sequence[str]) -> None:
        try:
            with self._files.writing(path) as connection:
                is_empty = objects.delete(connection, keys)
        except Gone:
            is_empty = True
        if is_empty:
            self._files.remove_buried(path)

    def _not_found(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"no such object: {self.url}/{key}")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a circular link
        return False
