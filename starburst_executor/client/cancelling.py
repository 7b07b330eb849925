"""The client's side of its futures: cancels their tasks, and passes their requests on once the client has left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from starburst_executor.client.bodies import Mapper
from starburst_executor.client.collector import Collector
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.sending import Sending
from starburst_executor.client.task_logs import output_of
from starburst_executor.client.threads import Threads
from starburst_executor.errors import RecordInvalid, StarburstError, VersionMismatch
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import Status
from starburst_executor.session.store import SessionStore

__all__ = ["Deputy", "Elsewhere", "FuturesOfClient"]


class Deputy(Protocol):
    """Completes and cancels the futures of a client that has left, in its place."""

    def ask(self, future: StarburstFuture[Any]) -> None:
        """Ensure that this future gets its outcome. Raises: RuntimeError."""

    def cancel(self, futures: list[StarburstFuture[Any]]) -> int:
        """Cancel the tasks that no worker has claimed; return their number."""


class Elsewhere:
    """The deputy in the child of a fork, where nothing works: client and session belong to the parent."""

    def __init__(self, error: StarburstError) -> None:
        self._error = error

    def ask(self, _: StarburstFuture[Any]) -> None:
        raise self._error

    def cancel(self, _: list[StarburstFuture[Any]]) -> int:
        raise self._error


class FuturesOfClient:
    """The `Canceller` of one client's futures. Thread-safe.

    Args:
        parallel: Makes several requests at once.
        reattach: The function that returns the future in another process after unpickling, and its arguments before
            ordinal and index.
    Attributes:
        deputy: Takes over the futures once the client has left; None before.
    """

    def __init__(
        self,
        session: SessionStore,
        collector: Collector,
        threads: Threads,
        parallel: Mapper,
        reattach: tuple[Callable[..., StarburstFuture[Any]], tuple[Any, ...]] | None,
    ) -> None:
        self.deputy: Deputy | None = None
        self.sending: Sending | None = None
        self._session = session
        self._collector = collector
        self._threads = threads
        self._parallel = parallel
        self._reattach = reattach
        self._to_cancel: deque[StarburstFuture[Any]] = deque()
        self._is_cancelling = False  # unlocked: in a race of two, each starts a thread

    @property
    def has_left(self) -> bool:
        """Whether the client no longer collects, so that a future that is used must call `ask_again`."""
        return self.deputy is not None

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        """Ensure that this future gets its outcome although the client has left. Raises: RuntimeError."""
        if self.deputy is not None:
            self.deputy.ask(future)

    def output(self, future: StarburstFuture[Any]) -> tuple[str, str]:
        """Return what a task wrote to its standard output and standard error; also after the client has left. Store: as `output_of`."""
        found = output_of(self._session, future.ordinal, future.index)
        return found.stdout, found.stderr

    def reattacher(self) -> tuple[Callable[..., StarburstFuture[Any]], tuple[Any, ...]] | None:
        return self._reattach

    def are_undone(self) -> bool:
        """Whether any task, unsent or stored, is not done."""
        return self._collector.n_waiting > 0 or (self.sending is not None and not self.sending.is_done())

    def unfinished(self) -> list[StarburstFuture[Any]]:
        """Return the futures that are not done, including those of unsent tasks."""
        unsent = [] if self.sending is None else self.sending.unacknowledged()
        return [*self._collector.waiting(), *unsent]

    def cancel(self, futures: list[StarburstFuture[Any]]) -> int:
        """Cancel the tasks that no worker has claimed; return their number. Store: 1 GET, 1 swap for each status object."""
        if self.deputy is not None:
            return self.deputy.cancel(futures)
        sending = self.sending
        n_cancelled = 0 if sending is None else sending.cancel(futures)
        for _ in range(2):
            left = [future for future in futures if not future.done()]
            keys = self._collector.keys_of(left)
            n_cancelled += sum(self._parallel(lambda item: self.cancel_in(*item), list(keys.items())))
            if sum(map(len, keys.values())) >= len(left) or sending is None:
                break
            # The others are being sent now: once the store has acknowledged them, they can be cancelled in the store.
            if not sending.wait_flown(left):
                break
        return n_cancelled

    def cancel_soon(self, futures: list[StarburstFuture[Any]]) -> None:
        """As `cancel`, in a separate thread: takes no lock, so that the garbage collector may call it at any point."""
        if futures and not self._threads.stop.is_set() and self.deputy is None:
            self._cancel_apart(futures)

    def ask_to_cancel(self, future: StarburstFuture[Any]) -> None:
        """As `cancel`, without waiting: a task that was sent is cancelled by a separate thread."""
        if self.deputy is None and self.sending is not None:
            self.sending.cancel([future])
        if not future.done():
            self._cancel_apart([future])

    def _cancel_apart(self, futures: list[StarburstFuture[Any]]) -> None:
        # While one thread makes the requests for some, further ones gather.
        self._to_cancel.extend(futures)
        if not self._is_cancelling:
            self._is_cancelling = True
            # Not joined: if the session has ended meanwhile, its result does not matter.
            self._threads.start_apart("cancel", self._cancel_gathered)

    def _cancel_gathered(self) -> None:
        try:
            while self._to_cancel:
                self.cancel([self._to_cancel.popleft() for _ in range(len(self._to_cancel))])
        finally:
            self._is_cancelling = False
        if self._to_cancel:  # asked since the last look
            self._cancel_apart([])

    def cancel_unsent(self) -> int:
        """Cancel the unsent tasks; return their number.

        Waits for the tasks that are being sent, for at most 10 s, so that the caller finds them in the store.
        """
        if self.sending is None:
            return 0
        unacknowledged = self.sending.unacknowledged()
        n_cancelled = self.sending.cancel(unacknowledged)
        self.sending.wait_flown([future for future in unacknowledged if not future.done()])
        return n_cancelled

    def cancel_in(self, key: str, positions: Iterable[int]) -> int:
        """Cancel the pending ones among these tasks of one status object; return their number. Store: 1 GET, 1 swap."""
        cancelled: list[int] = []

        def step(current: Status) -> Status:
            changed, cancelled[:] = transitions.cancel(current, positions, self._session.clock.now())
            return changed

        try:
            updated = self._session.statuses.update(key, step)
        except (RecordInvalid, VersionMismatch):
            return 0
        if updated is not None:
            self._collector.take_in(key, updated.status)
        return len(cancelled)
