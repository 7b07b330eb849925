"""PatientStore: an object store that retries until each answer is clear, and makes no more requests than the store carries out.

    PatientStore ──► Patience        when to try again, and for how long              (`patience.py`)
          │
          ├──► Write                 what became of a write without a clear answer    (`writes.py`)
          └──► Tries ──► a store     one try per call, counted                        (`tries.py`)
                 └──► Queue          until the process's limiter lets it start        (`queue.py`, `limiter.py`)

Final refusals (`AccessDenied`, `ObjectNotFound`, `PreconditionFailed`) are not retried.
Source: docs/design/0001-protocol.md, "Conditional writes"; docs/design/0010-limiter.md
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from copy import copy
from typing import TypeVar

from starburst_executor.clock import Clock
from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.store.limiter import Limiter, Urgency
from starburst_executor.store.patience import Patience
from starburst_executor.store.queue import Queue
from starburst_executor.store.requests import Requests
from starburst_executor.store.tries import Tries
from starburst_executor.store.writes import Write

__all__ = ["PatientStore", "urgent"]

_T = TypeVar("_T")


def urgent(store: ObjectStore, urgency: Urgency) -> ObjectStore:
    """Return a store for requests of that urgency; the same store if it has no queue for them."""
    return store.at(urgency) if isinstance(store, PatientStore) else store


class PatientStore:
    """An object store that waits for clear answers. Thread-safe.

    It has more than twenty methods because it is a whole `ObjectStore`, and what its users ask of its patience and its limits.

    Args:
        store: Makes one try per call.
        clock: Measures the patience and performs the pauses: 50 ms at first, up to 5 s, with jitter.
        patience_s: How long to retry before `StoreUnavailable`; may be `math.inf`.
        stop: Once set, no more pauses are made: an unclear answer is raised at once.

    Attributes:
        requests: Counts every try.
    """

    def __init__(
        self, store: ObjectStore, clock: Clock, *, patience_s: float, stop: threading.Event | None = None
    ) -> None:
        self.requests = Requests()
        self._store = store
        self._clock = clock
        self._limiter = store.limiter
        self._patience = Patience(lambda: store.url, clock, self.requests, self._limiter, patience_s, stop)
        self._queue = self._queue_for(Urgency.COMMIT)

    def __repr__(self) -> str:
        return f"PatientStore({self._store!r})"

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def inner(self) -> ObjectStore:
        """The wrapped store, which makes one try per call."""
        return self._store

    @property
    def limiter(self) -> Limiter | None:
        return self._limiter

    @property
    def wait_s(self) -> float:
        """How long requests recently waited because the store limits them; 0 if it does not."""
        return 0.0 if self._limiter is None else self._limiter.wait_s

    @property
    def trouble(self) -> str:
        """The last error of a request that has waited for ten seconds and waits still; empty if none does."""
        return self._patience.trouble

    def at(self, urgency: Urgency) -> PatientStore:
        """Return this store for requests of that urgency; requests of this one, as it was made, are `COMMIT`.

        Both share everything else: counts, patience, limit, connections.
        """
        if self._limiter is None:
            return self
        view = copy(self)
        view._queue = self._queue_for(urgency)  # noqa: SLF001 - a copy of this object
        return view

    @property
    def patience_s(self) -> float:
        """How long to retry. It may be changed, for requests that begin afterwards."""
        return self._patience.patience_s

    @patience_s.setter
    def patience_s(self, patience_s: float) -> None:
        self._patience.patience_s = patience_s

    def limit(self, left_s: float) -> None:
        """End all retries after this time, for the owner of a store who must leave. A later call sets another time.

        Requests that pause now look at the new time at once, unless they wait for `stop` too. After that time each request
        is one try.
        """
        self._patience.limit(left_s)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        return self._cleared(lambda tries: tries.get(key, start, length))

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        return self._cleared(lambda tries: tries.get_if_changed(key, etag, start, length))

    def create(self, key: str, body: Body) -> str:
        return self._written(key, body, None)

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._written(key, body, expected)

    def put(self, key: str, body: Body) -> str:
        return self._cleared(lambda tries: tries.put(key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return self._cleared(lambda tries: tries.list_folders(prefix))

    def list(self, prefix: str) -> list[Listed]:
        return self._cleared(lambda tries: tries.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        named = [*keys]
        self._cleared(lambda tries: tries.delete(named))

    def close(self) -> None:
        self._store.close()

    def _queue_for(self, urgency: Urgency) -> Queue | None:
        return None if self._limiter is None else Queue(self._limiter, urgency, self._clock, self._patience)

    def _cleared(self, ask: Callable[[Tries], _T]) -> _T:
        tries = Tries(self._store, self.requests, self._queue, self._clock.monotonic)
        return self._patience.cleared(tries, lambda: ask(tries), is_vital=self._is_vital)

    def _written(self, key: str, body: Body, expected: str | None) -> str:
        tries = Tries(self._store, self.requests, self._queue, self._clock.monotonic)
        return self._patience.cleared(tries, Write(tries, key, body, expected).attempt, is_vital=self._is_vital)

    @property
    def _is_vital(self) -> bool:
        return self._queue is not None and self._queue.urgency is Urgency.VITAL
