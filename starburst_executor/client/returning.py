"""Attaches again for the futures of a client that has left its session, so that they still get their outcomes.

    future in use ──► Returning ──► attach ──► watch its status object ──► outcome ──► future
                          └── no request for 10 s, and no future has a waiter ──► leave again

A visit runs in the background, at most one at a time, with a full client: it collects, beats, repairs, and starts missing
workers. It also completes the other futures of a requested status object that the program holds, since it reads that
object anyway; it reads no others.

Guarantee: a future that is used in any way ends with its outcome, or with the error that keeps this process from
attaching.
"""

from __future__ import annotations

import bisect
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from starburst_executor.client.future import THREAD_PREFIX, StarburstFuture, for_each
from starburst_executor.client.watched import Place
from starburst_executor.clock import Clock
from starburst_executor.errors import ExecutorBroken, StarburstError
from starburst_executor.protocol.keys import StatusRef

__all__ = ["ENDING_WORDS", "Returned", "Returning"]

# The client leaves again after this time without a request: futures that are used one after the other share one visit, and
# programs that poll `done()` do so more often.
_LINGER_S = 10.0
# How often a client that has returned checks whether it may leave; the check makes no store request.
_LOOK_S = 0.5
ENDING_WORDS = (
    "this client has left its session, and no thread can be started to attach again (is the interpreter exiting?)"
)


class Returned(Protocol):
    """A client that has attached again."""

    def watch(self, place: Place) -> None:
        """Watch one status object, to complete its futures."""

    def find(self, futures: list[StarburstFuture[Any]]) -> list[StarburstFuture[Any]]:
        """Find the tasks of these futures in the store, and watch them; return the futures without a stored task."""

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        """Cancel the tasks that no worker has claimed, or with `running` all; return their number."""

    def has_failed(self) -> bool:
        """Whether it cannot continue; the futures that it watched have the error."""

    def leave(self) -> None:
        """Leave again; unfinished futures stay unfinished. A second call is harmless."""


class _Left(NamedTuple):
    """A status object that was watched, and the futures of its tasks that the program may still hold."""

    key: str
    ref: StatusRef
    futures: list[tuple[int, weakref.ref[StarburstFuture[Any]]]]

    def with_living(self) -> Place:
        """Return the place with the futures that are still alive."""
        living: dict[int, list[StarburstFuture[Any]]] = {}
        for position, ref in self.futures:
            if (future := ref()) is not None:
                living.setdefault(position, []).append(future)
        return Place(self.key, self.ref, living)


