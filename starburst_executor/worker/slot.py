"""One slot of a worker: acquires claims, runs their tasks, commits the tasks that have ended.

    acquirer ──Claim──► holdings ──► backlog ──► feeder ──jobs──► runner ──► Claim.ended ──► holdings.commit
                           ▲                                                                    │
                           │◄── overrun or SIGTERM: tasks that have not started are released    └─► next slice

One thread steps a slot, and this thread may wait for the store. It watches nothing: a listener (`worker/listener.py`) watches
the runner, the tasks' deadlines and their output; the main thread watches signals and the client. They notify the slot by an
event (`draining`, `stopped`) or by killing the runner (`hurry`).

A step waits for the runner at most until the next due time, so a test can step it with a fake clock and a fake runner.
`worker/pace.py` decides how many tasks to claim.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from starburst_executor.protocol.spans import transitions
from starburst_executor.worker.acquirer import Acquirer
from starburst_executor.worker.backlog import Backlog
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.feeder import Feeder, Spawn
from starburst_executor.worker.holdings import Holdings
from starburst_executor.worker.overrun import Overrun
from starburst_executor.worker.pace import LEAD_S, has_plenty, pace_of
from starburst_executor.worker.runner.usage import RunningNow
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.shares import Share

__all__ = ["Slot"]

# Many slots look for their next object at the same time and some lose the race; the running task leaves time to try again.
_TRIES_AHEAD = 4
# A slice that ends within this share of the shortest poll is not worth a claim ahead: on S3 10 ms, a sixth of a request.
_ENDS_POLLS = 0.2


class Slot:
    """Runs one task after the other. One thread steps it.

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
        self._shared = shared
        self._pace = pace_of(shared.session.manifest.current.timings, shared.wait_s)
        self._backlog = Backlog(shared)
        self._feeder = Feeder(shared, self._backlog, spawn)
        self._overrun = Overrun(shared, self._pace, self._backlog, self._feeder)
        self._holdings = Holdings(shared, self._pace, self._backlog, self._feeder)
        self._share = Share(shared.stock, number, shared.candidates, self._feeder.end_runner)
        self._acquirer = Acquirer(number, shared, self._pace, draining, self._share)
        self.news = news
        self._draining = draining
        self._stopped = stopped
        self._broken = broken

    @property
    def is_idle(self) -> bool:
        """Whether it holds no claim and runs no task."""
        return not self._has_work()

    def running(self) -> RunningNow | None:
        """Return the running task, for the beat. Any thread may call it."""
        return self._feeder.running_now()

    def hurry(self) -> None:
        """End draining after the grace time: kill the running task; the next step releases it. Any thread may call it."""
        self._feeder.is_leaving = True
        self._feeder.kill()
        self.news.set()

    def retire(self) -> None:
        """End the runner of a slot that is idle and will not be used any more. Call it when no thread steps the slot."""
        self._acquirer.leave()
        self._feeder.end_runner()

    def step(self) -> bool:
        """Perform one step: claim tasks if there are none, wait for the runner or a due time, commit. Return False if idle."""
        if self._stopped.is_set():
            return False
        if self._draining.is_set():
            self._release_unstarted()
        elif not self._has_work() and not self._acquire():
            return False
        if not self._has_work():
            self._acquirer.leave()
            return False
        self._holdings.commit_failures(self._backlog.requeue_due())
        self._feed()
        self._claim_ahead()
        self._shared.clock.wait(self.news, self._until_due_s())
        self.news.clear()
        # A worker that stops kills its runners; their deaths must not be counted as the tasks' failures.
        if not self._stopped.is_set():
            self._hear()
            if self._overrun.begins():
                self._release_unstarted()
            self._holdings.look_again()
            self._commit_due()
        if not self._has_work():
            self._acquirer.done()
        return True

    def give_back(self) -> None:
        """Release the tasks that have not started, when this worker cannot go on. Call it when no thread steps the slot.

        Tasks that may have started stay claimed, and are lost with this worker. Store: as `Holdings.give_back`.
        """
        self._holdings.give_back(self._feeder.give_up())

    def _has_work(self) -> bool:
        return bool(self._holdings.open) or self._feeder.n_jobs > 0

    # --- taking work --------------------------------------------------------------------------------------------------

    def _acquire(self) -> bool:
        claim = self._acquirer.acquire()
        if claim is not None:
            self._holdings.add(claim)
        return claim is not None

    def _claim_ahead(self) -> None:
        """Claim the next slice while the current one runs."""
        if len(self._holdings.open) != 1 or self._backlog:
            return
        claim = self._holdings.open[0]
        if claim.all_ended or self._is_about_to_end(claim) or not self._wants_after(claim):
            return
        following = None
        now = self._shared.clock.now()
        if transitions.has_pending(claim.stored.status, now) and self._acquirer.goes_on(claim.key):
            size = self._acquirer.slice_size(claim.stored.status)
            following = self._holdings.commit(claim, then=size, ahead=True)
        for _ in range(_TRIES_AHEAD):
            if following is not None or not self._wants_after(claim):
                break
            key = self._acquirer.next_key()
            if key is None or key == claim.key or not self._acquirer.may_follow(key):
                break
            following, _ = self._acquirer.claim(key, ahead=True)
            if following is not None:
                self._holdings.add(following)
        self._feed()

    def _is_about_to_end(self, claim: Claim) -> bool:
        """Return whether the slice ends sooner than a request: its outcomes are then stored first, and not after the next claim."""
        timings = self._shared.session.manifest.current.timings
        return self._feeder.n_jobs * (self._estimate_s(claim) or math.inf) < _ENDS_POLLS * timings.bell_min_s

    def _may_go_on(self) -> bool:
        return not self._draining.is_set() and not self._shared.solitude.is_reserved

    def _wants_after(self, claim: Claim) -> bool:
        """Return whether to claim another slice: tasks are short, there are plenty, and no held task has lost a worker."""
        if not self._may_go_on() or self._overrun.is_on or any(held.has_losses for held in self._holdings.open):
            return False
        estimate_s = self._estimate_s(claim)
        if estimate_s is None or not self._pace.may_claim_ahead(estimate_s):
            return False
        is_long = estimate_s >= LEAD_S
        finder = self._shared.finder
        has_own = has_plenty(claim.stored.status) and not (is_long and finder.is_near_end(estimate_s))
        if has_own or finder.is_plenty(max(estimate_s, 1e-6), surely=is_long):
            return True
        ahead_at = self._ahead_at()
        return ahead_at is not None and self._shared.clock.monotonic() >= ahead_at

    def _estimate_s(self, claim: Claim) -> float | None:
        return self._shared.durations.of(claim.digest) if claim.open else None

    def _ahead_at(self) -> float | None:
        if len(self._holdings.open) != 1 or self._feeder.n_jobs != 1 or self._backlog:
            return None
        return self._pace.claim_ahead_at(self._estimate_s(self._holdings.open[0]), self._feeder.started_at)

    # --- running ------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        self._feeder.grant = self._share.grant
        if self._feeder.feed():
            self._overrun.is_on = False

    def _hear(self) -> None:
        if self._feeder.hear():
            self._overrun.is_on = False
        if self._feeder.broken is not None:
            outcome, self._feeder.broken = self._feeder.broken, None
            self._broken(outcome)
        while self._feeder.refused:
            self._holdings.release([self._feeder.refused.pop()], refused=True)
        self._release_long_waits()
        self._holdings.heard()

    def _until_due_s(self) -> float:
        """Return how many seconds to wait for an event before the next due time."""
        now, claims = self._shared.clock.monotonic(), self._holdings.open
        if any(claim.all_ended for claim in claims):
            return 0.0
        dues = [now + self._shared.session.manifest.current.timings.commit_s]
        dues += [at for claim in claims if (at := self._holdings.commit_at(claim)) is not None]
        dues += [due for due in (self._backlog.next_try_at(), self._overrun.due_at()) if due is not None]
        ahead_at = self._ahead_at()
        if ahead_at is not None and ahead_at > now:
            dues.append(ahead_at)
        return max(0.0, min(dues) - now)

    # --- settling claims ----------------------------------------------------------------------------------------------

    def _release_unstarted(self) -> None:
        """Release the tasks that have not started; if the worker must stop, also those that wait for a retry."""
        self._holdings.release(self._feeder.take_unstarted(and_waiting=self._draining.is_set()))
        self._release_long_waits()

    def _release_long_waits(self) -> None:
        """Release failed tasks whose backoff is too long to hold them."""
        if self._backlog.long_waits:
            waits, self._backlog.long_waits = self._backlog.long_waits, []
            self._holdings.release_until(waits)

    def _commit_due(self) -> None:
        now = self._shared.clock.monotonic()
        for claim in list(self._holdings.open):
            at = self._holdings.commit_at(claim)
            if claim.all_ended:
                self._commit_last(claim)
            elif at is not None and now >= at:
                self._holdings.commit(claim)

    def _commit_last(self, claim: Claim) -> None:
        """Commit the last tasks of a slice, and claim the next slice in the same swap."""
        others = [other for other in self._holdings.open if other is not claim]
        wants_next = self._may_go_on() if not others else len(others) == 1 and self._wants_after(claim)
        wants_next = wants_next and self._acquirer.goes_on(claim.key)
        size = self._acquirer.slice_size(claim.stored.status) if wants_next else 0
        self._holdings.commit(claim, then=size, ahead=bool(others))
