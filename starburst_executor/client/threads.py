"""A client's threads: each is started once, has a last resort, and is joined at the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from starburst_executor.client.future import THREAD_PREFIX
from starburst_executor.errors import ExecutorBroken, ObjectNotFound, SessionNotFound, StarburstError

__all__ = ["Threads", "named"]

_log = logging.getLogger(__name__)


class Threads:
    """Daemon threads of one client. Thread-safe, but for `start`, which its caller does under a lock.

    Args:
        failed: Called, in the thread, with whatever it raises.
    Attributes:
        stop: Set when they are to end.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.stop = threading.Event()
        self._failed = failed
        self._threads: list[threading.Thread] = []

    def start(self, name: str, target: Callable[[], object]) -> None:
        """Start one, once. Raises: RuntimeError where there can be no more; the next call tries again."""
        name = THREAD_PREFIX + name
        if any(thread.name == name for thread in self._threads):
            return
        thread = threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.remove(thread)
            raise

    def start_apart(self, name: str, target: Callable[[], object]) -> None:
        """Start one that is not joined, if there can be any more. Takes no lock."""
        thread = threading.Thread(target=self._guard, args=(target,), name=THREAD_PREFIX + name, daemon=True)
        with suppress(RuntimeError):
            thread.start()

    def is_one(self) -> bool:
        """Whether the caller is one of them, as a future's callback is."""
        return threading.current_thread() in self._threads

    def runs(self, name: str) -> bool:
        """Whether the thread of this name is there."""
        return any(thread.name == THREAD_PREFIX + name and thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until all have ended, but for the caller. `stop` has been set, and what they wait on."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        # An executor that has ended may be kept for long, for its futures' sake: nothing of its threads is.
        self._threads.clear()

    def _guard(self, target: Callable[[], object]) -> None:
        """The last resort: no thread ends in silence."""
        try:
            target()
        except BaseException as error:
            if not self.stop.is_set():
                self._failed(error)


def named(error: BaseException, session_id: str) -> StarburstError:
    """What ends a client as an error of ours: callers need not know what libraries below raise."""
    if isinstance(error, (SessionNotFound, ObjectNotFound)):
        return SessionNotFound(f"the session was deleted while this client was attached: {session_id}")
    if isinstance(error, StarburstError):
        return error
    _log.error("a thread of the client failed", exc_info=error)
    broken = ExecutorBroken(
        f"this client cannot go on; the session itself may be well: {type(error).__name__}: {error}, session={session_id}"
    )
    broken.__cause__ = error
    return broken
