"""The files of the embedded store: made, opened, lent out and removed here, so that `sqlite.py` only reads and writes.

A *store file* is born with its first object and dies with its last. Reading never makes one. Three hazards shape this:

- *Forks.* SQLite remembers per process which files it has locked. A child that inherits this memory believes in
  locks that it does not hold, and its acknowledged writes vanish when the parent closes the file. So no connection is
  open while the process forks: before a fork, those lent out are waited for and all are closed.
- *Removal.* A file is unlinked only after its tables were renamed in a committed transaction, so a process that still
  has it open fails on its next statement ("no such table") instead of writing into a file without a name.
- *Names.* A file and its log are opened, and the log removed, by name. Making and removing a file exclude each other,
  and opening and closing one, by an advisory lock on the folder (`_lock`), which dies with its process. Hence what is
  under a name is never replaced between looking at it and acting on it.
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
# At the first read of a file: a reader of a store waits for moments only, but another program may have locked its own.
_BUSY_FIRST_S = 2.0
# A folder or file that is in the way, may not be entered, or cannot have such a name.
_NEVER = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTSUP),
    }
)
_FORK_PATIENCE_S = 5.0
_FILES_OPEN = 16  # of as many sessions; three descriptors per file and thread
_WAL_BYTES_KEPT = 64 << 20
# The index alone answers a listing; bodies lie apart from it. Bodies above a chunk's size are rows of `chunks` under
# their ETag, which no other write ever has.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE objects (key TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL, modified_at REAL NOT NULL, body BLOB);
CREATE INDEX listing ON objects (key, etag, size, modified_at);
CREATE TABLE chunks (etag TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (etag, number));
PRAGMA user_version = {_FORMAT};
COMMIT;
"""


class Gone(Exception):
    """There is no store file, or it is buried: no object is in it, and none will be."""


class _File:
    """What one process has open of one store file."""

    __slots__ = ("identity", "idle", "path", "writing")

    def __init__(self, path: str, identity: tuple[int, int]) -> None:
        self.path = path
        self.identity = identity
        self.idle: list[sqlite3.Connection] = []
        # SQLite lets waiters sleep for milliseconds, and a swap takes microseconds: threads of one process queue here.
        self.writing = threading.Lock()


class StoreFiles:
    """Connections to the files of one folder. Thread-safe; safe in a child after a fork.

    Args:
        folder: Where the files are; made with the first of them, for its owner only.
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
        """Lend a connection to a file that is there. Raises: Gone."""
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
        """Lend a connection that no other thread of this process writes through meanwhile. Raises: Gone."""
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
        """Make a store file, unless there is one that lives.

        # Crash here: a file without tables; it reads as Gone, and the next `make` finishes it.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._connected_alone(), self._folder_lock():
                self._make_locked(path)
        except (OSError, sqlite3.Error) as error:
            _raise_translated(error, path)
            raise

    def remove_buried(self, path: str) -> None:
        """Unlink a file that was buried; nothing happens to one that lives. A second call is harmless.

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
        """Close every connection: now if it is idle, else when it comes back."""
        with self._changed:
            self._closed = True
            self._close_idle()

    def hold_for_fork(self) -> None:
        """Let no connection be open, and no thread be inside of SQLite, until `resume_after_fork`."""
        # Bounded: a signal handler that forks may have interrupted the very call it would wait for.
        if not self._changed.acquire(timeout=_FORK_PATIENCE_S):
            return
        self._n_forking += 1
        self._changed.wait_for(lambda: self._n_lent == 0, _FORK_PATIENCE_S)
        self._close_idle()
        self._changed.release()

    def resume_after_fork(self, *, in_child: bool) -> None:
        """Go on as before; in a child, without what belonged to threads that do not exist there."""
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
        """For a connection that is not lent but made and closed within the block."""
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
        """Close what is open of a file; what is lent is closed as it comes back."""
        for connection in self._files.pop(path).idle:
            self._close(connection)

    def _opened(self, path: str, identity: tuple[int, int]) -> sqlite3.Connection:
        with self._folder_lock(shared=True):
            connection = _connected(path, busy_s=_BUSY_FIRST_S)
            try:
                if _identity(path) != identity:
                    raise Gone(path)
                # This read opens the log as well: from now on the connection has nothing more to find by name.
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:  # nothing was ever stored in it, by us
                    raise Gone(path)
                if version != _FORMAT:
                    raise RecordInvalid(
                        f"a newer starburst_executor wrote this store, upgrade to read it, or it is none: file={path}, "
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
        if isinstance(error, StarburstError):  # a refusal: nothing is wrong with the connection
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._take_back(file, connection)
        else:
            self._close(connection)  # rolls back
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
        # The last to close a file removes its log by name, after a look whether the name still is this file's.
        try:
            with self._folder_lock(shared=True):
                connection.close()
        except OSError:  # the folder is gone, or closed to us
            connection.close()

    @contextmanager
    def _folder_lock(self, *, shared: bool = False) -> Iterator[None]:
        with (self.folder / "_lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)  # released by closing, and by death
            yield


def bury(connection: sqlite3.Connection) -> None:
    """Within a write transaction: declare dead the file that has lost its last object."""
    connection.execute("ALTER TABLE objects RENAME TO buried")


def translated(error: BaseException, path: str) -> StarburstError | Gone | None:
    """What an error of SQLite or of the file system means to callers of the store; None if it is neither."""
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
    # The last three: tables of these names, and not ours.
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
        found = os.stat(path)  # noqa: PTH116 - in every request; Path costs twice as much
    except FileNotFoundError:
        return None
    except OSError as error:
        _raise_translated(error, path)
        raise
    return found.st_dev, found.st_ino


def _is_buried(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'buried'").fetchone()
    return found is not None


def _unlink(path: str) -> None:
    # The database first: without it, a log left behind by a crash is never replayed. The other way round the burial,
    # still in the log, would be lost and the objects would be back.
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
