"""The shared values on a worker: each is read once, into a file that all runners of the worker map.

    call ──names──► shared/<name>/0, 1, … ──seals checked──► <root>/shared-<n> ──► runners map it read-only

The most recently used files stay, and every file whose `SharedFile` is referenced: a feeder holds those of its runner's jobs. A runner
that has mapped a file keeps its contents after it is removed.

Guarantee: a file is complete, and each of its parts verified, before its path is given to a runner.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path

from starburst_executor.errors import LaunchError
from starburst_executor.protocol.pieces import Shared
from starburst_executor.session import shared as stored_values
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.code_root import WorkerFolder
from starburst_executor.worker.recent import Recent

__all__ = ["SharedFile", "SharedValues"]

# Bytes of files that stay in addition to those in use: a worker that needs one again reads it from the store.
_KEPT_BYTES = 4 * 2**30


class SharedFile:
    """A file with the stored bytes of a shared value. It exists as long as this object is referenced."""

    __slots__ = ("__weakref__", "n_bytes", "name", "path")

    def __init__(self, name: str, path: Path, n_bytes: int) -> None:
        self.name = name
        self.path = path
        self.n_bytes = n_bytes


class SharedValues:
    """Reads the shared values that calls need. Thread-safe.

    Args:
        folder: The worker's folder for files; its owner removes it.
    """

    def __init__(self, session: SessionStore, folder: WorkerFolder, *, keep_bytes: int = _KEPT_BYTES) -> None:
        self._session = session
        self._folder = folder
        self._lock = threading.Lock()  # guards: _files, _recent, _fetching, _n_files
        self._files: weakref.WeakValueDictionary[bytes, SharedFile] = weakref.WeakValueDictionary()
        self._recent: Recent[bytes, SharedFile] = Recent(keep_bytes)
        self._fetching: dict[bytes, threading.Event] = {}  # set when the file is complete, or has failed
        self._unused: deque[Path] = deque()  # files without references; filled by the garbage collector
        self._n_files = 0

    def get(self, wanted: Shared) -> SharedFile:
        """Return the file of a value; wait if another thread is reading it.

        Raises: PayloadError: it was deleted; RecordInvalid; LaunchError: this worker cannot write it.
        Store: 1 GET for each part, if this worker does not have the file.
        """
        while True:
            with self._lock:
                known = self._recent.get(wanted.name) or self._files.get(wanted.name)
                if known is not None:
                    self._recent.add(wanted.name, known, known.n_bytes)
                    return known
                other_fetch = self._fetching.get(wanted.name)
                own_fetch = self._fetching.setdefault(wanted.name, threading.Event())
            if other_fetch is None:
                break
            other_fetch.wait()
        try:
            file = SharedFile(wanted.name.hex(), self._fetch(wanted), wanted.n_bytes)
            weakref.finalize(file, self._unused.append, file.path).atexit = False
            with self._lock:
                self._files[wanted.name] = file
                self._recent.add(wanted.name, file, file.n_bytes)
            return file
        finally:
            with self._lock:
                del self._fetching[wanted.name]
            own_fetch.set()

    def _fetch(self, wanted: Shared) -> Path:
        while self._unused:
            with suppress(OSError):
                self._unused.popleft().unlink()
        with self._lock:
            # No path is used twice: a file that is found unused late must not be removed after it was written again.
            self._n_files += 1
            number = self._n_files
        path: Path | None = None
        try:
            path = self._folder.path() / f"shared-{number}"
            with path.open("xb") as file:
                os.truncate(file.fileno(), wanted.n_bytes)
                fan_out(
                    self._session.store, lambda part: self._write(file.fileno(), wanted, part), range(wanted.n_parts)
                )
        except OSError as error:
            self._discard(path)
            raise LaunchError(
                f"a shared value of {wanted.n_bytes:,} bytes cannot be written on this worker: {error.strerror}: "
                f"folder={tempfile.gettempdir()}; free space in it, or set TMPDIR"
            ) from error
        except BaseException:
            self._discard(path)
            raise
        return path

    def _write(self, fd: int, wanted: Shared, number: int) -> None:
        part = stored_values.read_part(self._session, wanted, number)
        at = number * wanted.part_bytes
        while part:
            n_written = os.pwrite(fd, part, at)
            part, at = part[n_written:], at + n_written

    @staticmethod
    def _discard(path: Path | None) -> None:
        if path is not None:
            with suppress(OSError):
                path.unlink()
