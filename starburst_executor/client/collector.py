"""Turns stored outcomes into done futures.

    watched objects ─few──► GET If-None-Match each ─┐
          │                                         ├─► changed? ─► new spans ─► outcome blocks ─► unpickle ─► future
          └──────many─────► LIST their epochs ──────┘                (ranges and seals, once)

Owned by one thread, which calls `poll` and pauses in between for `pause_s`: a short time after a change, and longer and
longer while nothing changes. Any thread may call `watch`.

Guarantee: each future is completed from one span, of its own run or a later one, after the outcome's seal was checked;
a payload is downloaded once.

Guarantee: an unchanged ETag is trusted for a limited time. An object without news for 20 polls is read even if its ETag is
unchanged, so that an object that was corrupted under the same ETag fails its futures instead of leaving them waiting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from starburst_executor import tracing
from starburst_executor.client.bodies import Bodies, Mapper
from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.client.watched import Place, Waiting, Watched, waiting_in
from starburst_executor.clock import Backoff
from starburst_executor.errors import (
    ObjectNotFound,
    PayloadError,
    RecordInvalid,
    SessionNotFound,
    VersionMismatch,
)
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.outcomes import load_outcome
from starburst_executor.protocol.records import SessionState
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import OutcomeBlock, Span, State, Status
from starburst_executor.session.epochs import close_epochs
from starburst_executor.session.statuses import SessionStatuses, Versioned
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import Urgency

__all__ = ["FEW_EMBEDDED", "FEW_REMOTE", "Collector"]

_log = logging.getLogger(__name__)

# Up to this number of objects are read one by one: a LIST costs as much as twelve GETs (S3 prices, us-east-1).
FEW_REMOTE = 12
# In the embedded store one query lists them all, which is less work than two reads.
FEW_EMBEDDED = 1
# The ratio of each pause to the one before: pauses grow to about a third of the time without news.
_GROWTH = 1.5
# While many tasks are outstanding, a result may wait to be read for this fraction of a task's duration.
_PACE = 0.25
# While many tasks are outstanding, a poll may also be as late as this share of the run's time so far: as late as workers store.
_SHARE = 0.02
# The weight of each task in the moving average of that duration.
_WEIGHT = 0.05
# An object without news is read again after this many of the longest polls: 20 s on S3, for a twentieth more requests.
_SILENT_POLLS = 20
_WARN_BYTES = 256 * 2**20


class Collector:
    """Watches status objects, and completes futures from the outcomes in them.

    Args:
        parallel: Makes several requests at once.
        few: Up to this number of objects are read one by one instead of being listed.
        warn_bytes: A larger outcome is logged as a warning.
    Attributes:
        ended: Called before futures are completed, with the blocks that hold their outcomes.
        keep: Called with each completed future and the size of its outcome in bytes. The collector itself does not hold
            completed futures.
        mean_task_s: Moving average of the duration of the last tasks in seconds; None while unknown.
    """

    def __init__(
        self, session: SessionStore, parallel: Mapper, *, few: int = FEW_REMOTE, warn_bytes: int = _WARN_BYTES
    ) -> None:
        self.keep: Callable[[StarburstFuture[Any], int], None] = lambda _future, _n_bytes: None
        self.ended: Callable[[StatusRef, Sequence[tuple[OutcomeBlock, list[Waiting]]]], None] = lambda _ref, _found: (
            None
        )
        self._session = session
        self._polling = session.statuses.at(Urgency.POLL)
        self._parallel = parallel
        self._few = few
        self._warn_bytes = warn_bytes
        self._lock = threading.Lock()  # guards: _watched, n_waiting
        self._watched: dict[str, Watched] = {}
        self.done = threading.Condition(self._lock)  # notified when n_waiting decreases
        self.n_waiting = 0
        timings = session.manifest.current.timings
        self._silent_s = _SILENT_POLLS * timings.poll_max_s
        self._backoff = Backoff(session.clock, timings.poll_min_s, timings.poll_max_s, growth=_GROWTH)
        self.mean_task_s: float | None = None
        self._since = 0.0  # when the first of the objects came that have been watched without a pause
        self.news = threading.Event()

    def watch(
        self,
        key: str,
        ref: StatusRef,
        etag: str,
        futures: Iterable[tuple[int, StarburstFuture[Any]]],
        *,
        unread: bool = False,
    ) -> None:
        """Complete these futures when their tasks end. Each is given with its task's position in the object.

        Args:
            etag: The object's ETag if its tasks are known to be pending in it; empty to have the object read.
            unread: Only a listing showed that they are pending: read the object once, when nothing else is to be read.
        """
        with self._lock:
            watched = self._watched.get(key)
            if not self._watched:
                self._since = self._session.clock.monotonic()
            if watched is None:
                watched = self._watched[key] = Watched(key, ref, etag, self._session.clock.monotonic())
                watched.is_unread = unread
            elif not etag:
                watched.etag = ""
            # A span that was taken in may hold tasks of the new futures.
            watched.version, watched.spans = watched.version + 1, frozenset()
            for position, future in futures:
                if not future.done():
                    watched.futures.setdefault(position, []).append(future)
                    self.n_waiting += 1
            if not watched.futures:
                del self._watched[key]
        self._backoff.reset()
        self.news.set()

    def waiting(self) -> list[StarburstFuture[Any]]:
        """Return the futures that are not done yet."""
        with self._lock:
            return [f for watched in self._watched.values() for futures in watched.futures.values() for f in futures]

    def hand_over(self) -> list[Place]:
        """Stop watching; return what was watched, with the futures that wait."""
        with self._lock:
            places = [Place(watched.key, watched.ref, watched.futures) for watched in self._watched.values()]
            self._watched.clear()
            self.n_waiting = 0
            self.done.notify_all()
        return places

    def claims(self) -> frozenset[str]:
        """Return the ids of the claims that held tasks of the watched futures when their objects were last read."""
        with self._lock:
            return frozenset().union(*(watched.claims for watched in self._watched.values()))

    def wait_done(self) -> None:
        """Wait until no future waits."""
        with self.done:
            self.done.wait_for(lambda: self.n_waiting <= 0)

    def give_up_all(self, error: BaseException) -> None:
        """Complete every waiting future with this error, and stop watching."""
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
        """Return, by status object, the positions of the tasks for which these futures wait."""
        wanted = set(futures)
        with self._lock:
            positions_by_key = {
                key: [position for position, waiting in watched.futures.items() if not wanted.isdisjoint(waiting)]
                for key, watched in self._watched.items()
            }
        return {key: positions for key, positions in positions_by_key.items() if positions}

    def pause_s(self) -> float:
        """Return the pause before the next poll, in seconds.

        While more tasks wait than can run, more results follow, and a delay of a quarter of a task's duration or of 2 % of the
        run's time does not matter. The last results, for which the user waits, are read with the shortest pauses.
        """
        pause_s = self._backoff.next_s()
        manifest = self._session.manifest.current
        if self.n_waiting <= manifest.slots:  # unlocked: one number, and only a pause depends on it
            return pause_s
        timings, elapsed_s = manifest.timings, self._session.clock.monotonic() - self._since
        return max(
            pause_s,
            min(_PACE * (self.mean_task_s or 0.0), timings.poll_max_s),
            min(_SHARE * elapsed_s, timings.commit_most_s),
        )

    def poll(self) -> bool:
        """Read the objects that changed, and complete futures; return whether anything changed.

        Raises: SessionNotFound if the objects are gone. Store: up to 12 GETs, mostly 304s, or 1 LIST an epoch; 1 GET for
        each changed object; 1 GET for each object of big outcomes.
        """
        with self._lock:
            watched = list(self._watched.values())
        if not watched:
            return False
        # What a listing has shown to be changed is news, and worth more than a poll.
        changed, statuses = (watched, self._polling)
        if len(watched) > self._few:
            changed, statuses = self._changed(watched), self._session.statuses
        n_news = 0
        for place, stored in self._parallel(partial(self._read, statuses), changed):
            if stored is not None:
                place.etag = stored.etag
                try:
                    n_news += self.take_in(place.key, stored.status)
                except BaseException:
                    # Some entries were not taken in: read the object again, even if its ETag is unchanged.
                    place.etag = ""
                    raise
        if n_news:
            self._backoff.reset()
        self._doubt_one(watched, is_quiet=not n_news)
        return bool(n_news)

    def take_in(self, key: str, seen: Status) -> int:
        """Complete and mark futures from this status object; return the number of tasks whose state is new.

        Spans that were taken in before are not visited again.
        """
        ended: list[tuple[int, Span, list[Waiting]]] = []
        claimed: list[StarburstFuture[Any]] = []
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                return 0
            version = watched.version
            spans = frozenset(placed for placed in seen.placed() if placed[1].state != State.PENDING)
            claims: set[str] = set()
            for start, span in seen.placed():
                if span.state == State.PENDING:
                    continue
                if (start, span) in watched.spans:
                    claims |= {span.claim} & watched.claims
                    continue
                waiting = waiting_in(watched.futures, start, span)
                if span.has_ended:
                    ended.append((start, span, waiting))
                elif waiting:
                    claims.add(span.claim)
                    claimed += [future for _, futures in waiting for future in futures]
            watched.claims = frozenset(claims)
        n_news = 0
        for future in claimed:
            if not future.running():
                n_news += 1
                future.mark_running()
        taken = [waiting for _, _, of_span in ended for waiting in of_span]
        if taken:
            self._complete(key, seen, ended)
            self._forget(key, taken)
        with self._lock:
            # Only now: if anything above raises, or futures came meanwhile, the spans are visited again.
            if watched.version == version:
                watched.spans = spans
        return n_news + len(taken)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _measure(self, block: OutcomeBlock) -> None:
        """Add the durations of the tasks of a block that have completed to their moving average."""
        failed = frozenset(block.failed)
        seconds = [s for i, s in enumerate(block.durations()) if i not in failed] if failed else block.durations()
        if seconds:
            mean_s, before_s = sum(seconds) / len(seconds), self.mean_task_s
            weight = 1 - (1 - _WEIGHT) ** len(seconds)
            self.mean_task_s = mean_s if before_s is None else before_s + weight * (mean_s - before_s)

    def _doubt_one(self, watched: list[Watched], *, is_quiet: bool) -> None:
        """Have the object that was not read for longest read at the next poll, even if its ETag is unchanged.

        Args:
            is_quiet: This poll had no news: then an object that was never read is chosen first.
        """
        longest = min(watched, key=lambda place: place.read_at)
        if is_quiet:
            longest = next((place for place in watched if place.is_unread), longest)
        if (is_quiet and longest.is_unread) or self._session.clock.monotonic() - longest.read_at >= self._silent_s:
            longest.is_unread, longest.etag = False, ""

    def _changed(self, watched: list[Watched]) -> list[Watched]:
        """List many objects, and return those to read: the ones with a changed ETag and the ones missing in the listing.

        Guarantee: only a read of the object itself proves that it is gone; a listing does not.
        """
        epochs = sorted({(place.ref.ordinal, place.ref.epoch) for place in watched})
        lines = self._polling.lines(epochs)
        if len(lines) >= STATUSES_PER_EPOCH:
            close_epochs(self._session, self._session.statuses.parse(lines))
        etags = {line.key: line.etag for line in lines}
        return [place for place in watched if etags.get(place.key) != place.etag]

    def _read(self, statuses: SessionStatuses, watched: Watched) -> tuple[Watched, Versioned | None]:
        now = self._session.clock.monotonic()
        try:
            stored = statuses.read_if_changed(watched.key, watched.etag) if watched.etag else statuses.read(watched.key)
            if stored is not None:
                watched.read_at = now
            return watched, stored
        except ObjectNotFound:
            self._missing(watched)
        except (RecordInvalid, VersionMismatch) as error:
            self._give_up(watched, error)
        return watched, None

    def _missing(self, watched: Watched) -> None:
        """Handle the loss of an acknowledged object: the session was deleted, or another program deletes its objects."""
        if self._session.manifest.refresh().state == SessionState.DELETED:
            raise SessionNotFound(f"the session was deleted: session={self._session.session_id}")
        self._give_up(watched, PayloadError(f"a stored status object is missing: key={watched.key}"))

    def _give_up(self, watched: Watched, error: Exception) -> None:
        with self._lock:
            futures = [future for waiting in watched.futures.values() for future in waiting]
            ended = [(position, list(waiting)) for position, waiting in watched.futures.items()]
        try:
            for_each(futures, lambda future: future.complete(None, error))
        finally:
            self._forget(watched.key, ended)

    def _complete(self, key: str, seen: Status, ended: list[tuple[int, Span, list[Waiting]]]) -> None:
        ref = self._session.keys.parse_status(key)
        assert ref is not None  # only such keys are watched  # noqa: S101
        found: list[tuple[OutcomeBlock, list[Waiting]]] = []
        for start, span, waiting in ended:
            if span.state == State.CANCELLED:
                for _, futures in waiting:
                    for future in futures:
                        future.mark_cancelled()
                        self.keep(future, 0)
                continue
            left = dict(waiting)
            for block in seen.outcome_blocks(start, span):
                positions = range(block.first, block.first + block.n)
                of_block = [(position, left.pop(position)) for position in positions if position in left]
                if of_block:
                    found.append((block, of_block))
            for position, futures in left.items():
                task = f"{seen.ordinal}-{seen.first + position}"
                error = PayloadError(f"a task that has ended is stored without its outcome: task={task}")
                self._finish(futures, None, error, 0)
        self.ended(ref, found)
        bodies = Bodies(self._session, ref, self._parallel, [block for block, _ in found])
        for block, waiting in found:
            self._measure(block)
            tracing.collects(self._session.clock.now)
            try:
                payloads = blocks.open_outcomes(self._session.sealer, seen, block, bodies.get(block))
            except (PayloadError, RecordInvalid) as error:
                for _, futures in waiting:
                    self._finish(futures, None, error, 0)
                continue
            for position, futures in waiting:
                body = payloads[position - block.first]
                if len(body) > self._warn_bytes:
                    task = f"{seen.ordinal}-{seen.first + position}"
                    _log.warning("a large result: bytes=%d, task=%s; is all of it needed here?", len(body), task)
                try:
                    value, failure = load_outcome(body)
                except (PayloadError, RecordInvalid) as error:
                    self._finish(futures, None, error, 0)
                else:
                    self._finish(futures, value, failure, len(body))

    def _finish(
        self, futures: list[StarburstFuture[Any]], value: Any, error: BaseException | None, n_bytes: int
    ) -> None:
        for future in futures:
            future.complete(value, error)
            self.keep(future, n_bytes)

    def _forget(self, key: str, ended: list[Waiting]) -> None:
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                return
            for position, futures in ended:
                left = [future for future in watched.futures.get(position, ()) if future not in futures]
                self.n_waiting -= len(watched.futures.get(position, ())) - len(left)
                if left:
                    watched.futures[position] = left
                else:
                    watched.futures.pop(position, None)
            if not watched.futures:
                del self._watched[key]
            self.done.notify_all()