class Returning:
    """The futures of one client that has left, held weakly while no visit runs. Thread-safe.

    Args:
        attach: Attaches to the session again; the requested futures get any exception that it raises.
        named: Maps any exception to an error of this library.
        places: The status objects that the client watched, with the futures that are not done.
    """

    def __init__(
        self,
        attach: Callable[[], Returned],
        named: Callable[[BaseException], StarburstError],
        places: Iterable[Place],
        session_id: str,
        clock: Clock,
    ) -> None:
        self._attach = attach
        self._named = named
        self._places = sorted(map(_left, places), key=lambda place: place.ref[:2])
        self._firsts = [place.ref[:2] for place in self._places]
        self._session_id = session_id
        self._clock = clock
        self._lock = threading.Lock()  # guards: _asked, _served, _runs, _client
        self._asked: list[StarburstFuture[Any]] = []  # since the thread's last check
        self._served: dict[int, StarburstFuture[Any]] = {}  # by id: the futures of this visit
        self._runs = False
        self._client: Returned | None = None
        self._asked_at = clock.monotonic()
        self._news = threading.Event()
        self._is_there = threading.Event()  # the client of this visit has attached, or has failed to

    def ask(self, future: StarburstFuture[Any]) -> None:
        """Ensure that this future gets its outcome. Completes no future in this thread, which may hold the future's condition.

        Raises: RuntimeError: no thread can be started.
        """
        self._asked_at = self._clock.monotonic()
        with self._lock:
            if id(future) in self._served:
                return
            self._served[id(future)] = future
            self._asked.append(future)
            starts, self._runs = not self._runs, True
            if starts:
                self._is_there.clear()
        if starts:
            self._start()
        self._news.set()

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        """Attach, and cancel the tasks that no worker has claimed, or with `running` all; return their number."""
        for future in futures:
            self.ask(future)
        self._is_there.wait()
        with self._lock:
            client = self._client
        if client is None:
            return 0  # it could not attach; the futures have the error
        self._watch_asked(client)
        return client.cancel(futures, running=running)

    # --- the visit ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        thread = threading.Thread(target=self._visit, name=f"{THREAD_PREFIX}return", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                self._forget()
            raise RuntimeError(
                f"{ENDING_WORDS}; reattach in another process: DetachedExecutor.reattach({self._session_id!r})"
            ) from error

    def _visit(self) -> None:
        client: Returned | None = None
        try:
            client = self._attach()
            with self._lock:
                self._client = client
            self._is_there.set()
            while not self._is_over(client):
                self._clock.wait(self._news, _LOOK_S)
                self._news.clear()
                self._watch_asked(client)
        except BaseException as error:
            self._give_up(error)
        finally:
            if client is not None:
                client.leave()

    def _watch_asked(self, client: Returned) -> None:
        """Have the client watch the status objects of the requested futures, with all their futures."""
        with self._lock:
            asked, self._asked = self._asked, []
            places: dict[str, Place] = {}
            elsewhere = [future for future in asked if not self._place(future, places)]
            for place in places.values():
                self._served.update((id(future), future) for futures in place.futures.values() for future in futures)
        for place in places.values():
            client.watch(place)
        try:
            # Created again for tasks that had ended when this client left, or their tasks were never sent.
            lost = client.find(elsewhere) if elsewhere else []
        except BaseException:
            with self._lock:
                self._asked[:0] = elsewhere
            raise
        for_each(
            lost,
            lambda future: future.complete(
                None, ExecutorBroken(f"the task was not acknowledged before its client left: task={future.task_id}")
            ),
        )

    def _place(self, future: StarburstFuture[Any], places: dict[str, Place]) -> bool:
        """Add a future's status object, with its other live futures, to `places`; return whether its place is known."""
        i = bisect.bisect(self._firsts, (future.ordinal, future.index)) - 1
        left = self._places[i] if i >= 0 else None
        if left is None or left.ref.ordinal != future.ordinal or future.index >= left.ref.first + left.ref.n_tasks:
            return False
        place = places.get(left.key)
        if place is None:
            place = places[left.key] = left.with_living()
        waiting = place.futures.setdefault(future.index - left.ref.first, [])
        if not any(known is future for known in waiting):
            waiting.append(future)
        return True

    def _is_over(self, client: Returned) -> bool:
        """Whether the visit is over. If so, the next request starts another one."""
        with self._lock:
            # Release futures that are done: a visit may last as long as the program uses one future after the other.
            served = [future for future in self._served.values() if not future.has_ended]
            self._served = {id(future): future for future in served}
        if self._clock.monotonic() - self._asked_at < _LINGER_S and not client.has_failed():
            return False
        if not client.has_failed() and any(future.is_asked_for() for future in served):
            # A thread waits: check all futures again only after the time for which a new request is remembered.
            self._asked_at = self._clock.monotonic()
            return False
        with self._lock:
            if self._asked or (self._clock.monotonic() - self._asked_at < _LINGER_S and not client.has_failed()):
                return False
            self._forget()
        return True

    def _give_up(self, error: BaseException) -> None:
        """Complete each future of the visit with the error that ended it."""
        with self._lock:
            served = list(self._served.values())
            self._forget()
        self._is_there.set()
        named = self._named(error)
        for_each(served, lambda future: future.complete(None, named))

    def _forget(self) -> None:
        """End the visit. Called under the lock."""
        self._served.clear()
        self._asked.clear()
        self._client = None
        self._runs = False


def _left(place: Place) -> _Left:
    return _Left(
        place.key,
        place.ref,
        [(position, weakref.ref(future)) for position, futures in place.futures.items() for future in futures],
    )
