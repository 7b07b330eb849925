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

import io
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
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
from starburst_executor.store.sqlite.files import Gone, StoreFiles, bury, translated

__all__ = ["SqliteStore"]

# A bigger body is split into rows of this size: a range reads only its chunks, and SQLite's limit of 1 GB does not apply.
_CHUNK_BYTES = 1 << 20
_DELETED_AT_ONCE = 1_000
_TRIES_TO_MAKE = 100
_SESSION_ID = re.compile(r"[a-z0-9-]{1,64}")
_SESSIONS = "sessions/"

_GET = "SELECT etag, size, CASE WHEN etag = ? THEN NULL ELSE body END FROM objects WHERE key = ?"
_CREATE = "INSERT INTO objects SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM objects WHERE key = ?)"
# These skip chunked bodies: the slower path in `_swapped` and `_put` also removes the chunks.
_SWAP = "UPDATE objects SET etag = ?, size = ?, modified_at = ?, body = ? WHERE key = ? AND etag = ? AND body NOT NULL"
_PUT = "UPDATE objects SET etag = ?, size = ?, modified_at = ?, body = ? WHERE key = ? AND body NOT NULL"
_LIST = "SELECT key, size, etag, modified_at FROM objects WHERE key >= ? AND key < ? ORDER BY key"
_NEXT_KEY = "SELECT key FROM objects WHERE key >= ? AND key < ? ORDER BY key LIMIT 1"
_CHUNKS = "SELECT body FROM chunks WHERE etag = ? AND number >= ? AND number < ? ORDER BY number"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
# `Listed._make` without its checks: a client that waits for many objects creates tens of thousands of these per second.
_listed = partial(tuple.__new__, Listed)


class SqliteStore:
    """Objects in SQLite files. Thread-safe, and safe in a child after a fork.

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

    def get(self, key: str, *, unless: str | None = None, start: int = 0, length: int | None = None) -> Stored | None:
        end = None if length is None else start + length
        try:
            with self._files.reading(self._path(key)) as connection:
                row = connection.execute(_GET, (unless, key)).fetchone()
                if row is not None and row[2] is None and row[0] != unless:
                    return _chunked(connection, key, start, end)
        except Gone:
            row = None
        if row is None:
            raise self._not_found(key)
        etag, _, body = row
        if etag == unless:
            return None
        return Stored(body if start == 0 and end is None else body[start:end], etag)

    def create(self, key: str, body: Body) -> str:
        return self._made(key, lambda connection: self._created(connection, key, body))

    def swap(self, key: str, body: Body, expected: str) -> str:
        etag = self._clock.new_id()
        try:
            with self._files.writing(self._path(key)) as connection:
                if len(body) <= _CHUNK_BYTES:
                    row = (etag, len(body), self._clock.now(), body, key, expected)
                    if connection.execute(_SWAP, row).rowcount == 1:
                        return etag
                return self._swapped(connection, key, body, expected, etag)
        except Gone:
            raise self._not_found(key) from None

    def put(self, key: str, body: Body) -> str:
        return self._made(key, lambda connection: self._put(connection, key, body))

    def list_folders(self, prefix: str) -> list[str]:
        if prefix == _SESSIONS:
            # From the names of the files, without opening them: there may be thousands, and some may not be stores. An
            # empty file, left by a process that died while it created or removed it, is included.
            return sorted(Path(path).stem for path in self._session_files())
        names: set[str] = set()
        for path in self._paths(prefix):
            with suppress(Gone), self._files.reading(path) as connection:
                names.update(_folders(connection, prefix))
        return sorted(names)

    def list(self, prefix: str) -> list[Listed]:
        listed: list[Listed] = []
        for path in self._paths(prefix):
            with self._skipping(path, prefix), self._files.reading(path) as connection:
                listed += map(_listed, connection.execute(_LIST, (prefix, _after(prefix))))
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
    def _skipping(self, path: str, prefix: str) -> Iterator[None]:
        """Skip a file without objects and, in a listing of several files, a file that is not a store."""
        try:
            yield
        except Gone:
            return
        except (RecordInvalid, AccessDenied) as error:
            if prefix.startswith(_SESSIONS) and prefix != _SESSIONS:
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

    def _created(self, connection: sqlite3.Connection, key: str, body: Body) -> str:
        if len(body) <= _CHUNK_BYTES:
            etag = self._clock.new_id()
            row = (key, etag, len(body), self._clock.now(), body, key)
            if connection.execute(_CREATE, row).rowcount == 1:
                return etag
            raise self._there(key)
        with _transaction(connection):
            if connection.execute("SELECT 1 FROM objects WHERE key = ?", (key,)).fetchone():
                raise self._there(key)
            return self._insert(connection, key, body, self._clock.new_id())

    def _put(self, connection: sqlite3.Connection, key: str, body: Body) -> str:
        if len(body) <= _CHUNK_BYTES:
            etag = self._clock.new_id()
            if connection.execute(_PUT, (etag, len(body), self._clock.now(), body, key)).rowcount == 1:
                return etag
        with _transaction(connection):
            _remove(connection, key)
            return self._insert(connection, key, body, self._clock.new_id())

    def _swapped(self, connection: sqlite3.Connection, key: str, body: Body, expected: str, etag: str) -> str:
        with _transaction(connection):
            row = connection.execute("SELECT etag FROM objects WHERE key = ?", (key,)).fetchone()
            if row is None:
                raise self._not_found(key)
            if row[0] != expected:
                raise PreconditionFailed(f"another writer was first: {self.url}/{key}")
            _remove(connection, key)
            return self._insert(connection, key, body, etag)

    def _insert(self, connection: sqlite3.Connection, key: str, body: Body, etag: str) -> str:
        whole = body if len(body) <= _CHUNK_BYTES else None
        row = (key, etag, len(body), self._clock.now(), whole)
        connection.execute("INSERT INTO objects VALUES (?, ?, ?, ?, ?)", row)
        if whole is None:
            connection.executemany("INSERT INTO chunks VALUES (?, ?, ?)", _chunks(etag, body))
        return etag

    def _delete(self, path: str, keys: Sequence[str]) -> None:
        try:
            with self._files.writing(path) as connection, _transaction(connection):
                for key in keys:
                    _remove(connection, key)
                is_empty = connection.execute("SELECT 1 FROM objects LIMIT 1").fetchone() is None
                if is_empty:
                    bury(connection)
        except Gone:
            is_empty = True
        if is_empty:
            self._files.remove_buried(path)

    def _not_found(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"no such object: {self.url}/{key}")

    def _there(self, key: str) -> PreconditionFailed:
        return PreconditionFailed(f"the object already exists: {self.url}/{key}")


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit the block's statements; if it raises, `StoreFiles` rolls back when the connection is returned."""
    connection.execute(f"BEGIN {kind}")
    yield
    connection.execute("COMMIT")


