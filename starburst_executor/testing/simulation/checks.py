"""Checks during and after a run: that everything makes progress, and that futures agree with the store."""

from __future__ import annotations

from starburst_executor.client.future import StarburstFuture
from starburst_executor.errors import (
    ExecutorBroken,
    SessionExpired,
    SessionNotFound,
    StoreUnavailable,
)
from starburst_executor.protocol.keys import SESSIONS, worker_of
from starburst_executor.protocol.spans.record import BLOCKED, State
from starburst_executor.testing.simulation.plot import LOST_S, TIMINGS
from starburst_executor.testing.simulation.tasks import value_name
from starburst_executor.testing.simulation.world import World, is_done

__all__ = ["Watch", "check_done", "check_end"]

_WATCH_S = 2.0
# Each bound is the promised time plus the time that one lost race or one slow pass may add.
_ORPHAN_S = (4 * TIMINGS.looks_until_lost * TIMINGS.look_s + TIMINGS.rank_s) * 1.4
_FOUND_S = 60.0
# A slot that has no work gives its permit back at once; a worker stays for 20 s.
_UNUSED_S = 10.0


class Watch:
    """Checks regularly that nothing waits for longer than promised."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._orphaned: dict[tuple[str, str], float] = {}
        self._pending: dict[str, float] = {}
        self._unused: dict[str, float] = {}
        self._watched_since = 0.0

    def start(self) -> None:
        """Start checking."""
        self._world.scheduler.at(_WATCH_S, self._look)

    def _look(self) -> None:
        oracle, now = self._world.oracle, self._world.scheduler.now
        if self._world.has_failed:
            return
        self.start()
        manifest = oracle.manifest
        if manifest is None or manifest.state.is_over or now < self._world.vault.away_until:
            self._orphaned.clear()
            self._pending.clear()
            self._watched_since = now
            return
        unheld = oracle.unheld()
        if unheld is not None:
            self._world.fail(f"a claim stands that its own worker does not know of: {unheld}")
            return
        live = [w for w in self._world.workers.values() if w.is_alive and not w.is_stopped]
        if not live and not any(c.is_alive and c.executor is not None for c in self._world.clients):
            self._watched_since = now
        since = max(self._watched_since, self._world.last_trouble_at)
        orphans = set()
        pending = set()
        for key, seen in oracle.statuses.items():
            for span in seen.spans:
                if span.state == State.CLAIMED:
                    worker = self._world.workers.get(worker_of(span.claim))
                    if worker is None or not worker.is_alive or span.claim not in worker.held():
                        orphans.add((key, span.claim))
                elif span.state == State.PENDING and not span.is_suspect and not self._is_limited(key):
                    pending.add(key)
            for start, span in seen.placed():
                positions = range(start, start + span.n) if span.state == BLOCKED else ()
                if any(oracle.is_released(seen, position) for position in positions):
                    pending.add(key)
        self._orphaned = {one: self._orphaned.get(one, now) for one in orphans}
        self._pending = {one: self._pending.get(one, now) for one in pending}
        for one, orphaned_at in self._orphaned.items():
            if now - max(orphaned_at, since) > _ORPHAN_S:
                self._world.fail(f"a claim that no worker works on stood for too long: {one}")
                return
        idle = {w.worker_id for w in live if w.is_idle()}
        held = [permit for record in oracle.limits.found.values() for permit in record.holders]
        self._unused = {one: self._unused.get(one, now) for one in held if worker_of(one) in idle}
        for permit, unused_at in self._unused.items():
            # An answer may come that late.
            disturbed_at = self._world.workers[worker_of(permit)].was_disturbed_at + 2 * LOST_S
            if now - max(unused_at, since, disturbed_at) > _UNUSED_S:
                self._world.fail(f"an idle worker keeps a permit: {permit}")
                return
        if not any(w.is_idle() and now - w.started_at > _FOUND_S for w in live):
            self._pending.clear()
        for key, pending_at in self._pending.items():
            if now - max(pending_at, since) > _FOUND_S:
                self._world.fail(f"a pending task was not found by an idle worker: {key}")
                return

    def _is_limited(self, key: str) -> bool:
        ref = self._world.oracle.keys.parse_status(key)
        return ref is not None and bool(ref.limit) and self._world.oracle.limits.is_full(ref.limit)


def check_done(world: World, futures: list[StarburstFuture[str]]) -> None:
    """Check that every future is done and agrees with the store."""
    for future in futures:
        if is_done(future):
            _check_future(world, future)
        else:
            world.fail(f"a future is not done: task={future.task_id}")


def _check_future(world: World, future: StarburstFuture[str]) -> None:
    world.report.counts["futures checked"] += 1
    words = _judged(world, future)
    if words:
        world.fail(f"{words}: task={future.task_id}")


def _judged(world: World, future: StarburstFuture[str]) -> str:
    """Return what is wrong with the end of a future; empty if it is allowed."""
    oracle = world.oracle
    is_over = oracle.manifest is None or oracle.manifest.state.is_over
    # A future of an earlier run may have seen the end of a later run, but not the reverse.
    ends = [entry for (task, run), entry in oracle.ended.items() if task == future.task_id and run >= future.run]
    states = {entry.state for entry in ends}
    if future.cancelled():
        is_right = is_over or State.CANCELLED in states or future.task_id not in oracle.tasks
        return "" if is_right else "a future was cancelled and its task was not"
    error = future.exception()
    if error is None:
        name = value_name(future.result())
        execution = oracle.executions.get(name)
        if execution is None or execution.task_id != future.task_id:
            return f"a future has another task's value ({name})"
        is_right = any(e.state == State.COMPLETED and e.attempt == execution.attempt for e in ends)
        return "" if is_right else f"a future has a value that was never committed ({name})"
    if isinstance(error, (SessionExpired, ExecutorBroken)):
        return "" if is_over else f"a future says that the session is over and it is not ({error})"
    if isinstance(error, (StoreUnavailable, SessionNotFound)) and world.report.troubles:
        # A client that cannot continue fails its futures; this is allowed only after a fault.
        return ""
    return "" if State.FAILED in states else f"a future failed and its task did not ({type(error).__name__}: {error})"


def check_end(world: World) -> None:
    """Check what must hold after every process has ended."""
    oracle, plot = world.oracle, world.plot
    if world.has_failed:
        return
    left = [key for key in world.vault.objects if key.startswith(SESSIONS) and key not in world.vault.landed_late]
    if left and plot.is_detached and plot.ends_with == "cleanup":
        world.fail(f"cleanup has left objects behind: {left[:5]}")
    for key, seen in oracle.statuses.items():
        # A dead client's request may land after all processes have ended; the next client that attaches ends such tasks.
        is_known = plot.is_detached and key not in oracle.born_late
        if is_known and not all(span.has_ended for span in seen.spans):
            world.fail(f"tasks of {key} have not ended")
    for future in world.futures:
        if is_done(future):
            _check_future(world, future)
    _check_requests(world)


def _check_requests(world: World) -> None:
    counts = world.oracle.counts
    lived_s = sum((p.ended_at or 0.0) - p.started_at for p in world.processes())
    n_troubles = sum(world.report.troubles.values())
    world.report.counts["process seconds"] = int(lived_s)
    allowed = 300 + 3.0 * lived_s + 20 * (counts["claims"] + counts["tasks"]) + 40 * n_troubles
    if world.vault.n_requests > allowed:
        world.fail(f"too many requests: {world.vault.n_requests}, allowed={allowed:.0f}")
