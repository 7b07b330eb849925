"""PatientStore: an object store that retries until each answer is clear.

    PatientStore ──► Patience        when to try again, and for how long              (`patience.py`)
          │
          ├──► Write                 what became of a write without a clear answer    (`writes.py`)
          └──► Tries ──► a store     one try per call, counted                        (`tries.py`)

Final refusals (`AccessDenied`, `ObjectNotFound`, `PreconditionFailed`) are not retried.
Source: docs/design/0001-protocol.md, "Conditional writes".
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from starburst_executor.clock import Clock
from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.store.patience import Patience
from starburst_executor.store.requests import Requests
from starburst_executor.store.tries import Tries
from starburst_executor.store.writes import Write

__all__ = ["PatientStore"]


class PatientStore:
    """An object store that waits for clear answers. Thread-safe.

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
        self._tries = Tries(store, self.requests)
        self._patience = Patience(lambda: store.url, clock, self.requests, patience_s, stop)

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
        return self._patience.cleared(lambda: self._tries.get(key, start, length))

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        return self._patience.cleared(lambda: self._tries.get_if_changed(key, etag, start, length))

    def create(self, key: str, body: Body) -> str:
        return self._patience.cleared(Write(self._tries, key, body, None).attempt)

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._patience.cleared(Write(self._tries, key, body, expected).attempt)

    def put(self, key: str, body: Body) -> str:
        return self._patience.cleared(lambda: self._tries.put(key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return self._patience.cleared(lambda: self._tries.list_folders(prefix))

    def list(self, prefix: str) -> list[Listed]:
        return self._patience.cleared(lambda: self._tries.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        named = [*keys]
        self._patience.cleared(lambda: self._tries.delete(named))

    def close(self) -> None:
        self._store.close()
