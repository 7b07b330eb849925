"""Ends a session when too many of its tasks have failed. Workers use it as well as clients, because no client may be attached.

    beats, read at each look ──────────┬─► sum of failures within the limit ─► nothing
    outcomes that the client has read ─┘     └─► count the failed tasks ─► within the limit, or nothing is left to stop ─► look again later
                                                                            └─► swap the session to broken

Both sums are upper estimates: a task that failed and was retried counts in them for ever. So tasks are counted before a session is
ended. Only sessions with `max_failures` pay for any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.protocol.failures import TOO_MANY_FAILURES, are_too_many, failures_reason
from starburst_executor.protocol.records import Manifest, SessionState
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.beats import Beats
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["FailedTasks", "Seen"]

# Least interval between two counts of the tasks, in looks.
_COUNT_LOOKS = 4


class Seen(NamedTuple):
    """How many tasks one client has seen: those that it waits for or has read outcomes of, these, and the failures among these."""

    n_tasks: int = 0
    n_ended: int = 0
    n_failed: int = 0


class _Counted(NamedTuple):
    """How many tasks there are, have failed, and have ended."""

    n_tasks: int = 0
    n_failed: int = 0
    n_ended: int = 0


class FailedTasks:
    """One watcher of one session's failures. Not thread-safe.

    Args:
        own: Returns the number of tasks that this watcher itself has failed, because their workers were lost; for a client, whose beat does
            not say so.
        seen: Returns what this client has read of the tasks' outcomes.
    """

    def __init__(
        self, session: SessionStore, own: Callable[[], int] = lambda: 0, seen: Callable[[], Seen] = Seen
    ) -> None:
        self._session = session
        self._own = own
        self._seen = seen
        self._beats = Beats(session)
        self._next_look = float("-inf")
        self._next_count = float("-inf")
        self._credit = 0  # by how much the sum of the beats was too high at the last count
        self._next_seen_count = float("-inf")
        self._n_judged = 0  # failures that were read before the last count
        self._seen_credit = 0  # by how much the outcomes that were read were too many, likewise

    def keep(self) -> bool:
        """End the session if too many of its tasks have failed, by the workers' beats; return whether it has ended.

        Store: nothing without a limit. At each look 1 LIST, 1 GET for each worker that has beaten since. At most once in four looks while the
        limit seems to be exceeded: as `_judge`.
        """
        manifest, now = self._session.manifest.current, self._session.clock.monotonic()
        limit = manifest.max_failures
        if not limit or manifest.state.is_over or now < self._next_look:
            return False
        self._next_look = now + manifest.timings.look_s * 0.9
        beats = self._beats.read()
        n_own = self._own()
        upper = n_own + sum(beat.n_failed for beat in beats) - self._credit
        n_ended = n_own + sum(beat.n_ended for beat in beats)
        # There are at least as many tasks as have ended; with a share, more tasks allow more failures.
        if not are_too_many(limit, upper, n_ended, n_ended) or now < self._next_count:
            return False
        self._next_count = now + _COUNT_LOOKS * manifest.timings.look_s
        counted, has_ended = self._judge(limit)
        self._credit += max(0, upper - counted.n_failed)
        return has_ended

    def keep_seen(self) -> bool:
        """As `keep`, by the outcomes that this client has read, which are known before a look at the beats.

        Store: nothing without a limit, or while fewer failures were read. At most once in a look's interval: as `_judge`.
        """
        manifest, now = self._session.manifest.current, self._session.clock.monotonic()
        limit = manifest.max_failures
        if not limit or manifest.state.is_over or now < self._next_seen_count:
            return False
        seen = self._seen()
        if seen.n_failed <= self._n_judged:  # only further failures are worth another count
            return False
        upper = seen.n_failed - self._seen_credit
        if not are_too_many(limit, upper, seen.n_tasks, seen.n_ended):
            return False
        self._next_seen_count = now + manifest.timings.look_s
        counted, has_ended = self._judge(limit)
        self._n_judged = seen.n_failed
        self._seen_credit += max(0, upper - counted.n_failed)
        return has_ended

    def _judge(self, limit: str) -> tuple[_Counted, bool]:
        """Count the tasks, and end the session if too many have failed; return the counts, and whether it has ended.

        Store: 1 LIST per 1,000 status objects, 1 GET for each that is partly ended or did not end well; 1 swap to end it.
        """
        counted = self._count()
        is_done = counted.n_ended == counted.n_tasks
        if is_done or not are_too_many(limit, counted.n_failed, counted.n_tasks, counted.n_ended):
            return counted, False

        def end(current: Manifest) -> Manifest | None:
            if current.state.is_over or current.max_failures != limit:
                return None
            reason = failures_reason(limit, counted.n_failed, counted.n_tasks)
            return replace(current, state=SessionState.BROKEN, reason=reason, error=TOO_MANY_FAILURES)

        return counted, self._session.manifest.change(end).state.is_over

    def _count(self) -> _Counted:
        """Count the tasks. Those whose status object cannot be read count as failed, since their futures fail."""
        listing = self._session.statuses.all()
        n_tasks = sum(listed.ref.n_tasks for listed in listing)
        n_completed = sum(listed.ref.n_tasks for listed in listing if listed.size_class == SizeClass.ALL_COMPLETED)
        known = (SizeClass.ALL_COMPLETED, SizeClass.ALL_PENDING)
        unsure = [listed for listed in listing if listed.size_class not in known]
        parts = fan_out(self._session.store, partial(_read, self._session), unsure)
        return _Counted(
            n_tasks, sum(part.n_failed for part in parts), n_completed + sum(part.n_ended for part in parts)
        )


def _read(session: SessionStore, listed: ListedStatus) -> _Counted:
    with suppress(ObjectNotFound):
        try:
            counts = session.statuses.read(listed.key).status.counts()
        except (RecordInvalid, VersionMismatch):
            n = listed.ref.n_tasks
            return _Counted(n, n, n)
        n_tasks = sum(counts.values())
        return _Counted(n_tasks, counts[State.FAILED], n_tasks - counts[State.PENDING] - counts[State.CLAIMED])
    return _Counted()
