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
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from starburst_executor.client.bodies import Mapper
from starburst_executor.client.completing import Completing
from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.client.rows import RowPart
from starburst_executor.client.watched import EndedSpan, Place, Watched, parts_within, waiting_in
from starburst_executor.clock import Backoff
from starburst_executor.errors import (
    ObjectNotFound,
    PayloadError,
    RecordInvalid,
    SessionNotFound,
    VersionMismatch,
)
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.records import SessionState
from starburst_executor.protocol.spans.record import Span, Status
from starburst_executor.session.epochs import close_epochs
from starburst_executor.session.statuses import SessionStatuses, Versioned
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import READ, Urgency

__all__ = ["FEW_EMBEDDED", "FEW_REMOTE", "Collector"]

_log = logging.getLogger(__name__)

# Up to this number of objects are read one by one: a LIST costs as much as twelve GETs (S3 prices, us-east-1).
FEW_REMOTE = 12
# In the embedded store one query lists them all, which is less work than two reads.
FEW_EMBEDDED = 1
# The ratio of each pause to the one before: pauses grow to about a third of the time without news.
_GROWTH = 1.5
# On S3 a worker hears of a task, reads it, claims and commits it in at least this many of the shortest pauses, 0.15 s.
_SOONEST_POLLS = 3.0
# … and a result on S3 may be read later by this share of the time since its call.
_LATE_SHARE = 1 / 6
# While many tasks are outstanding, a result may wait to be read for this fraction of a task's duration.
_PACE = 0.25
# … and for this share of the run's time so far, so that the first results of a run are read soon.
_FIRST_SHARE = 1 / 32
# While many tasks are outstanding, a poll may also be as late as this share of the run's time so far: as late as workers store.
_SHARE = 0.02
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
        completing: Completes what waits for tasks that have ended. The collector itself does not hold completed futures.
    """

    def __init__(
        self, session: SessionStore, parallel: Mapper, *, few: int = FEW_REMOTE, warn_bytes: int = _WARN_BYTES
    ) -> None:
        self.completing = Completing(session, parallel, warn_bytes)
        self._session = session
        # Not as polls of the bell: they would wait behind those of hundreds of idle workers, and a user waits for what they show.
        self._polling = session.statuses.at(Urgency.CLAIM)
        self._parallel = parallel
        self._few = few
        self._lock = threading.Lock()  # guards: _watched, n_waiting
        self._watched: dict[str, Watched] = {}
        self.done = threading.Condition(self._lock)  # notified when n_waiting decreases
        self.n_waiting = 0
        timings = session.manifest.current.timings
        self._silent_s = _SILENT_POLLS * timings.poll_max_s
        self._backoff = Backoff(session.clock, timings.poll_min_s, timings.poll_max_s, growth=_GROWTH)
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
            watched = self._place(key, ref, etag, unread=unread)
            for position, future in futures:
                if not future.done():
                    watched.futures.setdefault(position, []).append(future)
                    self.n_waiting += 1
            if watched.is_done():
                del self._watched[key]
        self._backoff.reset()
        self.news.set()

    def watch_rows(self, key: str, ref: StatusRef, etag: str, parts: Sequence[RowPart]) -> None:
        """As `watch`, for all tasks of an object that this client has stored. Called once for each object."""
        with self._lock:
            watched = self._place(key, ref, etag, unread=False)
            self.n_waiting += watched.add_rows(parts)
            if watched.is_done():
                del self._watched[key]
        self._backoff.reset()
        self.news.set()

    def _place(self, key: str, ref: StatusRef, etag: str, *, unread: bool) -> Watched:
        """Return the watched object with this key. Called under the lock."""
        watched = self._watched.get(key)
        if not self._watched:
            self._since = self._session.clock.monotonic()
        if watched is None:
            watched = self._watched[key] = Watched(key, ref, etag, self._session.clock.monotonic())
            watched.is_unread = unread
        elif not etag:
            watched.etag = ""
        # A span that was taken in may hold tasks that something waits for now.
        watched.version, watched.spans = watched.version + 1, frozenset()
        return watched

    def waiting(self) -> list[StarburstFuture[Any]]:
        """Return the futures that are not done yet."""
        with self._lock:
            return self._all_waiting()

    def _all_waiting(self) -> list[StarburstFuture[Any]]:
        return [f for watched in self._watched.values() for _, futures in watched.waiting() for f in futures]

    def hand_over(self) -> list[Place]:
        """Stop watching; return what was watched, with the futures that wait."""
        with self._lock:
            places = [Place(watched.key, watched.ref, _by_position(watched)) for watched in self._watched.values()]
            self._watched.clear()
            self.n_waiting = 0
            self.done.notify_all()
        return places

    def claims(self) -> frozenset[str]:
        """Return the ids of the claims that held tasks of the watched futures when their objects were last read."""
        with self._lock:
            return frozenset().union(*(watched.claims for watched in self._watched.values()))

    def needs(self) -> dict[str, list[str]]:
        """Return, by resources as keys have them, the watched objects that no worker had claimed from when they were last read."""
        found: dict[str, list[str]] = {}
        with self._lock:
            for key, watched in self._watched.items():
                if watched.ref.resources and not watched.claims:
                    found.setdefault(watched.ref.resources, []).append(key)
        return found

    def wait_done(self) -> None:
        """Wait until no future waits."""
        with self.done:
            self.done.wait_for(lambda: self.n_waiting <= 0)

    def give_up_all(self, error: BaseException) -> None:
        """Complete every waiting future with this error, and stop watching."""
        with self._lock:
            left = self._all_waiting()
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
                key: sorted(
                    {position for position, waiting in watched.waiting(known=True) if not wanted.isdisjoint(waiting)}
                )
                for key, watched in self._watched.items()
            }
        return {key: positions for key, positions in positions_by_key.items() if positions}

    def pause_s(self) -> float:
        """Return the pause before the next poll, in seconds.

        While more tasks wait than can run, more results follow, and a delay of a quarter of a task's duration, at first 3 % of the run's
        time, or of 2 % of it later does not matter. The last results, for which the user waits, are read with the shortest pauses.
        """
        pause_s = self._backoff.next_s()
        manifest = self._session.manifest.current
        timings, elapsed_s = manifest.timings, self._session.clock.monotonic() - self._since
        if self.n_waiting <= manifest.slots:  # unlocked: one number, and only a pause depends on it
            # In its first second a call that is waited for may end at any moment.
            if elapsed_s >= timings.poll_max_s:
                return pause_s
            return max(min(pause_s, timings.poll_min_s / 2), self._too_soon_s(elapsed_s))
        return max(
            pause_s,
            min(_PACE * (self.completing.mean_task_s or 0.0), timings.poll_max_s, _FIRST_SHARE * elapsed_s),
            min(_SHARE * elapsed_s, timings.commit_most_s),
        )

    def _too_soon_s(self, elapsed_s: float) -> float:
        """Return for how many seconds a read on S3 is not worth its price: before a worker can have claimed and committed a task, and for
        a small share of the time that the task has taken.
        """
        if self._few != FEW_REMOTE:
            return 0.0
        soonest_s = _SOONEST_POLLS * self._session.manifest.current.timings.poll_min_s
        return max(soonest_s - elapsed_s, elapsed_s * _LATE_SHARE)

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
        if len(watched) > self._most_read():
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
        ended: list[EndedSpan] = []
        claimed: list[StarburstFuture[Any]] = []
        begun: list[RowPart] = []
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                return 0
            version, parts = watched.version, watched.parts
            spans = frozenset(placed for placed in seen.placed() if not placed[1].is_waiting)
            claims: set[str] = set()
            for start, span in seen.placed():
                if span.is_waiting:
                    continue
                if (start, span) in watched.spans:
                    claims |= {span.claim} & watched.claims
                    continue
                waiting = waiting_in(watched.futures, start, span)
                left = watched.left_in(start, span.n)
                if not waiting and not left:
                    continue
                if span.has_ended:
                    ended.append(EndedSpan(start, span, waiting, left))
                else:
                    claims.add(span.claim)
                    claimed += [future for _, futures in waiting for future in futures]
                    begun += parts_within(parts, start, start + span.n)
            watched.claims = frozenset(claims)
        n_news = sum(part.row.begin(part.start, part.n) for part in begun)
        for future in claimed:
            if not future.running():
                n_news += 1
                future.mark_running()
        n_taken = sum(len(span.waiting) + span.left.count(1) for span in ended)
        if n_taken:
            self.completing.complete(watched.ref, seen, ended, parts)
            self._forget(key, ended)
        with self._lock:
            # Only now: if anything above raises, or futures came meanwhile, the spans are visited again.
            if watched.version == version:
                watched.spans = spans
        return n_news + n_taken

    # --- inside -------------------------------------------------------------------------------------------------------

    def _most_read(self) -> int:
        """Return up to how many objects to read one by one: one while the store limits the number of reads, whatever they cost.

        The last results, for which the user waits, are read as ever.
        """
        limiter = self._session.store.limiter
        is_last = self.n_waiting <= self._session.manifest.current.slots  # unlocked: one number, as in `pause_s`
        return self._few if is_last or limiter is None or limiter.lanes[READ].is_open else min(1, self._few)

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
            futures = [future for _, waiting in watched.waiting() for future in waiting]
            n_tasks = watched.ref.n_tasks
            ended = EndedSpan(
                0, Span(n_tasks), [(at, list(f)) for at, f in watched.futures.items()], watched.left_in(0, n_tasks)
            )
        try:
            for_each(futures, lambda future: future.complete(None, error))
        finally:
            self._forget(watched.key, [ended])

    def _forget(self, key: str, ended: Iterable[EndedSpan]) -> None:
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                return
            for span in ended:
                self.n_waiting -= watched.forget(span)
            if watched.is_done():
                del self._watched[key]
            self.done.notify_all()


def _by_position(watched: Watched) -> dict[int, list[StarburstFuture[Any]]]:
    found: dict[int, list[StarburstFuture[Any]]] = {}
    for position, futures in watched.waiting():
        found.setdefault(position, []).extend(futures)
    return found