def _chunked(connection: sqlite3.Connection, key: str, start: int, end: int | None) -> Stored | None:
    """Read a chunked body, or a range of it, in one transaction, so that it cannot mix two writes."""
    with _transaction(connection, "DEFERRED"):
        row = connection.execute(_GET, (None, key)).fetchone()
        if row is None:
            raise ObjectNotFound(f"no such object: {key}")
        etag, size, body = row
        if body is not None:
            stored = Stored(body[start:end], etag)
        else:
            stored = Stored(_range(connection, etag, min(start, size), min(size, size if end is None else end)), etag)
    return stored


def _range(connection: sqlite3.Connection, etag: str, start: int, end: int) -> bytes:
    first = start // _CHUNK_BYTES
    whole = io.BytesIO()  # `getvalue` returns the buffer itself: gigabytes are in memory once, not twice
    for (chunk,) in connection.execute(_CHUNKS, (etag, first, -(-end // _CHUNK_BYTES))):
        skipped = max(0, start - first * _CHUNK_BYTES) if whole.tell() == 0 else 0
        whole.write(memoryview(chunk)[skipped : skipped + end - start - whole.tell()])
    return whole.getvalue()


def _chunks(etag: str, body: Body) -> Iterator[tuple[str, int, memoryview]]:
    view = memoryview(body)
    for number, start in enumerate(range(0, len(view), _CHUNK_BYTES)):
        yield etag, number, view[start : start + _CHUNK_BYTES]


def _remove(connection: sqlite3.Connection, key: str) -> None:
    row = connection.execute("SELECT rowid, etag, body IS NULL FROM objects WHERE key = ?", (key,)).fetchone()
    if row is None:
        return
    rowid, etag, is_chunked = row
    if is_chunked:
        connection.execute("DELETE FROM chunks WHERE etag = ?", (etag,))
    connection.execute("DELETE FROM objects WHERE rowid = ?", (rowid,))


def _folders(connection: sqlite3.Connection, prefix: str) -> Iterator[str]:
    """Yield the folders under `prefix`: one index lookup per folder, not one per key."""
    at, end = prefix, _after(prefix)
    while row := connection.execute(_NEXT_KEY, (at, end)).fetchone():
        key: str = row[0]
        name, slash, _ = key[len(prefix) :].partition("/")
        if slash:
            yield name
            at = _after(f"{prefix}{name}/")
        else:
            at = key + "\0"


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a circular link
        return False


def _after(prefix: str) -> str:
    """Return the first string that sorts after every string with this prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"
