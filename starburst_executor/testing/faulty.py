"""FaultyStore: loses answers, delays writes and refuses requests according to a plan. For tests of code that uses a store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias, TypeVar

from starburst_executor.clock import Clock
from starburst_executor.errors import AccessDenied, ObjectNotFound, PreconditionFailed, StoreUnavailable
from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.store.limiter import Limiter

__all__ = ["Asked", "Fault", "FaultyStore", "Plan", "by_chance", "in_turn"]

_T = TypeVar("_T")


class Fault(Enum):
    """A fault of one request, as the caller sees it."""

    RESET = "connection reset before the request arrived"
    THROTTLED = "503 SlowDown"
    CONFLICT = "409 ConditionalRequestConflict"
    ANSWER_LOST = "read timeout; the request was carried out"
    ERROR_AFTER = "500 InternalError; the request was carried out"
    LATE = "read timeout; the request is carried out when `FaultyStore.land` is called"
    DENIED = "403 AccessDenied"


class Asked(NamedTuple):
    """One request: its kind is the store's method. `number` counts this store's requests from 0."""

    number: int
    kind: str
    key: str


Plan: TypeAlias = Callable[[Asked], "Fault | None"]
_AFTER = frozenset({Fault.ANSWER_LOST, Fault.ERROR_AFTER})
_WRITES = frozenset({"create", "swap", "put", "delete"})


def in_turn(faults: Iterable[Fault | None], *, kinds: Iterable[str] = _WRITES) -> Plan:
    """Return a plan that gives these faults, in this order, to requests of these kinds; later requests succeed."""
    rest, kinds = iter(faults), frozenset(kinds)
    return lambda asked: next(rest, None) if asked.kind in kinds else None


def by_chance(clock: Clock, rate: float, faults: Sequence[Fault], *, kinds: Iterable[str] | None = None) -> Plan:
    """Return a plan by which a share of the requests fails, with a random one of `faults`; as reproducible as the clock."""
    of = None if kinds is None else frozenset(kinds)

    def plan(asked: Asked) -> Fault | None:
        if (of is not None and asked.kind not in of) or clock.random() >= rate:
            return None
        return faults[int(clock.random() * len(faults))]

    return plan


class FaultyStore:
    """A store that adds faults to another store. As thread-safe as that store and the plan.

    Args:
        store: Receives the requests that are carried out.
        plan: Returns the fault of each request, or None.
    """

    def __init__(self, store: ObjectStore, plan: Plan) -> None:
        self.plan = plan
        self._store = store
        self._lock = threading.Lock()  # guards: _n_asked, _late
        self._n_asked = 0
        self._late: list[Callable[[], object]] = []

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def limiter(self) -> Limiter | None:
        return self._store.limiter

    @property
    def n_asked(self) -> int:
        """The number of requests made."""
        return self._n_asked  # unlocked: one number

    def land(self) -> int:
        """Carry out the late writes, oldest first, if their conditions still hold; return how many succeeded."""
        with self._lock:
            late, self._late = self._late, []
        return sum(map(_is_taken, late))

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        return self._asked("get", key, lambda: self._store.get(key, start=start, length=length))

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        return self._asked("get", key, lambda: self._store.get_if_changed(key, etag, start=start, length=length))

    def create(self, key: str, body: Body) -> str:
        return self._asked("create", key, lambda: self._store.create(key, body))

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._asked("swap", key, lambda: self._store.swap(key, body, expected))

    def put(self, key: str, body: Body) -> str:
        return self._asked("put", key, lambda: self._store.put(key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return self._asked("list_folders", prefix, lambda: self._store.list_folders(prefix))

    def list(self, prefix: str) -> list[Listed]:
        return self._asked("list", prefix, lambda: self._store.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        named = [*keys]
        self._asked("delete", named[0] if named else "", lambda: self._store.delete(named))

    def close(self) -> None:
        self._store.close()

    def _asked(self, kind: str, key: str, carry_out: Callable[[], _T]) -> _T:
        with self._lock:
            asked = Asked(self._n_asked, kind, key)
            self._n_asked += 1
        fault = self.plan(asked)
        if fault is None:
            return carry_out()
        if fault is Fault.DENIED:
            raise AccessDenied(f"{fault.value}: {kind} {key}")
        if fault in _AFTER:
            _is_taken(carry_out)
        elif fault is Fault.LATE and kind in _WRITES:
            with self._lock:
                self._late.append(carry_out)
        raise StoreUnavailable(f"{fault.value}: {kind} {key}", is_busy=fault is Fault.THROTTLED)


def _is_taken(carry_out: Callable[[], object]) -> bool:
    try:
        carry_out()
    except (ObjectNotFound, PreconditionFailed):
        return False
    return True
