"""The folder into which one worker unpacks code, and its removal, also after the worker was killed.

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
from contextlib import suppress
from pathlib import Path

from starburst_executor.clock import SystemClock

__all__ = ["CodeRoot", "new_name", "remove"]

_PREFIX = "starburst-code-"
# Making a folder and locking it takes far less than this: an older folder without a lock has lost its worker.
_LEFT_AFTER_S = 60.0
_CLOCK = SystemClock()


def new_name() -> str:
    """Return a name that no other worker has."""
    return f"{_PREFIX}{os.getpid()}-{_CLOCK.new_id()}"


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


def _sweep(folder: Path) -> None:
    for root in folder.glob(f"{_PREFIX}*"):
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
