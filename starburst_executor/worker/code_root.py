"""The folder into which one worker unpacks code and writes shared values, and its removal, also after the worker was killed.

    the agent ended normally    the agent removes it
    the agent was killed        its nursery removes it; it knows the name from before the fork
    both were killed            the next worker of the same user that makes such a folder on this machine removes it

The agent's process holds a lock on the folder, which the system drops when the process ends in any way. So a folder that can
be locked has lost its worker, even if workers in several containers share a temporary folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from starburst_executor.clock import SystemClock
from starburst_executor.errors import LaunchError
from starburst_executor.protocol.keys import UNPACKED

__all__ = ["CodeRoot", "WorkerFolder", "new_name", "remove"]

# Making a folder and locking it takes far less than this: an older folder without a lock has lost its worker.
_LEFT_AFTER_S = 60.0
_CLOCK = SystemClock()


def new_name() -> str:
    """Return a name that no other worker has."""
    return f"{UNPACKED}{os.getpid()}-{_CLOCK.new_id()}"


def remove(name: str) -> None:
    """Remove the folder of this name, if there is one. Never raises."""
    with suppress(OSError):  # there is no writable temporary folder, so the folder was never made
        shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)


class CodeRoot:
    """The folder, from its creation to its removal. Not thread-safe."""

    def __init__(self, name: str) -> None:
        """Make and lock the folder; remove the folders of workers that were killed. Raises: OSError."""
        folder = Path(tempfile.gettempdir())
        self.path = folder / name
        self.path.mkdir(mode=0o700)  # otherwise other users could put files there
        try:
            self._lock = os.open(self.path, os.O_RDONLY)
        except OSError:
            self.path.rmdir()
            raise
        with suppress(OSError):  # on a file system without locks, a sweep cannot lock the folder either
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        _sweep(folder)

    def close(self) -> None:
        """Remove the folder. Called once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


class WorkerFolder:
    """The folder of one worker, made when it is first needed. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()  # guards: _root, _is_closed
        self._root: CodeRoot | None = None
        self._is_closed = False

    def path(self) -> Path:
        """Return the folder. Raises: LaunchError after `close`; OSError."""
        with self._lock:
            if self._is_closed:
                raise LaunchError("this worker is ending and writes no more files")
            if self._root is None:
                self._root = CodeRoot(self._name)
            return self._root.path

    def close(self) -> None:
        """Remove the folder, and make no other. A second call is harmless."""
        with self._lock:
            self._is_closed = True
            root, self._root = self._root, None
        if root is not None:
            root.close()


def _sweep(folder: Path) -> None:
    for root in folder.glob(f"{UNPACKED}*"):
        with suppress(OSError):
            _remove_if_left(root)


def _remove_if_left(root: Path) -> None:
    """Remove a folder if its worker has ended. Raises: OSError: its worker is alive, or it is not such a folder."""
    status = root.lstat()
    if status.st_uid != os.getuid() or _CLOCK.now() - status.st_mtime < _LEFT_AFTER_S:
        return
    opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(root, ignore_errors=True)
    finally:
        os.close(opened)
