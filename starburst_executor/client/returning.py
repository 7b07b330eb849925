"""How the futures of a client that has left its session get their outcomes all the same: it comes back for them.

    future, asked for ──► Returning ──► attach ──► watch its status object ──► outcome ──► future
                              └── nothing was asked for lately, and nothing waits ──► leave again

It comes back in the background, at most once at a time, and is a client as any other: it collects, beats, repairs, and
starts workers that are missing. What is asked for brings along the other futures of the same status object that the
program holds, since it is read in any case; nothing else is read.

Guarantee: a future that is asked for, in whatever way, ends: with its outcome, or with the error that keeps this process
from attaching.
"""

from __future__ import annotations

import bisect
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from starburst_executor.client.collector import Place
from starburst_executor.client.future import THREAD_PREFIX, StarburstFuture, for_each
from starburst_executor.clock import Clock
from starburst_executor.errors import ExecutorBroken, StarburstError
from starburst_executor.protocol.keys import GroupRef

__all__ = ["ENDING_WORDS", "Returned", "Returning"]

# After this long without a question the client leaves again: futures that are asked for one after the other share one
# visit, and what is only polled with `done()` is polled more often than that.
_LINGER_S = 10.0
# How often a client that has returned looks whether it may leave; nothing is asked of the store for that.
_LOOK_S = 0.5
ENDING_WORDS = "this client has left its session, and no thread can be started to attach again (the interpreter ends?)"


class Returned(Protocol):
    """A client that has attached again."""

    def watch(self, place: Place) -> None:
        """Have the futures of one status object completed."""

    def find(self, futures: list[StarburstFuture[Any]]) -> list[StarburstFuture[Any]]:
        """Have these futures completed, wherever their tasks are; those of no task that is stored."""

    def cancel(self, futures: list[StarburstFuture[Any]]) -> int:
        """Cancel those of these tasks that no worker has claimed; how many."""

    def has_failed(self) -> bool:
        """Whether it cannot go on; it has said so on the futures that it watched."""

    def leave(self) -> None:
        """Leave again; what is not done stays so. A second call is harmless."""


class _Left(NamedTuple):
    """A status object that was watched, and the futures that its tasks have in the program."""

    key: str
    ref: GroupRef
    futures: list[tuple[int, weakref.ref[StarburstFuture[Any]]]]

    def with_living(self) -> Place:
        """The place as it is worth watching."""
        living: dict[int, list[StarburstFuture[Any]]] = {}
        for index, ref in self.futures:
            if (future := ref()) is not None:
                living.setdefault(index, []).append(future)
        return Place(self.key, self.ref, living)


class Returning:
    """The futures of one client that has left, held weakly while nothing is asked for. Thread-safe.

    Args:
        attach: Attaches to the session again; what it raises goes to the futures that were asked for.
        named: What any exception is as an error of ours.
        places: The status objects that were watched, with the futures that are not done.
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
        self._asked: list[StarburstFuture[Any]] = []  # since the thread looked
        self._served: dict[int, StarburstFuture[Any]] = {}  # by id: those that this visit knows of
        self._runs = False
        self._client: Returned | None = None
        self._asked_at = clock.monotonic()
        self._news = threading.Event()
        self._is_there = threading.Event()  # the client of this visit is there, or there will be none

    def ask(self, future: StarburstFuture[Any]) -> None:
        """See that this future gets its outcome. Completes nothing in this thread, which may hold the future's condition.

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

    def cancel(self, futures: list[StarburstFuture[Any]]) -> int:
        """Attach, and cancel those of these tasks that no worker has claimed; how many."""
        for future in futures:
            self.ask(future)
        self._is_there.wait()
        with self._lock:
            client = self._client
        if client is None:
            return 0  # it could not attach, and the futures say why
        self._watch_asked(client)
        return client.cancel(futures)

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
        """Have the client watch what was asked for, and what is stored beside it."""
        with self._lock:
            asked, self._asked = self._asked, []
            places: dict[str, Place] = {}
            elsewhere = [future for future in asked if not self._place(future, places)]
            for place in places.values():
                self._served.update((id(future), future) for futures in place.futures.values() for future in futures)
        for place in places.values():
            client.watch(place)
        try:
            # Made anew for tasks that had ended when this client left, perhaps; or never sent.
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
        """Put a future among the places to watch, together with what is stored beside it; whether its place is known."""
        i = bisect.bisect(self._firsts, (future.ordinal, future.index)) - 1
        left = self._places[i] if i >= 0 else None
        if left is None or left.ref.ordinal != future.ordinal or future.index >= left.ref.first + left.ref.n_tasks:
            return False
        place = places.get(left.key)
        if place is None:
            place = places[left.key] = left.with_living()
        mine = place.futures.setdefault(future.index - left.ref.first, [])
        if not any(one is future for one in mine):
            mine.append(future)
        return True

    def _is_over(self, client: Returned) -> bool:
        """Whether the visit is: from then on, whoever asks starts another one."""
        with self._lock:
            # What is done is its users' affair: a visit may last as long as futures are asked for, one after the other.
            served = [future for future in self._served.values() if not future.has_ended]
            self._served = {id(future): future for future in served}
        if self._clock.monotonic() - self._asked_at < _LINGER_S and not client.has_failed():
            return False
        if not client.has_failed() and any(future.is_asked_for() for future in served):
            # Somebody waits: the next look at all of them is due when it is due for who asks now.
            self._asked_at = self._clock.monotonic()
            return False
        with self._lock:
            if self._asked or (self._clock.monotonic() - self._asked_at < _LINGER_S and not client.has_failed()):
                return False
            self._forget()
        return True

    def _give_up(self, error: BaseException) -> None:
        """Attaching failed, or the visit did: say why on each future that was asked for."""
        with self._lock:
            served = list(self._served.values())
            self._forget()
        self._is_there.set()
        named = self._named(error)
        for_each(served, lambda future: future.complete(None, named))

    def _forget(self) -> None:
        """The visit is over. Called under the lock."""
        self._served.clear()
        self._asked.clear()
        self._client = None
        self._runs = False


def _left(place: Place) -> _Left:
    return _Left(
        place.key,
        place.ref,
        [(index, weakref.ref(future)) for index, futures in place.futures.items() for future in futures],
    )
