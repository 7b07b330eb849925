"""The folder that one worker unpacks code into: who makes it, and who removes it when the worker was killed.

    agent ended in order      the agent removes it
    agent was killed          its nursery does, which knows the name from before the fork
    both were killed          the next worker of the same user that makes one here

The agent's process holds a lock on the folder, which the system drops at its end, whatever that is. So a folder that can
be locked has lost its worker, also where workers in several containers share a temporary folder.
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
# Making a folder and locking it takes moments: one that is older and has no lock has lost its worker.
_LEFT_AFTER_S = 60.0
_CLOCK = SystemClock()


def new_name() -> str:
    """A name that no other worker has."""
    return f"{_PREFIX}{os.getpid()}-{_CLOCK.new_id()}"


def remove(name: str) -> None:
    """Remove the folder of this name, if there is one. Never raises."""
    with suppress(OSError):  # no temporary folder can be written, so that it was never made
        shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)


class CodeRoot:
    """The folder, from its making to its end. Not thread-safe."""

    def __init__(self, name: str) -> None:
        """Make it and lock it; sweep those of workers that were killed. Raises: OSError."""
        folder = Path(tempfile.gettempdir())
        self.path = folder / name
        self.path.mkdir(mode=0o700)  # or others could put something there
        try:
            self._lock = os.open(self.path, os.O_RDONLY)
        except OSError:
            self.path.rmdir()
            raise
        with suppress(OSError):  # where a file system has no locks, nothing can be locked by a sweep either
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        _sweep(folder)

    def close(self) -> None:
        """Remove it. Called once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep(folder: Path) -> None:
    for root in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_if_left(root)


def _remove_if_left(root: Path) -> None:
    """Remove it if its worker has ended. Raises: OSError: it lives, or this is no folder of ours."""
    about = root.lstat()
    if about.st_uid != os.getuid() or _CLOCK.now() - about.st_mtime < _LEFT_AFTER_S:
        return
    opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(root, ignore_errors=True)
    finally:
        os.close(opened)
