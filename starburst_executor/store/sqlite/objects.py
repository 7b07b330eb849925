"""The SQL statements of one store file: what each operation reads and writes in it, on a connection that is lent.

Guarantee: each function is one transaction. If it raises, the caller returns the connection, which rolls back.
"""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.sqlite.folder import bury

__all__ = ["create", "delete", "folders", "listed", "put", "read", "swap"]

# A bigger body is split into rows of this size: a range reads only its chunks, and SQLite's limit of 1 GB does not apply.
_CHUNK_BYTES = 1 << 20

_GET = "SELECT etag, size, CASE WHEN etag = ? THEN NULL ELSE body END FROM objects WHERE key = ?"
_CREATE = "INSERT INTO objects SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM objects WHERE key = ?)"
# These skip chunked bodies: `swap` and `put` then also remove the chunks.
_SWAP = "UPDATE objects SET etag = ?, size = ?, modified_at = ?, body = ? WHERE key = ? AND etag = ? AND body NOT NULL"
_PUT = "UPDATE objects SET etag = ?, size = ?, modified_at = ?, body = ? WHERE key = ? AND body NOT NULL"
_LIST = "SELECT key, size, etag, modified_at FROM objects WHERE key >= ? AND key < ? ORDER BY key"
_NEXT_KEY = "SELECT key FROM objects WHERE key >= ? AND key < ? ORDER BY key LIMIT 1"
_CHUNKS = "SELECT body FROM chunks WHERE etag = ? AND number >= ? AND number < ? ORDER BY number"


# `Listed._make` without its checks: a client that waits for many objects creates tens of thousands of these per second.
_listed = partial(tuple.__new__, Listed)


def read(connection: sqlite3.Connection, key: str, known: str | None, start: int, length: int | None) -> Stored | None:
    """Return an object, or `length` bytes of it from `start`; without its body if its ETag is `known`; None if there is none."""
    row = connection.execute(_GET, (known, key)).fetchone()
    if row is None:
        return None
    etag, _, body = row
    if etag == known:
        return Stored(b"", etag)
    end = None if length is None else start + length
    if body is None:
        return _chunked(connection, key, start, end)
    return Stored(body if start == 0 and end is None else body[start:end], etag)


def create(connection: sqlite3.Connection, key: str, body: Body, etag: str, now: float) -> bool:
    """Write an object that does not exist; return False if it does."""
    if len(body) <= _CHUNK_BYTES:
        return connection.execute(_CREATE, (key, etag, len(body), now, body, key)).rowcount == 1
    with _transaction(connection):
        if connection.execute("SELECT 1 FROM objects WHERE key = ?", (key,)).fetchone():
            return False
        _insert(connection, key, body, etag, now)
        return True


def swap(connection: sqlite3.Connection, key: str, body: Body, expected: str, etag: str, now: float) -> str | None:
    """Replace an object whose ETag is `expected`; return the ETag that it had, or None if there is no object."""
    if len(body) <= _CHUNK_BYTES:
        row = (etag, len(body), now, body, key, expected)
        if connection.execute(_SWAP, row).rowcount == 1:
            return expected
    with _transaction(connection):
        found = connection.execute("SELECT etag FROM objects WHERE key = ?", (key,)).fetchone()
        before: str | None = None if found is None else found[0]
        if before == expected:
            _remove(connection, key)
            _insert(connection, key, body, etag, now)
        return before


def put(connection: sqlite3.Connection, key: str, body: Body, etag: str, now: float) -> None:
    """Write an object whether or not it exists."""
    if len(body) <= _CHUNK_BYTES and connection.execute(_PUT, (etag, len(body), now, body, key)).rowcount == 1:
        return
    with _transaction(connection):
        _remove(connection, key)
        _insert(connection, key, body, etag, now)


def delete(connection: sqlite3.Connection, keys: Sequence[str]) -> bool:
    """Delete objects, and bury the file if none is left; return whether it is buried now."""
    with _transaction(connection):
        for key in keys:
            _remove(connection, key)
        is_empty = connection.execute("SELECT 1 FROM objects LIMIT 1").fetchone() is None
        if is_empty:
            bury(connection)
        return is_empty


def listed(connection: sqlite3.Connection, prefix: str) -> Iterator[Listed]:
    """Yield the lines of a listing, sorted by key."""
    return map(_listed, connection.execute(_LIST, (prefix, _after(prefix))))


def folders(connection: sqlite3.Connection, prefix: str) -> Iterator[str]:
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
            return None
        etag, size, body = row
        if body is not None:
            return Stored(body[start:end], etag)
        return Stored(_range(connection, etag, min(start, size), min(size, size if end is None else end)), etag)


def _range(connection: sqlite3.Connection, etag: str, start: int, end: int) -> bytes:
    first = start // _CHUNK_BYTES
    whole = io.BytesIO()  # `getvalue` returns the buffer itself: gigabytes are in memory once, not twice
    for (chunk,) in connection.execute(_CHUNKS, (etag, first, -(-end // _CHUNK_BYTES))):
        skipped = max(0, start - first * _CHUNK_BYTES) if whole.tell() == 0 else 0
        whole.write(memoryview(chunk)[skipped : skipped + end - start - whole.tell()])
    return whole.getvalue()


def _insert(connection: sqlite3.Connection, key: str, body: Body, etag: str, now: float) -> None:
    whole = body if len(body) <= _CHUNK_BYTES else None
    connection.execute("INSERT INTO objects VALUES (?, ?, ?, ?, ?)", (key, etag, len(body), now, whole))
    if whole is None:
        connection.executemany("INSERT INTO chunks VALUES (?, ?, ?)", _chunks(etag, body))


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


def _after(prefix: str) -> str:
    """Return the first string that sorts after every string with this prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"
