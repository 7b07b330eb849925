"""Creates, opens, lends and removes the files of the embedded store; `store.py` reads and writes them.

A *store file* is created with its first object and removed with its last. Reading never creates one. Three hazards
determine this module:

- *Forks.* SQLite remembers per process which files it has locked. A child that inherits this memory assumes
  locks that it does not hold, and its acknowledged writes vanish when the parent closes the file. So no connection is
  open while the process forks: a fork waits for lent connections to come back, then closes all connections.
- *Removal.* A file is unlinked only after its tables were renamed in a committed transaction, so a process that still
  has it open fails on its next statement ("no such table") instead of writing into a file without a name.
- *Names.* A file and its log are opened, and the log removed, by name. Making and removing a file exclude each other,
  and opening and closing one, by an advisory lock on the folder (`_lock`), which the system releases when its process
  dies. Guarantee: the file under a name is never replaced between a check of that file and the action that follows.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote
from weakref import WeakSet

from starburst_executor.errors import AccessDenied, RecordInvalid, StarburstError, StoreUnavailable

__all__ = ["Gone", "StoreFiles", "bury", "translated"]

_FORMAT = 1
_BUSY_S = 60.0
# For the first read of a file. The locks of a store last for moments; another program's database may be locked for long.
_BUSY_FIRST_S = 2.0
# Permanent errors: the path is blocked by another file, is not accessible, or is not a valid name.
_NEVER = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTSUP),
    }
)
_FORK_PATIENCE_S = 5.0
_FILES_OPEN = 16  # for as many sessions; three descriptors per file and thread
_WAL_BYTES_KEPT = 64 << 20
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


class Gone(Exception):
    """The store file does not exist, or is buried: it has no objects and never will."""


class _File:
    """The connections of one process to one store file."""

    __slots__ = ("identity", "idle", "path", "writing")

    def __init__(self, path: str, identity: tuple[int, int]) -> None:
        self.path = path
        self.identity = identity
        self.idle: list[sqlite3.Connection] = []
        # Queues the threads of this process: SQLite lets a waiter sleep for milliseconds, and a swap takes microseconds.
        self.writing = threading.Lock()


class StoreFiles:
    """Connections to the files of one folder. Thread-safe; safe in a child after a fork.

    Args:
        folder: The folder of the files; created with the first file, with access for its owner only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Guards _files, each file's idle list, _n_lent, _n_forking; notified when nothing is lent or no fork is due.
        self._changed = threading.Condition(threading.Lock())
        self._files: dict[str, _File] = {}
        self._n_lent = 0
        self._n_forking = 0
        self._closed = False
        _all_files.add(self)

    @contextmanager
    def reading(self, path: str) -> Iterator[sqlite3.Connection]:
        """Lend a connection to an existing file. Raises: Gone."""
        file, connection = self._borrow(path)
        try:
            yield connection
        except BaseException as error:
            self._take_back_failed(file, connection, error)
            _raise_translated(error, path)
            raise
        self._take_back(file, connection)

    @contextmanager
    def writing(self, path: str) -> Iterator[sqlite3.Connection]:
        """Lend a connection; no other thread of this process writes to the file until it is returned. Raises: Gone."""
        file, connection = self._borrow(path)
        try:
            with file.writing:
                yield connection
        except BaseException as error:
            self._take_back_failed(file, connection, error)
            _raise_translated(error, path)
            raise
        self._take_back(file, connection)

    def make(self, path: str) -> None:
        """Create a store file, unless one exists that is not buried.

        # Crash here: a file without tables is left; it reads as Gone, and the next `make` completes it.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._connected_alone(), self._folder_lock():
                self._make_locked(path)
        except (OSError, sqlite3.Error) as error:
            _raise_translated(error, path)
            raise

    def remove_buried(self, path: str) -> None:
        """Unlink a buried file; do nothing to any other. A second call is harmless.

        # Crash here: a buried file keeps its name; it reads as Gone, and the next `make` or removal unlinks it.
        """
        if _identity(path) is None:
            return
        try:
            with self._connected_alone(), self._folder_lock(), closing(_connected(path)) as connection:
                if _is_buried(connection):
                    _unlink(path)
        except Gone:
            return
        except (OSError, sqlite3.Error) as error:
            _raise_translated(error, path)
            raise

    def close(self) -> None:
        """Close every connection: idle ones now, lent ones when they are returned."""
        with self._changed:
            self._closed = True
            self._close_idle()

    def hold_for_fork(self) -> None:
        """Close all connections and keep all threads out of SQLite until `resume_after_fork`."""
        # Bounded: a signal handler that forks may have interrupted the call for which this would wait.
        if not self._changed.acquire(timeout=_FORK_PATIENCE_S):
            return
        self._n_forking += 1
        self._changed.wait_for(lambda: self._n_lent == 0, _FORK_PATIENCE_S)
        self._close_idle()
        self._changed.release()

    def resume_after_fork(self, *, in_child: bool) -> None:
        """Allow connections again; a child discards the state of threads that it does not have."""
        if in_child:
            self._changed = threading.Condition(threading.Lock())
            self._files = {}
            self._n_lent = self._n_forking = 0
            return
        with self._changed:
            self._n_forking = max(0, self._n_forking - 1)
            self._changed.notify_all()

    def _borrow(self, path: str) -> tuple[_File, sqlite3.Connection]:
        identity = _identity(path)
        with self._changed:
            self._wait_for_forks()
            file = self._files.get(path)
            if file is not None and file.identity != identity:
                self._forget(path)
                file = None
            if identity is None:
                raise Gone(path)
            if file is None:
                file = self._remembered(path, identity)
            self._n_lent += 1
            if file.idle:
                return file, file.idle.pop()
        try:
            return file, self._opened(path, identity)
        except BaseException as error:
            self._count_back()
            _raise_translated(error, path)
            raise

    @contextmanager
    def _connected_alone(self) -> Iterator[None]:
        """Count a connection that the block opens and closes itself, so that forks wait for it."""
        with self._changed:
            self._wait_for_forks()
            self._n_lent += 1
        try:
            yield
        finally:
            self._count_back()

    def _wait_for_forks(self) -> None:
        while self._n_forking:
            self._changed.wait()

    def _remembered(self, path: str, identity: tuple[int, int]) -> _File:
        if len(self._files) >= _FILES_OPEN:
            self._forget(next(iter(self._files)))
        file = self._files[path] = _File(path, identity)
        return file

    def _forget(self, path: str) -> None:
        """Close the idle connections to a file; lent ones are closed when they are returned."""
        for connection in self._files.pop(path).idle:
            self._close(connection)

    def _opened(self, path: str, identity: tuple[int, int]) -> sqlite3.Connection:
        with self._folder_lock(shared=True):
            connection = _connected(path, busy_s=_BUSY_FIRST_S)
            try:
                if _identity(path) != identity:
                    raise Gone(path)
                # This read also opens the log: from now on the connection opens no file by name.
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

    def _take_back(self, file: _File, connection: sqlite3.Connection) -> None:
        with self._changed:
            if not self._closed and self._files.get(file.path) is file:
                file.idle.append(connection)
                self._count_back_locked()
                return
        self._close(connection)
        self._count_back()

    def _take_back_failed(self, file: _File, connection: sqlite3.Connection, error: BaseException) -> None:
        if isinstance(error, StarburstError):  # a refusal: the connection is intact
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._take_back(file, connection)
        else:
            self._close(connection)  # which rolls back
            self._count_back()

    def _count_back(self) -> None:
        with self._changed:
            self._count_back_locked()

    def _count_back_locked(self) -> None:
        self._n_lent -= 1
        if self._n_lent == 0:
            self._changed.notify_all()

    def _close_idle(self) -> None:
        for file in self._files.values():
            while file.idle:
                self._close(file.idle.pop())

    def _make_locked(self, path: str) -> None:
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

    def _close(self, connection: sqlite3.Connection) -> None:
        # The last connection that closes removes the log by name. The lock keeps another file from taking the name meanwhile.
        try:
            with self._folder_lock(shared=True):
                connection.close()
        except OSError:  # the folder was removed or is not accessible
            connection.close()

    @contextmanager
    def _folder_lock(self, *, shared: bool = False) -> Iterator[None]:
        with (self.folder / "_lock").open("ab") as lock:
            fcntl.flock(
                lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            )  # released when it is closed, also by the death of the process
            yield


def bury(connection: sqlite3.Connection) -> None:
    """Mark a file without objects as dead, within a write transaction."""
    connection.execute("ALTER TABLE objects RENAME TO buried")


def translated(error: BaseException, path: str) -> StarburstError | Gone | None:
    """Return the error of this package for an error of SQLite or the file system; None for other exceptions."""
    if isinstance(error, OSError):
        return _translated_os(error, path)
    if not isinstance(error, sqlite3.Error):
        return None
    text = str(error)
    if "no such table" in text:
        return Gone(path)
    if "disk is full" in text:
        return StoreUnavailable(f"disk full, free some space: file={path}")
    if "readonly" in text or "unable to open" in text:
        folder = Path(path).parent
        return AccessDenied(f"cannot use the embedded store, make its folder writable or pass store=: {folder}: {text}")
    # The last three: another program's tables with the same names.
    if any(
        words in text for words in ("not a database", "malformed", "no such column", "has no column", "columns but")
    ):
        return RecordInvalid(f"not a store, or damaged: move it away: file={path}: {text}")
    return StoreUnavailable(f"the embedded store did not answer: file={path}: {text}")


def _translated_os(error: OSError, path: str) -> StarburstError | Gone:
    folder = Path(path).parent
    if isinstance(error, FileNotFoundError):
        return Gone(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"disk full, free some space: file={path}")
    if error.errno in _NEVER:
        return AccessDenied(
            f"cannot use the embedded store, make its folder writable or pass store=: {folder}: {error}"
        )
    return StoreUnavailable(f"the embedded store did not answer: file={path}: {error}")


def _raise_translated(error: BaseException, path: str) -> None:
    meaning = translated(error, path)
    if meaning is not None:
        raise meaning from error


def _connected(path: str, mode: str = "rw", busy_s: float = _BUSY_S) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError:
        if mode == "rw" and _identity(path) is None:
            raise Gone(path) from None
        raise
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - called in every request; Path costs twice as much
    except FileNotFoundError:
        return None
    except OSError as error:
        _raise_translated(error, path)
        raise
    return status.st_dev, status.st_ino


def _is_buried(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'buried'").fetchone() is not None


def _unlink(path: str) -> None:
    # The database first: without it, a log that a crash leaves behind is never replayed. In the reverse order a crash
    # could lose the burial, which may still be in the log, and the objects would be back.
    for name in (path, path + "-wal", path + "-shm"):
        with suppress(FileNotFoundError):
            Path(name).unlink()


_all_files: WeakSet[StoreFiles] = WeakSet()


def _before_fork() -> None:
    for files in list(_all_files):
        files.hold_for_fork()


def _after_fork(*, in_child: bool) -> None:
    for files in list(_all_files):
        files.resume_after_fork(in_child=in_child)


os.register_at_fork(
    before=_before_fork,
    after_in_parent=lambda: _after_fork(in_child=False),
    after_in_child=lambda: _after_fork(in_child=True),
)
