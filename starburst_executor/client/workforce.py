"""The workers of a session, for the client's end and its reports: releases, stops, awaits and counts them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from starburst_executor.client.deaths import Deaths
from starburst_executor.client.handles import workers_of
from starburst_executor.client.money import check_cost
from starburst_executor.client.opening import own_launcher
from starburst_executor.clock import Backoff
from starburst_executor.launch.base import Launcher, Workers
from starburst_executor.protocol.records import WorkerBeat, WorkerState
from starburst_executor.session.beats import Beats
from starburst_executor.session.repair import Watcher
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import Urgency

__all__ = ["Workforce"]

# The first pause: most workers have left within this time after they were stopped.
_LEAVING_S = 0.05


class Workforce:
    """The workers of one session. Called by one thread at a time, and by no other while the keeper's runs.

    Args:
        launcher: This client's launcher; None if it starts no workers.
    """

    def __init__(self, session: SessionStore, launcher: Launcher | None) -> None:
        self._session = session
        self._launcher = launcher
        self._deaths = Deaths(session, launcher)
        self._reader = Beats(session)
        self._beats: list[WorkerBeat] = []

    def check(self, n_slots: int, *, cost_alert_threshold: float | None) -> None:
        """Check a number of slots against the launcher and the cost limit. Raises: ConfigError, BudgetExceeded."""
        if self._launcher is not None:
            self._launcher.check(n_slots)
        limit = self._session.manifest.current.max_hourly_cost
        check_cost(self._launcher, n_slots, max_hourly_cost=limit, cost_alert_threshold=cost_alert_threshold)

    def dead(self, beats: Iterable[WorkerBeat]) -> set[str]:
        """Return the ids of workers that are certainly dead, regardless of their last beats."""
        return self._deaths.known(beats)

    def let_go(self) -> None:
        """Release this client's workers at its end: workers bound to it end too, detached ones continue."""
        for workers in self._own():
            workers.let_go()

    def kill(self) -> None:
        """Kill the workers that this client's launcher has started. Makes no store request."""
        for workers in self._own():
            workers.kill()

    def end_session(self) -> None:
        """Kill this session's workers and no others, including those that other clients started; none starts any more."""
        # A ring without keys: idle workers elsewhere read the manifest at once.
        # Once in a session's life, and a person waits for it: it does not queue behind a store that is busy.
        self._session.bell.ring((), 1, Urgency.VITAL)
        for workers in self._all():
            workers.end_session()

    def forget(self) -> None:
        """Remove the files that launchers keep for them, such as logs."""
        for workers in self._all():
            workers.forget()

    def wait_until_gone(self, buried: frozenset[str]) -> None:
        """Wait until no worker can write any more: each has left, was seen dead, or is lost.

        Args:
            buried: Workers that were seen dead before.

        Store: per round 2 LIST and 1 GET for each worker that has beaten since the last round, at growing intervals up to
        `look_s`, until all are gone.
        """
        session = self._session
        timings = session.manifest.current.timings
        watcher = Watcher(session, timings.looks_until_lost)
        watcher.watch.dead |= buried
        never, next_look = threading.Event(), session.clock.monotonic()
        # Assumes: looks count towards a loss only if `look_s` lies between them; that a worker has left may be read at any time.
        backoff = Backoff(session.clock, _LEAVING_S, timings.look_s)
        while True:
            if session.clock.monotonic() >= next_look:
                watcher.look()
                next_look = session.clock.monotonic() + timings.look_s
            beats = self._read()
            # AWS takes a while to stop workers: ask for deaths in each round.
            watcher.watch.dead |= self.dead(beats)
            left = {beat.worker_id for beat in beats if beat.state == WorkerState.LEFT}
            # A worker whose beat cannot be read is judged by its silence, as any other.
            if all(worker_id in left or watcher.watch.is_lost(worker_id) for worker_id in watcher.listed):
                return
            session.clock.wait(never, min(backoff.next_s(), max(0.0, next_look - session.clock.monotonic())))

    def beats(self, *, fresh: bool) -> list[WorkerBeat]:
        """Return the last beats of all workers; with `fresh`, the current ones.

        Store: nothing; with `fresh` 1 LIST, 1 GET for each beat that has changed.
        """
        return self._read() if fresh else self._beats

    def _read(self) -> list[WorkerBeat]:
        self._beats = self._reader.read()
        return self._beats

    def _own(self) -> Iterator[Workers]:
        """Yield the workers of each launch of this client's launcher."""
        if self._launcher is not None:
            yield from self._of(self._launcher)

    def _all(self) -> Iterator[Workers]:
        """Yield also those of the session's launcher, if this client has another one, or none."""
        yield from self._own()
        name = None if self._launcher is None else self._launcher.name
        if all(launch.launcher == name for launch in self._session.manifest.current.launches):
            return
        sessions_own = own_launcher(self._session)
        if sessions_own is not None and sessions_own.name != name:
            yield from self._of(sessions_own)

    def _of(self, launcher: Launcher) -> Iterator[Workers]:
        for launch in self._session.manifest.current.launches:
            if (workers := workers_of(self._session.sealer, launcher, launch)) is not None:
                yield workers
