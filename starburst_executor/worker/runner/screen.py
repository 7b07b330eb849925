"""The display of a worker on its own standard output and error: its tasks' text, and its log.

    listeners, slots, keeper, main ──write──► up to 16 MB ──► a thread ──► a pipe, a terminal, a file

A client that is stopped, or a terminal that is paused, does not read, and then a write to it does not return. So only the
thread of a screen writes to the descriptor.

Guarantee: `write` never waits. A text for which there is no room is dropped, and a line in its place names the number of
bytes. The output that is captured and stored is not affected.

`O_NONBLOCK` is not suitable: it belongs to the open file, which the client and other programs of its terminal share.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Screen"]

_ROOM_BYTES = 16 * 2**20  # the same as for a running task's output


class Screen(io.BufferedIOBase):
    """Writes text to one descriptor. Thread-safe. Its thread starts with the first text, so a fork before that is safe.

    Args:
        fd: The descriptor, which stays open.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._changed = (
            threading.Condition()
        )  # guards: _texts, _n_bytes, _n_dropped, _is_gone, _thread; not held during a write to the descriptor
        self._texts: deque[bytes] = deque()  # the first text is being written
        self._n_bytes = 0
        self._n_dropped = 0  # bytes dropped since the last text for which there was room
        self._is_gone = False  # whether the reader has closed its end
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> int:
        """The descriptor, like the `name` of a file."""
        return self._fd

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: Buffer) -> int:
        """Queue a text as a whole, or drop it. Does not wait."""
        body = bytes(text)
        with self._changed:
            if body and not self._is_gone:
                if self._n_bytes + len(body) > _ROOM_BYTES:
                    self._n_dropped += len(body)
                else:
                    self._tell_dropped()
                    self._add(body)
        return len(body)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all text is written or cannot be written; return whether that happened within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._texts, timeout_s)

    def _add(self, body: bytes) -> None:
        self._texts.append(body)
        self._n_bytes += len(body)
        self._changed.notify_all()
        if self._thread is None:
            # A daemon: a write that does not return must not keep a worker alive.
            self._thread = threading.Thread(target=self._run, name=f"screen-{self._fd}", daemon=True)
            self._thread.start()

    def _tell_dropped(self) -> None:
        if self._n_dropped:
            self._add(f"… {self._n_dropped:,} bytes not shown: they came faster than they were read …\n".encode())
            self._n_dropped = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts)
                body = self._texts[0]
            try:
                self._write_all(body)
            except OSError:  # the reader has closed its end; a task's text is captured all the same
                with self._changed:
                    self._is_gone = True
                    self._texts.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._texts.popleft()
                self._n_bytes -= len(body)
                if not self._texts:
                    self._tell_dropped()
                self._changed.notify_all()

    def _write_all(self, body: bytes) -> None:
        left = memoryview(body)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # another program that shares the open file has set O_NONBLOCK
                poller = select.poll()
                poller.register(self._fd, select.POLLOUT)
                poller.poll()
