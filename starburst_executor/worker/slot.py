"""One slot of a worker: acquires claims, runs their tasks, commits the tasks that have ended.

    finder ──key──► claims ──Claim──► feeder ──jobs──► runner ──► Claim.found ──► claims.commit
                                        ▲                                            │
                                        │                                            └─► next slice
                                        └── overrun or SIGTERM: tasks that have not started are released

One thread steps a slot, and this thread may wait for the store. It watches nothing: a listener (`worker/listener.py`) watches
the runner, the tasks' deadlines and their output; the main thread watches signals and the client. They notify the slot by an
event (`draining`, `stopped`) or by killing the runner (`hurry`).

A step waits for the runner at most until the next due time, so a test can step it with a fake clock and a fake runner.
`worker/pace.py` decides how many tasks to claim.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from starburst_executor.errors import RecordInvalid, StarburstError, VersionMismatch
from starburst_executor.protocol import status
from starburst_executor.protocol.status import Status
from starburst_executor.worker.claims import Claim
from starburst_executor.worker.feeder import Feeder, Placed, Spawn
from starburst_executor.worker.pace import LEAD_S, Pace, has_plenty, is_shared
from starburst_executor.worker.shared import Shared

__all__ = ["Slot"]

_log = logging.getLogger(__name__)

# Many slots look for their next object at the same time and some lose the race; the running task leaves time to try again.
_TRIES_AHEAD = 4


class Slot:
    """Runs one task after the other. One thread steps it.

    It has more than twenty methods because they form one state machine over the open claims, in the order of `step`.

    Args:
        number: Its number within its worker.
        spawn: Start a runner with a listener, and with these folders of code at the front of its path. The listener calls
            `news.set`.
        draining: Set when the worker should stop: the slot makes no claims and releases tasks that have not started.
        stopped: Set when the worker stops at once: the slot no longer writes to the store.
        broken: Called with the outcome of an initializer that raised.

    Attributes:
        news: Set by other threads when the slot has an event to process.
    """

    def __init__(
        self,
        number: int,
        shared: Shared,
        *,
        spawn: Spawn,
        news: threading.Event,
        draining: threading.Event,
        stopped: threading.Event,
        broken: Callable[[bytes], None],
    ) -> None:
        self._number = number
        self._shared = shared
        self._timings = shared.session.manifest.current.timings
        self._pace = Pace(self._timings.slice_s)
        self._feeder = Feeder(shared, spawn)
        self.news = news
        self._draining = draining
        self._stopped = stopped
        self._broken = broken
        self._open: list[Claim] = []
        self._committed = 0.0
        self._overrun = False  # whether the running task is an overrun, and the tasks behind it have been released
        self._races = 0

    @property
    def is_idle(self) -> bool:
        """Whether it holds no claim and runs no task."""
        return not self._has_work()

    def running(self) -> tuple[str, float] | None:
        """Return the running task and for how many seconds it has run, for the beat. Any thread may call it."""
        placed = self._feeder.running()
        if placed is None:
            return None
        return placed.task_id, self._shared.clock.monotonic() - self._feeder.started_at

    def hurry(self) -> None:
        """End draining after the grace time: kill the running task; the next step releases it. Any thread may call it."""
        self._feeder.is_leaving = True
        self._feeder.kill()
        self.news.set()

    def step(self) -> bool:
        """Perform one step: claim tasks if there are none, wait for the runner or a due time, commit. Return False if idle."""
        if self._stopped.is_set():
            return False
        if self._draining.is_set():
            self._release_unstarted()
        elif not self._has_work() and not self._acquire():
            return False
        if not self._has_work():
            return False
        self._try_again()
        self._feed()
        self._claim_ahead()
        self._wait()
        # A worker that stops kills its runners; their deaths must not be counted as the tasks' failures.
        if not self._stopped.is_set():
            self._hear()
            self._release_overrun()
            self._commit_due()
        if not self._has_work():
            self._shared.solitude.leave(self._number)
            self._shared.solitude.give_up(self._number)
        return True

    def _has_work(self) -> bool:
        return bool(self._open) or self._feeder.n_jobs > 0

    def give_back(self) -> None:
        """Release the tasks that have not started, when this worker cannot go on. Call it when no thread steps the slot.

        Tasks that may have started stay claimed, and are lost with this worker. Store: 1 swap a claim; 1 more to commit
        the tasks that have ended.
        """
        started = self._feeder.give_up()
        for claim in list(self._open):
            kept = {placed.index for placed in started if placed.claim is claim}
            # If the write fails, watchers take the tasks back when they find that this worker is gone.
            with suppress(StarburstError):
                if claim.found:
                    self._commit(claim)
                self._shared.claims.release(claim, claim.open - kept)

    # --- taking work --------------------------------------------------------------------------------------------------

    def _acquire(self) -> bool:
        """Claim tasks from a candidate; return whether there is a claim now."""
        solitude = self._shared.solitude
        if not solitude.enter(self._number):
            return False
        if self._claim_solo() or (not solitude.is_wanted(self._number) and self._claim_candidate()):
            return True
        solitude.leave(self._number)
        return False

    def _claim_candidate(self) -> bool:
        key = self._take_key()
        while key is not None:
            claim, seen = self._try(key)
            if claim is not None:
                return True
            if seen is None:
                self._races += 1
                self._shared.candidates.avoid(key)
                # Spread the slots that lost the same race over about one request's time, longer after repeated losses.
                clock = self._shared.clock
                clock.wait(self._draining, self._timings.bell_min_s * self._races * clock.random())
            if self._draining.is_set():
                return False
            key = self._take_key()
        self._races = 0
        return False

    def _take_key(self) -> str | None:
        return self._shared.candidates.take(worth_sharing=self._pace.least_slice(self._shared.durations.latest))

    def _claim_solo(self) -> bool:
        """Claim a task on its last try, if this worker has no other task; if it has waited too long, get the worker idle for it."""
        solitude, waiting = self._shared.solitude, self._shared.candidates.solo()
        if waiting is None:
            solitude.give_up(self._number)
            return False
        key, waited_s = waiting
        if not solitude.have(self._number, insist=waited_s > self._timings.beat_s):
            return False
        claim, _ = self._try(key, alone=True)
        if claim is None:
            solitude.give_up(self._number)
        return claim is not None

    def _try(self, key: str, *, alone: bool = False, ahead: bool = False) -> tuple[Claim | None, Status | None]:
        size = self._slice_size if alone else self._share_size
        try:
            with self._shared.candidates.trying(key) as tried:
                claim, seen = self._shared.claims.claim(key, size=size, alone=alone, ahead=ahead)
                tried.seen, tried.has_claim = seen, claim is not None
        except (RecordInvalid, VersionMismatch) as error:
            _log.warning("a status object cannot be read and is ignored: error=%s", error)
            return None, None
        if claim is not None:
            self._take_in(claim)
        return claim, seen

    def _take_in(self, claim: Claim) -> None:
        self._races = 0
        if not self._open:
            self._committed = self._shared.clock.monotonic()
        self._open.append(claim)
        self._feeder.add(claim)

    def _slice_size(self, seen: Status) -> int:
        return self._pace.slice_size(self._shared.durations.of_next(seen), self._shared.finder.fair_share())

    def _share_size(self, seen: Status) -> int:
        """Like `_slice_size`, but 0 for an object with other workers while there are objects that no worker has claimed from."""
        return 0 if is_shared(seen) and self._shared.candidates.has_untouched() else self._slice_size(seen)

    def _claim_ahead(self) -> None:
        """Claim the next slice while the current one runs."""
        if len(self._open) != 1 or self._feeder.n_backlog:
            return
        claim = self._open[0]
        if claim.all_ended or not self._wants_after(claim):
            return
        following = None
        if status.has_pending(claim.seen.status):
            following = self._commit(claim, then=self._slice_size(claim.seen.status), ahead=True)
        for _ in range(_TRIES_AHEAD):
            if following is not None or not self._wants_after(claim):
                break
            key = self._take_key()
            if key is None or key == claim.key:
                break
            following, _ = self._try(key, ahead=True)
        self._feed()

    def _may_go_on(self) -> bool:
        return not self._draining.is_set() and not self._shared.solitude.is_reserved

    def _wants_after(self, claim: Claim) -> bool:
        """Return whether to claim another slice: tasks are short, there are plenty, and no held task has lost a worker."""
        if not self._may_go_on() or self._overrun or any(held.has_losses for held in self._open):
            return False
        estimate_s = self._estimate_s(claim)
        if estimate_s is None or not self._pace.may_claim_ahead(estimate_s):
            return False
        if has_plenty(claim.seen.status) or self._shared.finder.is_plenty(
            max(estimate_s, 1e-6), surely=estimate_s >= LEAD_S
        ):
            return True
        ahead_at = self._ahead_at()
        return ahead_at is not None and self._shared.clock.monotonic() >= ahead_at

    def _estimate_s(self, claim: Claim) -> float | None:
        index = next(iter(claim.open), None)
        return None if index is None else self._shared.durations.of(Placed(claim, index).digest)

    def _ahead_at(self) -> float | None:
        if len(self._open) != 1 or self._feeder.n_jobs != 1 or self._feeder.n_backlog:
            return None
        return self._pace.claim_ahead_at(self._estimate_s(self._open[0]), self._feeder.started_at)

    # --- running ------------------------------------------------------------------------------------------------------

    def _try_again(self) -> None:
        """Requeue failed tasks that are due, after storing their failures, so that these count even if this worker dies."""
        claims = {id(placed.claim): placed.claim for placed in self._feeder.requeue_due()}
        for claim in claims.values():
            if self._shared.claims.has_unstored_failures(claim):
                self._commit(claim)

    def _feed(self) -> None:
        if self._feeder.feed():
            self._overrun = False

    def _wait(self) -> None:
        """Wait for an event or the next due time."""
        self._shared.clock.wait(self.news, self._until_due_s())
        self.news.clear()

    def _hear(self) -> None:
        if self._feeder.hear():
            self._overrun = False
        if self._feeder.broken is not None:
            outcome, self._feeder.broken = self._feeder.broken, None
            self._broken(outcome)
        while self._feeder.refused:
            placed = self._feeder.refused.pop()
            self._release(placed.claim, [placed.index], refused=True)

    def _until_due_s(self) -> float:
        """Return how many seconds to wait for an event before the next due time."""
        now, commit_s = self._shared.clock.monotonic(), self._timings.commit_s
        if any(claim.all_ended for claim in self._open):
            return 0.0
        dues = [now + commit_s]
        if any(claim.found for claim in self._open):
            dues.append(self._committed + commit_s)
        dues += [due for due in (self._feeder.next_try_at(), self._overrun_at()) if due is not None]
        ahead_at = self._ahead_at()
        if ahead_at is not None and ahead_at > now:
            dues.append(ahead_at)
        return max(0.0, min(dues) - now)

    def _overrun_at(self) -> float | None:
        """Return the time from which the running task counts as an overrun; None if no task waits behind it."""
        running = self._feeder.running()
        if self._overrun or running is None or self._feeder.n_jobs + self._feeder.n_backlog < 2:  # noqa: PLR2004 - one runs, one waits
            return None
        return self._pace.overrun_at(self._shared.durations.of(running.digest), self._feeder.started_at)

    def _release_overrun(self) -> None:
        """Release the tasks behind a running task that takes longer than estimated."""
        running = self._feeder.running()
        if running is None or self._overrun or not self._feeder.has_runner:
            return
        overrun_at, n_waiting = self._overrun_at(), self._feeder.n_jobs + self._feeder.n_backlog - 1
        is_overrun = overrun_at is not None and self._shared.clock.monotonic() >= overrun_at
        if is_overrun or self._pace.holds_too_much(n_waiting, self._shared.durations.of(running.digest)):
            self._overrun = True
            self._release_unstarted()

    def _release_unstarted(self) -> None:
        """Release the tasks that have not started; if the worker must stop, also those that wait for a retry."""
        unstarted = self._feeder.take_unstarted(and_waiting=self._draining.is_set())
        for claim in list(self._open):
            indices = [placed.index for placed in unstarted if placed.claim is claim]
            if indices:
                self._release(claim, indices)

    # --- settling claims ----------------------------------------------------------------------------------------------

    def _release(self, claim: Claim, indices: list[int], *, refused: bool = False) -> None:
        self._shared.claims.release(claim, indices, refused=refused)
        self._settled(claim)

    def _commit_due(self) -> None:
        is_due = self._shared.clock.monotonic() >= self._committed + self._timings.commit_s
        for claim in list(self._open):
            if claim.all_ended:
                self._commit_last(claim)
            elif claim.found and is_due:
                self._commit(claim)

    def _commit_last(self, claim: Claim) -> None:
        """Commit the last tasks of a slice, and claim the next slice in the same swap."""
        others = [other for other in self._open if other is not claim]
        wants_next = self._may_go_on() if not others else len(others) == 1 and self._wants_after(claim)
        self._commit(claim, then=self._slice_size(claim.seen.status) if wants_next else 0, ahead=bool(others))

    def _commit(self, claim: Claim, *, then: int = 0, ahead: bool = False) -> Claim | None:
        following = self._shared.claims.commit(claim, then=then, ahead=ahead)
        self._committed = self._shared.clock.monotonic()
        self._shared.candidates.saw(claim.key, claim.seen.status)
        self._settled(claim)
        if following is not None:
            self._shared.candidates.begins(following.key)
            self._take_in(following)
        return following

    def _settled(self, claim: Claim) -> None:
        """Update after a read or write of a claim's object: share its new state, drop a finished claim and lost tasks."""
        for other in self._open:
            # Give other claims on the object the new ETag, so that their next swap is not refused first.
            if other.key == claim.key:
                other.seen = claim.seen
        if not claim.open and claim in self._open:
            self._open.remove(claim)
            self._shared.candidates.ends(claim.key)
        self._feeder.drop_lost()
