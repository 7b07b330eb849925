"""Turns stored outcomes into done futures.

    watched groups ──few──► GET If-None-Match each ─┐
          │                                         ├─► changed? ─► entries ─► outcomes/ ─► unpickle ─► future
          └──────many─────► LIST their epochs ──────┘                (ranges, once)

Owned by one thread, which calls `poll` and pauses in between as `pause_s` says: shortly after something happened,
longer and longer while nothing does. `watch` may be called by any.

Guarantee: each future is completed from one entry of its run or a later one, after the outcome's seal was checked; a
payload is downloaded once.

Guarantee: an ETag is believed for a while only. An object that has been silent for long is read whatever its ETag, so
that one whose bytes are spoilt under the ETag that is known ends in an error and not in silence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.clock import Backoff
from starburst_executor.errors import (
    ObjectNotFound,
    PayloadError,
    RecordInvalid,
    SessionNotFound,
    VersionMismatch,
)
from starburst_executor.protocol import status
from starburst_executor.protocol.keys import GROUPS_PER_EPOCH, GroupRef
from starburst_executor.protocol.outcomes import load_outcome
from starburst_executor.protocol.records import SessionState
from starburst_executor.protocol.status import Entry, Located, State, Status
from starburst_executor.session.store import SessionStore, Versioned

__all__ = ["FEW_EMBEDDED", "FEW_REMOTE", "Collector", "Mapper", "Place"]

_log = logging.getLogger(__name__)
_A = TypeVar("_A")
_B = TypeVar("_B")

# Up to so many objects are asked for one by one: a LIST costs as much as twelve GETs (S3 prices, us-east-1).
FEW_REMOTE = 12
# In the embedded store one query lists them all, which is less work than two questions.
FEW_EMBEDDED = 1
# By how much a pause is longer than the one before: they grow to about a third of the time without news.
_GROWTH = 1.5
# Of the time that a task takes: how long a result may go unseen while many more are to come.
_PACE = 0.25
# How much of the estimate of that time each task is.
_WEIGHT = 0.05
# An object without news is read again after this many of the longest polls: 20 s on S3, for a twentieth more requests.
_SILENT_POLLS = 20
_WARN_BYTES = 256 * 2**20


class Mapper(Protocol):
    """Calls a function for several items, several at once where that helps; results in order."""

    def __call__(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]: ...


class Place(NamedTuple):
    """Where futures get their outcomes from: a status object, and those that wait for its tasks, by index in it."""

    key: str
    ref: GroupRef
    futures: dict[int, list[StarburstFuture[Any]]]


class _Watched:
    """One status object and the futures that wait for its tasks."""

    __slots__ = ("claims", "etag", "futures", "is_unread", "key", "read_at", "ref")

    def __init__(self, key: str, ref: GroupRef, etag: str, read_at: float) -> None:
        self.key = key
        self.ref = ref
        self.etag = etag  # empty: to be read at the next poll
        self.read_at = read_at  # when its bytes were known for the last time; monotonic
        self.is_unread = False
        self.claims: frozenset[str] = frozenset()  # that stood when it was read
        self.futures: dict[int, list[StarburstFuture[Any]]] = {}


class Collector:
    """Watches status objects for the outcomes of futures.

    Args:
        parallel: Makes several requests at once.
        few: Up to so many objects are asked for one by one instead of being listed.
        warn_bytes: A larger outcome is worth a warning.
    Attributes:
        keep: Called with each future that has its outcome, and how many bytes that has. What else holds a future that is
            done is its users' affair.
    """

    def __init__(
        self, session: SessionStore, parallel: Mapper, *, few: int = FEW_REMOTE, warn_bytes: int = _WARN_BYTES
    ) -> None:
        self.keep: Callable[[StarburstFuture[Any], int], None] = lambda _future, _n_bytes: None
        self._session = session
        self._parallel = parallel
        self._few = few
        self._warn_bytes = warn_bytes
        self._lock = threading.Lock()  # guards: _watched, futures and claims in it, n_waiting
        self._watched: dict[str, _Watched] = {}
        self.done = threading.Condition(self._lock)  # n_waiting became less
        self.n_waiting = 0
        timings = session.manifest.timings
        self._silent_s = _SILENT_POLLS * timings.poll_max_s
        self._backoff = Backoff(session.clock, timings.poll_min_s, timings.poll_max_s, growth=_GROWTH)
        self._mean_s = 0.0  # about how long the tasks took that ended last
        self.news = threading.Event()

    def watch(
        self,
        key: str,
        ref: GroupRef,
        etag: str,
        futures: Iterable[tuple[int, StarburstFuture[Any]]],
        *,
        unread: bool = False,
    ) -> None:
        """Complete these futures, given with their index in the object, when their tasks end.

        Args:
            etag: The object's ETag if its tasks are known to be pending in it; empty to have it read.
            unread: Only the listing said that they are pending: read the object once, when there is nothing else to do.
        """
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                watched = self._watched[key] = _Watched(key, ref, etag, self._session.clock.monotonic())
                watched.is_unread = unread
            elif not etag:
                watched.etag = ""
            for index, future in futures:
                if not future.done():
                    watched.futures.setdefault(index, []).append(future)
                    self.n_waiting += 1
            if not watched.futures:
                del self._watched[key]
        self._backoff.reset()
        self.news.set()

    def waiting(self) -> list[StarburstFuture[Any]]:
        """The futures that are not done yet."""
        with self._lock:
            return [f for watched in self._watched.values() for futures in watched.futures.values() for f in futures]

    def hand_over(self) -> list[Place]:
        """Watch none any more; what was watched, with the futures that wait."""
        with self._lock:
            places = [Place(watched.key, watched.ref, watched.futures) for watched in self._watched.values()]
            self._watched.clear()
            self.n_waiting = 0
            self.done.notify_all()
        return places

    def claims(self) -> frozenset[str]:
        """Ids of the claims under which tasks of these futures are, as of the last polls."""
        with self._lock:
            return frozenset().union(*(watched.claims for watched in self._watched.values()))

    def wait_done(self) -> None:
        """Wait until no future waits."""
        with self.done:
            self.done.wait_for(lambda: self.n_waiting <= 0)

    def give_up_all(self, error: BaseException) -> None:
        """Complete every future that waits with this error, and watch none any more."""
        with self._lock:
            left = [f for watched in self._watched.values() for futures in watched.futures.values() for f in futures]
            self._watched.clear()
            self.n_waiting = 0
        try:
            for_each(left, lambda future: future.complete(None, error))
        finally:
            with self.done:
                self.done.notify_all()

    def keys_of(self, futures: Iterable[StarburstFuture[Any]]) -> dict[str, list[int]]:
        """Which indices of which status objects these futures wait for."""
        wanted = set(futures)
        with self._lock:
            found = {
                key: [i for i, waiting in watched.futures.items() if not wanted.isdisjoint(waiting)]
                for key, watched in self._watched.items()
            }
        return {key: indices for key, indices in found.items() if indices}

    def pause_s(self) -> float:
        """How long to pause before the next poll, in seconds.

        While more tasks wait than can run, results come one after the other for long: none is missed if it is seen after a
        quarter of the time that a task takes. The last ones, which somebody waits for, are seen as soon as any.
        """
        pause_s = self._backoff.next_s()
        manifest = self._session.manifest
        if self.n_waiting <= manifest.workers:
            return pause_s
        return max(pause_s, min(_PACE * self._mean_s, manifest.timings.poll_max_s))

    def poll(self) -> bool:
        """One round: read what changed, complete futures; whether anything changed.

        Raises: SessionNotFound if the objects are gone. Store: up to 12 GETs, mostly 304s, or 1 LIST an epoch; 1 GET for
        each changed object; 1 GET for each object of big outcomes.
        """
        with self._lock:
            watched = list(self._watched.values())
        if not watched:
            return False
        changed = watched if len(watched) <= self._few else self._changed(watched)
        n_news = 0
        for each, found in self._parallel(self._read, changed):
            if found is not None:
                each.etag = found.etag
                try:
                    n_news += self.take_in(each.key, found.status)
                except BaseException:
                    # Not all was taken in: to be read again, whatever its ETag.
                    each.etag = ""
                    raise
        if n_news:
            self._backoff.reset()
        self._doubt_one(watched, is_quiet=not n_news)
        return bool(n_news)

    def take_in(self, key: str, seen: Status) -> int:
        """Complete and mark futures as this status object says; how many tasks were news."""
        with self._lock:
            watched = self._watched.get(key)
            waiting = [] if watched is None else [(i, list(futures)) for i, futures in watched.futures.items()]
            if watched is not None:
                watched.claims = frozenset(
                    seen.entries[i].claim for i, _ in waiting if seen.entries[i].state == State.CLAIMED
                )
        ended: list[tuple[int, list[StarburstFuture[Any]]]] = []
        n_news = 0
        for index, futures in waiting:
            entry = seen.entries[index]
            mine = [future for future in futures if entry.run >= future.run]
            if entry.has_ended and mine:
                ended.append((index, mine))
            elif entry.state == State.CLAIMED:
                n_news += any(not future.running() for future in mine)
                for future in mine:
                    future.mark_running()
        if ended:
            self._measure([seen.entries[index] for index, _ in ended])
            self._complete(key, seen, ended)
            self._forget(key, ended)
        return n_news + len(ended)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _measure(self, ended: list[Entry]) -> None:
        for entry in ended:
            if entry.state == State.COMPLETED:
                self._mean_s += _WEIGHT * (entry.seconds - self._mean_s)

    def _doubt_one(self, watched: list[_Watched], *, is_quiet: bool) -> None:
        """Have one object read at the next poll whatever its ETag: one that has not been read for longest.

        Args:
            is_quiet: There was nothing else to do: an object that was never read is not kept waiting.
        """
        longest = min(watched, key=lambda each: each.read_at)
        if is_quiet:
            longest = next((each for each in watched if each.is_unread), longest)
        if (is_quiet and longest.is_unread) or self._session.clock.monotonic() - longest.read_at >= self._silent_s:
            longest.is_unread, longest.etag = False, ""

    def _changed(self, watched: list[_Watched]) -> list[_Watched]:
        """Which of many objects to read: those whose ETag moved, and those that the listing lacks.

        # Guarantee: that an object is gone is believed of an answer about this object only.
        """
        epochs = sorted({(each.ref.ordinal, each.ref.epoch) for each in watched})
        lines = self._session.lines(epochs)
        if len(lines) >= GROUPS_PER_EPOCH:
            self._session.close_epochs(self._session.groups_of(lines))
        etags = {line.key: line.etag for line in lines}
        changed = []
        for each in watched:
            etag = etags.get(each.key)
            if etag != each.etag:
                changed.append(each)
        return changed

    def _read(self, watched: _Watched) -> tuple[_Watched, Versioned | None]:
        now = self._session.clock.monotonic()
        try:
            found = self._session.read(watched.key, watched.etag or None)
            if found is not None:
                watched.read_at = now
            return watched, found
        except ObjectNotFound:
            self._missing(watched)
        except (RecordInvalid, VersionMismatch) as error:
            self._give_up(watched, error)
        return watched, None

    def _missing(self, watched: _Watched) -> None:
        """An object that was acknowledged is gone: the session was deleted, or something deletes in it."""
        if self._session.refresh().state == SessionState.DELETED:
            raise SessionNotFound(f"the session was deleted: session={self._session.session_id}")
        self._give_up(watched, PayloadError(f"a stored status object is missing: key={watched.key}"))

    def _give_up(self, watched: _Watched, error: Exception) -> None:
        with self._lock:
            futures = [future for waiting in watched.futures.values() for future in waiting]
            indices = [(index, list(waiting)) for index, waiting in watched.futures.items()]
        try:
            for_each(futures, lambda future: future.complete(None, error))
        finally:
            self._forget(watched.key, indices)

    def _complete(self, key: str, seen: Status, ended: list[tuple[int, list[StarburstFuture[Any]]]]) -> None:
        ref = self._session.keys.parse_group(key)
        assert ref is not None  # it is a key that we watch  # noqa: S101
        bodies = _Bodies(self._session, ref, self._parallel, [seen.entries[index] for index, _ in ended])
        for index, futures in ended:
            entry = seen.entries[index]
            if entry.state == State.CANCELLED:
                for future in futures:
                    future.mark_cancelled()
                    self.keep(future, 0)
                continue
            value, error, n_bytes = self._outcome(seen, index, entry, bodies)
            for future in futures:
                future.complete(value, error)
                self.keep(future, n_bytes)

    def _outcome(
        self, seen: Status, index: int, entry: Entry, bodies: _Bodies
    ) -> tuple[Any, BaseException | None, int]:
        """Value, exception, and how many bytes they had."""
        label = status.outcome_label(seen, index, entry)
        try:
            if entry.outcome is None:
                raise PayloadError(f"a task that has ended is stored without its outcome: task={label}")
            body = self._session.sealer.open_sealed("outcome", label, bodies.get(entry.outcome))
            if len(body) > self._warn_bytes:
                _log.warning("a large result: bytes=%d, task=%s; is all of it needed here?", len(body), label)
            return *load_outcome(body), len(body)
        except (PayloadError, RecordInvalid) as error:
            return None, error, 0

    def _forget(self, key: str, ended: list[tuple[int, list[StarburstFuture[Any]]]]) -> None:
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                return
            for index, futures in ended:
                left = [future for future in watched.futures.get(index, ()) if future not in futures]
                self.n_waiting -= len(watched.futures.get(index, ())) - len(left)
                if left:
                    watched.futures[index] = left
                else:
                    watched.futures.pop(index, None)
            if not watched.futures:
                del self._watched[key]
            self.done.notify_all()


class _Bodies:
    """The sealed outcomes of one pass over one status object; each outcome object is read once, in one range."""

    def __init__(self, session: SessionStore, ref: GroupRef, parallel: Mapper, entries: list[Entry]) -> None:
        self._session = session
        self._ref = ref
        ranges: dict[str, tuple[int, int]] = {}
        for entry in entries:
            place = entry.outcome
            if isinstance(place, Located):
                start, end = ranges.get(place.part, (place.start, 0))
                ranges[place.part] = (min(start, place.start), max(end, place.start + place.length))
        self._read = dict(parallel(self._fetch, ranges.items()))

    def get(self, outcome: bytes | Located) -> bytes | memoryview:
        """Raises: PayloadError if the object is missing."""
        if not isinstance(outcome, Located):
            return outcome
        start, body = self._read[outcome.part]
        if isinstance(body, PayloadError):
            raise body
        return memoryview(body)[outcome.start - start : outcome.start - start + outcome.length]

    def _fetch(self, item: tuple[str, tuple[int, int]]) -> tuple[str, tuple[int, bytes | PayloadError]]:
        part, (start, end) = item
        key = self._session.keys.outcomes(self._ref.group_id, part)
        try:
            stored = self._session.store.get(key, start=start, length=end - start)
        except ObjectNotFound:
            return part, (start, PayloadError(f"a stored outcome is missing: key={key}; was the session cleaned up?"))
        assert stored is not None  # no ETag was sent  # noqa: S101
        return part, (start, stored.body)
