"""Wakes a thread that polls descriptors."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["Waker"]

_SIGNAL = (1).to_bytes(8, sys.byteorder)  # the form of an eventfd's value


class Waker:
    """Wakes a thread that polls: an eventfd on Linux, a pipe elsewhere."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._reader = self._writer = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        return self._reader

    def wake(self) -> None:
        with suppress(BlockingIOError):  # the earlier calls that filled it wake the thread
            os.write(self._writer, _SIGNAL)

    def clear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def close(self) -> None:
        for fd in {self._reader, self._writer} - {-1}:
            os.close(fd)
        self._reader = self._writer = -1
