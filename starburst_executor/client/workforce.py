"""A session's workers as its client sees them at the end: let go, stopped, waited for, counted, forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from starburst_executor.client.deaths import Deaths
from starburst_executor.client.handles import handle_of
from starburst_executor.client.money import check_cost
from starburst_executor.client.opening import own_launcher
from starburst_executor.clock import Backoff
from starburst_executor.launch.base import Launcher
from starburst_executor.protocol.records import WorkerBeat, WorkerState
from starburst_executor.session.beats import Beats
from starburst_executor.session.repair import Watcher
from starburst_executor.session.store import SessionStore

__all__ = ["Workforce"]

# How soon a worker that is told to go has mostly gone.
_LEAVING_S = 0.05


class Workforce:
    """The workers of one session. Called by one thread at a time, and by no other while the keeper's runs.

    Args:
        launcher: What has started them; None if others did.
    """

    def __init__(self, session: SessionStore, launcher: Launcher | None) -> None:
        self._session = session
        self._launcher = launcher
        self._deaths = Deaths(session, launcher)
        self._reader = Beats(session)
        self._beats: list[WorkerBeat] = []

    def check(self, n_slots: int, *, cost_alert_threshold: float | None) -> None:
        """Refuse a number that the launcher would refuse, or that costs too much. Raises: ConfigError, BudgetExceeded."""
        if self._launcher is not None:
            self._launcher.check(n_slots)
        limit = self._session.manifest.max_hourly_cost
        check_cost(self._launcher, n_slots, max_hourly_cost=limit, cost_alert_threshold=cost_alert_threshold)

    def dead(self, beats: Iterable[WorkerBeat]) -> set[str]:
        """Workers that are certainly dead, whatever their last beats say."""
        return self._deaths.known(beats)

    def let_go(self) -> None:
        """The client ends: workers bound to it end too, detached ones go on."""
        for launcher, handle in self._handles():
            launcher.let_go(handle)

    def kill(self) -> None:
        """Stop the workers that this client has started, at once, without asking the store for any others."""
        for launcher, handle in self._handles():
            launcher.stop(handle, at_once=True)

    def stop(self) -> None:
        """Stop exactly this session's workers, at once, those that other clients started included."""
        # An empty ring: idle workers elsewhere look at the manifest at once.
        self._session.ring((), 1)
        for launcher, handle in self._all_handles():
            launcher.stop(handle, at_once=True)

    def forget(self) -> None:
        """Remove what launchers keep of them, such as log files."""
        for launcher, handle in self._all_handles():
            launcher.forget(handle)

    def wait_until_gone(self, buried: frozenset[str]) -> None:
        """Wait until no worker can write any more: each has left, was seen dead, or is lost.

        Args:
            buried: Workers that were seen dead before.

        Store: 1 LIST twice and 1 GET for each worker that has beaten since, again, at longer and longer intervals up to
        `look_s`, until they are gone.
        """
        session = self._session
        timings = session.manifest.timings
        watcher = Watcher(session, timings.looks_until_lost)
        watcher.watch.dead |= buried
        never, next_look = threading.Event(), session.clock.monotonic()
        # Looks count only if they are apart; that a worker has left is seen at any time.
        backoff = Backoff(session.clock, _LEAVING_S, timings.look_s)
        while True:
            if session.clock.monotonic() >= next_look:
                watcher.look()
                next_look = session.clock.monotonic() + timings.look_s
            beats = self._read()
            # Engines far away take their time to stop what was to be stopped: each round asks again.
            watcher.watch.dead |= self.dead(beats)
            left = {beat.worker_id for beat in beats if beat.state == WorkerState.LEFT}
            # One whose beat cannot be read is judged by its silence, as any other.
            if all(worker_id in left or watcher.watch.is_lost(worker_id) for worker_id in watcher.listed):
                return
            session.clock.wait(never, min(backoff.next_s(), max(0.0, next_look - session.clock.monotonic())))

    def beats(self, *, fresh: bool) -> list[WorkerBeat]:
        """The last beats of all of them; `fresh`: as they are now. Store: 1 LIST, 1 GET for each that has changed."""
        return self._read() if fresh else self._beats

    def _read(self) -> list[WorkerBeat]:
        self._beats = self._reader.read()
        return self._beats

    def _handles(self) -> Iterator[tuple[Launcher, str]]:
        if self._launcher is not None:
            yield from self._handles_of(self._launcher)

    def _all_handles(self) -> Iterator[tuple[Launcher, str]]:
        """Also those of the session's own launcher where this client has another one, or none."""
        yield from self._handles()
        name = None if self._launcher is None else self._launcher.name
        if all(launch.launcher == name for launch in self._session.manifest.launches):
            return
        own = own_launcher(self._session)
        if own is not None and own.name != name:
            yield from self._handles_of(own)

    def _handles_of(self, launcher: Launcher) -> Iterator[tuple[Launcher, str]]:
        for launch in self._session.manifest.launches:
            if launch.launcher == launcher.name and (handle := handle_of(self._session.sealer, launch)):
                yield launcher, handle
