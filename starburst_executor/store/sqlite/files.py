"""Lends connections to the files of the embedded store; `folder.py` makes, opens and removes the files themselves.

SQLite remembers per process which files it has locked. A child that inherits this memory assumes locks that it does not
hold, and its acknowledged writes vanish when the parent closes the file. So no connection is open while the process
forks: a fork waits for lent connections to come back, then closes all connections.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakSet

from starburst_executor.errors import StarburstError, StoreUnavailable
from starburst_executor.store.sqlite.errors import Gone, raise_translated
from starburst_executor.store.sqlite.folder import Folder, PlainConnection, identity_of

__all__ = ["StoreFiles"]

_FORK_PATIENCE_S = 5.0
_FILES_OPEN = 16  # for as many sessions; three descriptors per file and thread


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
        self._on_disk = Folder(folder)
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
            _check_unchanged(connection)
            raise_translated(error, path)
            raise
        self._take_back(file, connection)
        _check_unchanged(connection)

    @contextmanager
    def writing(self, path: str) -> Iterator[sqlite3.Connection]:
        """Lend a connection; no other thread of this process writes to the file until it is returned. Raises: Gone."""
        file, connection = self._borrow(path)
        try:
            with file.writing:
                yield connection
        except BaseException as error:
            self._take_back_failed(file, connection, error)
            raise_translated(error, path)
            raise
        self._take_back(file, connection)

    def make(self, path: str) -> None:
        """Create a store file, unless one exists that is not buried."""
        with self._counted():
            self._on_disk.make(path)

    def remove_buried(self, path: str) -> None:
        """Unlink a buried file; do nothing to any other. A second call is harmless."""
        if identity_of(path) is not None:
            with self._counted():
                self._on_disk.remove_buried(path)

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
        identity = identity_of(path)
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
            return file, self._on_disk.opened(path, identity)
        except BaseException as error:
            self._count_back()
            raise_translated(error, path)
            raise

    @contextmanager
    def _counted(self) -> Iterator[None]:
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
            self._on_disk.close(connection)

    def _take_back(self, file: _File, connection: sqlite3.Connection) -> None:
        with self._changed:
            is_kept = not self._closed and not isinstance(connection, PlainConnection)
            if is_kept and self._files.get(file.path) is file:
                file.idle.append(connection)
                self._count_back_locked()
                return
        self._on_disk.close(connection)
        self._count_back()

    def _take_back_failed(self, file: _File, connection: sqlite3.Connection, error: BaseException) -> None:
        if isinstance(error, StarburstError):  # a refusal: the connection is intact
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._take_back(file, connection)
        else:
            self._on_disk.close(connection)  # which rolls back
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
                self._on_disk.close(file.idle.pop())


def _check_unchanged(connection: sqlite3.Connection) -> None:
    """Raise StoreUnavailable, upon which the read is made again, if what was read may be a mixture of two states."""
    if isinstance(connection, PlainConnection) and not connection.is_unchanged:
        raise StoreUnavailable(f"the file was written while it was read: file={connection.path}")


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
