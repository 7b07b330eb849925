"""The client's side of its futures: cancels their tasks, and passes their requests on once the client has left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from starburst_executor.client.bodies import Mapper
from starburst_executor.client.collector import Collector
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.sending import Sending
from starburst_executor.client.task_facts import TaskFacts
from starburst_executor.client.task_logs import output_of
from starburst_executor.client.threads import Threads
from starburst_executor.errors import StarburstError
from starburst_executor.launch.local import processes
from starburst_executor.protocol.attempts import Attempt
from starburst_executor.protocol.keys import worker_of
from starburst_executor.session.beats import read_beat
from starburst_executor.session.stops import cancel_in, held_of, name_claims
from starburst_executor.session.store import SessionStore

__all__ = ["Deputy", "Elsewhere", "FuturesOfClient"]


# Workers on this machine are nudged, up to this number; the others learn it from the manifest with their next beat.
_MOST_NUDGED = 32


class Deputy(Protocol):
    """Completes and cancels the futures of a client that has left, in its place."""

    def ask(self, future: StarburstFuture[Any]) -> None:
        """Ensure that this future gets its outcome. Raises: RuntimeError."""

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        """Cancel the tasks that no worker has claimed, or with `running` all; return their number."""


class Elsewhere:
    """The deputy in the child of a fork, where nothing works: client and session belong to the parent."""

    def __init__(self, error: StarburstError) -> None:
        self.error = error

    def ask(self, _: StarburstFuture[Any]) -> None:
        raise self.error

    def cancel(self, _: list[StarburstFuture[Any]], *, running: bool = False) -> int:  # noqa: ARG002 - as above
        raise self.error


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
        self._facts = TaskFacts(session)
        self._to_cancel: deque[tuple[Callable[[], list[StarburstFuture[Any]]], bool]] = deque()
        self._is_cancelling = False  # unlocked: in a race of two, each starts a thread

    @property
    def session_id(self) -> str:
        """The id of the session of its futures' tasks."""
        return self._session.session_id

    @property
    def has_left(self) -> bool:
        """Whether the client no longer collects, so that a future that is used must call `ask_again`."""
        return self.deputy is not None

    def check_here(self) -> None:
        """Raise ExecutorBroken in the child of a fork, where nothing ends."""
        if isinstance(self.deputy, Elsewhere):
            raise self.deputy.error

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        """Ensure that this future gets its outcome although the client has left. Raises: RuntimeError."""
        if self.deputy is not None:
            self.deputy.ask(future)

    def output(self, future: StarburstFuture[Any]) -> tuple[str, str]:
        """Return what a task wrote to its standard output and standard error; also after the client has left. Store: as `output_of`."""
        found = output_of(self._session, future.ordinal, future.index)
        return found.stdout, found.stderr

    def facts(self, future: StarburstFuture[Any], *, now: bool = False) -> tuple[str, Sequence[Attempt]]:
        """Return a task's label and the errors of its earlier tries; empty if it is not stored yet. Store: as `TaskFacts.of`."""
        return self._facts.of(future.ordinal, future.index, now=now)

    def reattacher(self) -> tuple[Callable[..., StarburstFuture[Any]], tuple[Any, ...]] | None:
        return self._reattach

    def are_undone(self) -> bool:
        """Whether any task, unsent or stored, is not done."""
        return self._collector.n_waiting > 0 or (self.sending is not None and not self.sending.is_done())

    def unfinished(self) -> list[StarburstFuture[Any]]:
        """Return the futures that are not done, including those of unsent tasks."""
        unsent = [] if self.sending is None else self.sending.unacknowledged()
        return [*self._collector.waiting(), *unsent]

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        """Cancel the tasks that no worker has claimed, or with `running` all; return their number. Store: as `cancel_stored`."""
        if self.deputy is not None:
            return self.deputy.cancel(futures, running=running)
        sending = self.sending
        n_cancelled = 0 if sending is None else sending.cancel(futures)
        for _ in range(2):
            left = [future for future in futures if not future.done()]
            keys = self._collector.keys_of(left)
            n_cancelled += self.cancel_stored(keys, running=running)
            if sum(map(len, keys.values())) >= len(left) or sending is None:
                break
            # The others are being sent now: once the store has acknowledged them, they can be cancelled in the store.
            if not sending.wait_flown(left):
                break
        return n_cancelled

    def cancel_soon(self, futures: Callable[[], list[StarburstFuture[Any]]]) -> None:
        """As `cancel`, in a separate thread: takes no lock, so that the garbage collector may call it at any point.

        Args:
            futures: Returns the futures; called in that thread.
        """
        if not self._threads.stop.is_set() and self.deputy is None:
            self._cancel_apart(futures)

    def ask_to_cancel(self, future: StarburstFuture[Any], *, running: bool = False) -> None:
        """As `cancel`, without waiting: a task that was sent is cancelled by a separate thread."""
        if self.deputy is None and self.sending is not None:
            self.sending.cancel([future])
        if not future.done():
            self._cancel_apart(lambda: [future], running=running)

    def _cancel_apart(self, futures: Callable[[], list[StarburstFuture[Any]]], *, running: bool = False) -> None:
        # While one thread makes the requests for some, further ones gather.
        self._to_cancel.append((futures, running))
        if not self._is_cancelling:
            self._is_cancelling = True
            # Not joined: if the session has ended meanwhile, its result does not matter.
            self._threads.start_apart("cancel", self._cancel_gathered)

    def _cancel_gathered(self) -> None:
        try:
            while self._to_cancel:
                gathered = [self._to_cancel.popleft() for _ in range(len(self._to_cancel))]
                for running in (False, True):
                    if futures := [f for get, is_running in gathered if is_running is running for f in get()]:
                        self.cancel(futures, running=running)
        finally:
            self._is_cancelling = False
        if self._to_cancel:  # asked since the last look
            self._cancel_apart(list)

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

    def cancel_stored(self, places: Mapping[str, Collection[int]], *, running: bool = False) -> int:
        """Cancel those of these tasks, by status object, that no worker has claimed, or with `running` all; return their number.

        Store: 1 GET, 1 swap for each object; with `running` 1 GET more for each, 1 swap of the manifest if workers hold some of the
        tasks, and 1 GET for each of these workers, up to 32.
        """
        session, n_cancelled = self._session, 0
        claims: frozenset[str] = frozenset()
        left = dict(places)
        if running:
            claims = claims.union(*self._parallel(lambda place: held_of(session, *place), left.items()))
            name_claims(session, claims)
        while left:
            # Crash here: named claims make their workers read objects in which nothing has changed.
            ends = list(self._parallel(partial(self._cancel_in, claims=claims), left.items()))
            n_cancelled += sum(n for n, _ in ends)
            left = {
                key: left[key] for key, (_, holders) in zip(left, ends, strict=True) if running and holders - claims
            }
            # A worker has claimed some of them since.
            claims = claims.union(*(holders for _, holders in ends)) if left else claims
            if left:
                name_claims(session, claims)
        nudge_workers(session, claims)
        return n_cancelled

    def _cancel_in(self, place: tuple[str, Collection[int]], claims: frozenset[str]) -> tuple[int, frozenset[str]]:
        key, positions = place
        updated, n_cancelled, holders = cancel_in(self._session, key, positions, claims)
        if updated is not None:
            self._collector.take_in(key, updated.status)
        return n_cancelled, holders


def nudge_workers(session: SessionStore, claims: Iterable[str]) -> None:
    """Nudge the workers that hold these claims, as far as they run on this machine. Store: 1 GET for each worker, up to 32."""
    for worker_id in sorted({worker_of(claim) for claim in claims})[:_MOST_NUDGED]:
        found = read_beat(session, session.keys.worker(worker_id))
        if found is not None and found[0].process:
            processes.nudge(found[0].process)
