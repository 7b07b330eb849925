"""Makes, opens and removes the files of the embedded store by their names, under the lock of their folder.

A *store file* is created with its first object and removed with its last. Reading never creates one. Two hazards
determine this module:

- *Removal.* A file is unlinked only after its tables were renamed in a committed transaction, so a process that still
  has it open fails on its next statement ("no such table") instead of writing into a file without a name.
- *Names.* A file and its log are opened, and the log removed, by name. Making and removing a file exclude each other,
  and opening and closing one, by an advisory lock on the folder (`_lock`), which the system releases when its process
  dies. Guarantee: the file under a name is never replaced between a check of that file and the action that follows.

Where nothing can be written (a read-only mount, a folder of another user), SQLite reads a file as long as its log is there too.
Without a log, which the last connection that closed has removed, it refuses; then the file alone is read (`PlainConnection`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

from starburst_executor.errors import RecordInvalid
from starburst_executor.store.sqlite.errors import Gone, raise_translated

__all__ = ["Folder", "PlainConnection", "bury", "identity_of"]

_FORMAT = 1
_BUSY_S = 60.0
# For the first read of a file. The locks of a store last for moments; another program's database may be locked for long.
_BUSY_FIRST_S = 2.0
_WAL_BYTES_KEPT = 64 << 20
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
# The index alone answers a listing, without reading bodies. Bodies above a chunk's size are rows of `chunks` under their
# ETag, which is unique to one write.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE objects (key TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL, modified_at REAL NOT NULL, body BLOB);
CREATE INDEX listing ON objects (key, etag, size, modified_at);
CREATE TABLE chunks (etag TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (etag, number));
PRAGMA user_version = {_FORMAT};
COMMIT;
"""


class PlainConnection(sqlite3.Connection):
    """A connection that reads a file without log and locks: nothing can be written from here, and nothing was being written when it opened.

    The file may be writable elsewhere, as that of a read-only mount is. So whatever was read counts only if `is_unchanged` holds afterwards.
    """

    path: str
    state: tuple[int, int] | None

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing was written since it was opened."""
        return self.state is not None and self.state == _state_without_log(self.path)


class Folder:
    """The folder of the store's files. Thread-safe: it has no state of its own.

    Assumes: no fork happens while a connection that this class returned is open, or one of its methods runs; `files.py`
    keeps forks away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, path: str) -> None:
        """Create a store file, unless one exists that is not buried.

        Crash here: a file without tables is left; it reads as Gone, and the next `make` completes it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock():
                self._make(path)
        except (OSError, sqlite3.Error) as error:
            raise_translated(error, path)
            raise

    def remove_buried(self, path: str) -> None:
        """Unlink a buried file; do nothing to any other. A second call is harmless.

        Crash here: a buried file keeps its name; it reads as Gone, and the next `make` or removal unlinks it.
        """
        if identity_of(path) is None:
            return
        try:
            with self._lock(), closing(_connected(path)) as connection:
                if _is_buried(connection):
                    _unlink(path)
        except Gone:
            return
        except (OSError, sqlite3.Error) as error:
            raise_translated(error, path)
            raise

    def opened(self, path: str, identity: tuple[int, int]) -> sqlite3.Connection:
        """Open a connection to the file with this name and identity. Raises: Gone if it is another file, or has no objects."""
        with self._lock(shared=True):
            connection = self._readable(path)
            try:
                if identity_of(path) != identity:
                    raise Gone(path)
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:  # this library never stored anything in it
                    raise Gone(path)
                if version != _FORMAT:
                    raise RecordInvalid(
                        f"not a store, or written by a newer starburst_executor, upgrade to read it: file={path}, "
                        f"format={version}"
                    )
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000:.0f}")
            except BaseException:
                connection.close()
                raise
        return connection

    def close(self, connection: sqlite3.Connection) -> None:
        """Close a connection that `opened` has returned."""
        # The last connection that closes removes the log by name. The lock keeps another file from taking the name meanwhile.
        try:
            with self._lock(shared=True):
                connection.close()
        except OSError:  # the folder was removed or is not accessible
            connection.close()

    def _readable(self, path: str) -> sqlite3.Connection:
        """Connect to a file, and read from it: that also opens the log, so the connection opens no file by name afterwards."""
        try:
            connection = _connected(path, busy_s=_BUSY_FIRST_S)
            try:
                connection.execute("PRAGMA user_version")
            except BaseException:
                connection.close()
                raise
        except sqlite3.OperationalError:
            if os.access(self.path, os.W_OK) or _state_without_log(path) is None:
                raise
            return _plain(path)
        return connection

    def _make(self, path: str) -> None:
        connection = _connected(path, mode="rwc")
        try:
            if _is_buried(connection):
                _unlink(path)
                connection.close()
                connection = _connected(path, mode="rwc")
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
            elif connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                raise RecordInvalid(f"not a store, but another program's database: move it away: file={path}")
        finally:
            connection.close()

    @contextmanager
    def _lock(self, *, shared: bool = False) -> Iterator[None]:
        with self._lock_file(shared=shared) as lock:
            if lock is not None:
                fcntl.flock(
                    lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                )  # released when it is closed, also by the death of the process
            yield

    def _lock_file(self, *, shared: bool) -> AbstractContextManager[IO[bytes] | None]:
        """Open the file of the lock; None for a reader where there is none, and none can be made."""
        path = self.path / "_lock"
        try:
            return path.open("ab")
        except OSError as error:
            if not shared or error.errno not in _NOT_WRITABLE:
                raise
        try:
            return path.open("rb")
        except FileNotFoundError:
            return nullcontext()


def bury(connection: sqlite3.Connection) -> None:
    """Mark a file without objects as dead, within a write transaction."""
    connection.execute("ALTER TABLE objects RENAME TO buried")


def identity_of(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file with this name; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - called in every request; Path costs twice as much
    except FileNotFoundError:
        return None
    except OSError as error:
        raise_translated(error, path)
        raise
    return status.st_dev, status.st_ino


def _connected(path: str, mode: str = "rw", busy_s: float = _BUSY_S) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError:
        if mode == "rw" and identity_of(path) is None:
            raise Gone(path) from None
        raise
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _plain(path: str) -> PlainConnection:
    state = _state_without_log(path)
    uri = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, factory=PlainConnection)
    connection.path, connection.state = path, state
    return connection


def _state_without_log(path: str) -> tuple[int, int] | None:
    """Return what changes with each write to a file that has no log; None if it has one, or is not there."""
    if Path(path + "-wal").exists():
        return None
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _is_buried(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'buried'").fetchone() is not None


def _unlink(path: str) -> None:
    # The database first: without it, a log that a crash leaves behind is never replayed. In the reverse order a crash
    # could lose the burial, which may still be in the log, and the objects would be back.
    for name in (path, path + "-wal", path + "-shm"):
        with suppress(FileNotFoundError):
            Path(name).unlink()
