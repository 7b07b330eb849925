"""A client's threads: each is started once, reports its failure, and is joined at the end."""

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
    """Daemon threads of one client. Thread-safe, except `start`, which the caller must guard with a lock.

    Args:
        failed: Called in the thread with any exception that it raises.
    Attributes:
        stop: Set when the threads should end.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.stop = threading.Event()
        self._failed = failed
        self._threads: list[threading.Thread] = []

    def start(self, name: str, target: Callable[[], object]) -> None:
        """Start a thread unless it was started before. Raises: RuntimeError if no thread can be started; the next call retries."""
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
        """Start a thread that is not joined; do nothing if no thread can be started. Takes no lock."""
        thread = threading.Thread(target=self._guard, args=(target,), name=THREAD_PREFIX + name, daemon=True)
        with suppress(RuntimeError):
            thread.start()

    def is_one(self) -> bool:
        """Whether the calling thread is one of them, as in a future's callback."""
        return threading.current_thread() in self._threads

    def runs(self, name: str) -> bool:
        """Whether the thread with this name is alive."""
        return any(thread.name == THREAD_PREFIX + name and thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until all have ended, except the calling thread.

        Assumes: `stop` is set, and the events on which the threads wait.
        """
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        # An executor may live long after its end, because of its futures; its threads' objects should not.
        self._threads.clear()

    def _guard(self, target: Callable[[], object]) -> None:
        """Run a thread's target, and report any exception: no thread ends silently."""
        try:
            target()
        except BaseException as error:
            if not self.stop.is_set():
                self._failed(error)


def named(error: BaseException, session_id: str) -> StarburstError:
    """Map the exception that ended a client to an exception of this library."""
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
