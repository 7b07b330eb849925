"""PatientStore: retries until the answer is clear. Only this module decides what became of an unclear write.

An unclear try (no answer, a reset, 409, 5xx) may have landed, may still land, or may never land. So:

1. The same bytes are sent again under the same condition until an answer is clear. They land at most once: the first
   to land changes the ETag, and all others find it changed.
2. A refusal of the first, answered try is a lost race: `PreconditionFailed(unclear=False)`.
3. A refusal after an unclear try may be caused by this write itself. The object is read: if it equals this body byte for
   byte, the write landed; otherwise `PreconditionFailed(unclear=True)`, since the write may have landed and been
   replaced, and the caller looks for its own mark. Each body has a fresh nonce, so no two writers have equal bodies.
4. If a second try is unclear too, the object is read before each further one. Once its ETag differs from the expected
   one, (3) decides. Guarantee: until it differs, nothing is concluded; the first try may land at any moment.
5. After `patience_s` without a clear answer: `StoreUnavailable`, and the caller knows no more than before. The last try
   begins when `patience_s` is over: one that hung until then says nothing of a store that has come back meanwhile.

Final refusals (`AccessDenied`, `ObjectNotFound`) are not retried.
Source: docs/design/0001-protocol.md, "Conditional writes".
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sized
from contextlib import suppress
from typing import Literal, TypeVar

from starburst_executor.clock import Backoff, Clock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.store.requests import Requests

__all__ = ["PatientStore"]

_FIRST_PAUSE_S = 0.05
_MOST_PAUSE_S = 5.0
_COMPARED_AT_ONCE = 16 << 20
_KEYS_AT_ONCE = 1_000

_T = TypeVar("_T")
_Lines = TypeVar("_Lines", bound=Sized)


class PatientStore:
    """An object store that waits for clear answers. Thread-safe.

    Args:
        store: Makes one try per call.
        clock: Measures the patience and performs the pauses: 50 ms at first, up to 5 s, with jitter.
        patience_s: How long to retry before `StoreUnavailable`; may be `math.inf`.
        stop: Once set, no more pauses are made: what is unclear then stays so, and is raised.
    Attributes:
        requests: Counts every try.
        patience_s: As given; may be changed, for requests that begin afterwards.
    """

    def __init__(
        self, store: ObjectStore, clock: Clock, *, patience_s: float, stop: threading.Event | None = None
    ) -> None:
        self.requests = Requests()
        self._store = store
        self._clock = clock
        self.patience_s = patience_s
        self._stop = stop
        self._until = math.inf  # by the clock: no answer is waited for any longer
        self._limited = threading.Event()  # set, and replaced, when that has changed

    def __repr__(self) -> str:
        return f"PatientStore({self._store!r})"

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def inner(self) -> ObjectStore:
        """The wrapped store, which makes one try per call."""
        return self._store

    def limit(self, left_s: float) -> None:
        """From now on wait for a clear answer this long at the most, all together: for the owner of a store who must leave.

        Those who wait already look again at once how long they may, unless they wait for `stop` too. After that time each
        request is one try. A later call sets another time.
        """
        self._until = self._clock.monotonic() + left_s
        limited, self._limited = self._limited, threading.Event()
        limited.set()

    def get(self, key: str, *, unless: str | None = None, start: int = 0, length: int | None = None) -> Stored | None:
        return self._cleared(lambda: self._get(key, unless, start, length))

    def create(self, key: str, body: Body) -> str:
        return self._written(_Write("create", key, body, None))

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._written(_Write("swap", key, body, expected))

    def put(self, key: str, body: Body) -> str:
        def put() -> str:
            self.requests.count("put", bytes_out=len(body))
            return self._store.put(key, body)

        return self._cleared(put)

    def list_folders(self, prefix: str) -> list[str]:
        return self._cleared(lambda: self._paged(self._store.list_folders, prefix))

    def list(self, prefix: str) -> list[Listed]:
        return self._cleared(lambda: self._paged(self._store.list, prefix))

    def delete(self, keys: Iterable[str]) -> None:
        named = [*keys]

        def delete() -> None:
            self.requests.count("delete", -(-len(named) // _KEYS_AT_ONCE))
            self._store.delete(named)

        self._cleared(delete)

    def close(self) -> None:
        self._store.close()

    def _get(self, key: str, unless: str | None, start: int = 0, length: int | None = None) -> Stored | None:
        try:
            stored = self._store.get(key, unless=unless, start=start, length=length)
        except BaseException:
            self.requests.count("get")
            raise
        if stored is None:
            self.requests.count("not_modified")
        else:
            self.requests.count("get", bytes_in=len(stored.body))
        return stored

    def _paged(self, ask: Callable[[str], _Lines], prefix: str) -> _Lines:
        n_pages = 1
        try:
            found = ask(prefix)
            n_pages = max(1, -(-len(found) // _KEYS_AT_ONCE))
        finally:
            self.requests.count("list", n_pages)
        return found

    def _written(self, write: _Write) -> str:
        return self._cleared(lambda: self._write(write))

    def _write(self, write: _Write) -> str:
        """Try a conditional write once more: return its ETag once it has landed, raise `StoreUnavailable` while unclear."""
        if write.n_unclear > 1:
            with suppress(StoreUnavailable):
                if (etag := self._found(write)) is not None:
                    return etag
        self.requests.count(write.kind, bytes_out=len(write.body))
        try:
            if write.expected is None:
                return self._store.create(write.key, write.body)
            return self._store.swap(write.key, write.body, write.expected)
        except StoreUnavailable:
            write.n_unclear += 1
            raise
        except PreconditionFailed as refusal:
            if write.n_unclear == 0:
                self.requests.count("lost_races")
                raise
            etag = self._found(write)
            if etag is None:
                raise self._moved_on(write) from refusal
            return etag

    def _found(self, write: _Write) -> str | None:
        """Read the object and return the ETag under which the write has landed; None if the read proves nothing.

        Raises: PreconditionFailed once the object is another: the expected ETag will not come back.
        """
        try:
            stored = self._get(write.key, write.expected, *_sample(write.body))
            if stored is None:
                return None
            if self._is_same(write, stored):
                return stored.etag
        except ObjectNotFound:
            if write.expected is None:
                return None
            raise
        raise self._moved_on(write)

    def _is_same(self, write: _Write, sample: Stored) -> bool:
        """Whether an object equals the body byte for byte; for a big object `sample` is its end."""
        size = len(write.body)
        if size <= _COMPARED_AT_ONCE:
            return sample.body == write.body
        if len(sample.body) != 1:
            return False
        view = memoryview(write.body)
        for start in range(0, size, _COMPARED_AT_ONCE):
            stored = self._get(write.key, None, start, _COMPARED_AT_ONCE)
            if stored is None or stored.etag != sample.etag or stored.body != view[start : start + _COMPARED_AT_ONCE]:
                return False
        return True

    def _moved_on(self, write: _Write) -> PreconditionFailed:
        self.requests.count("lost_races")
        return PreconditionFailed(
            f"another write was found after an unclear {write.kind}: {self.url}/{write.key}", unclear=True
        )

    def _cleared(self, ask: Callable[[], _T]) -> _T:
        started = self._clock.monotonic()
        try:
            return ask()
        except StoreUnavailable as error:
            return self._asked_again(ask, error, started)

    def _asked_again(self, ask: Callable[[], _T], first: StoreUnavailable, started: float) -> _T:
        from tenacity import (
            Retrying,
            retry_if_exception_type,
        )  # loads asyncio and more; imported only after a failed try

        backoff = Backoff(self._clock, _FIRST_PAUSE_S, _MOST_PAUSE_S)

        def until() -> float:
            return min(started + self.patience_s, self._until)

        def is_stopped() -> bool:
            return self._stop is not None and self._stop.is_set()

        def left_s() -> float:
            return 0.0 if is_stopped() else until() - self._clock.monotonic()

        began = [started]  # the last try

        def ask_again(errors: list[StoreUnavailable]) -> _T:
            if errors:
                raise errors.pop()  # the try that was already made
            began[0] = self._clock.monotonic()
            self.requests.count("retried")
            return ask()

        retrying = Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=lambda _: min(backoff.next_s(), max(0.0, left_s())),
            stop=lambda _: is_stopped() or began[0] >= until(),
            sleep=self._pause,
            reraise=True,
        )
        try:
            return retrying(ask_again, [first])
        except StoreUnavailable as last:
            waited_s = self._clock.monotonic() - started
            raise StoreUnavailable(
                f"no clear answer from {self.url} for {waited_s:.0f} s: last error: {last}"
            ) from last

    def _pause(self, pause_s: float) -> None:
        # One that is given no `stop` has its pauses cut short by `limit`.
        self._clock.wait(self._stop or self._limited, pause_s)


class _Write:
    """A conditional write and how many of its tries were unclear."""

    __slots__ = ("body", "expected", "key", "kind", "n_unclear")

    def __init__(self, kind: Literal["create", "swap"], key: str, body: Body, expected: str | None) -> None:
        self.kind: Literal["create", "swap"] = kind
        self.key = key
        self.body = body
        self.expected = expected
        self.n_unclear = 0


def _sample(body: Body) -> tuple[int, int | None]:
    """Choose which part of an object to compare with `body` first: all of it, or the end of a big one, which also gives its size."""
    return (0, None) if len(body) <= _COMPARED_AT_ONCE else (len(body) - 1, 2)
