"""A client's life signs and its care for the workers: beat, watch, repair, replace.

Owned by one thread of the engine, which calls `turn` often; each part knows when it is due. Before workers are started
an intent is swapped into the manifest, so that two clients do not both start them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from starburst_executor.errors import (
    ConfigError,
    LaunchError,
    ObjectNotFound,
    StoreUnavailable,
)
from starburst_executor.launch.base import Death, Launcher, Order
from starburst_executor.protocol.records import ClientBeat, Launch, Manifest, SessionState
from starburst_executor.store.own import OwnObject
from starburst_executor.store.repair import Watcher, end_what_is_left, read_beat
from starburst_executor.store.session import SessionStore

__all__ = ["ClientKeeper"]

_log = logging.getLogger(__name__)

# Workers that die so often in a row before their first beat will not do better the next time.
_FUTILE_STARTS = 3
# How often the launcher is asked who died; for local workers that is one `waitpid` each.
_DEATHS_S = 0.1
# How often to look whether a worker that was started has been heard of.
_HEARING_S = 0.5
# An intent without a handle that old was left by a client that died in between.
_INTENT_S = 20.0


class ClientKeeper:
    """Keeps a session going while its client is attached. Not thread-safe.

    Args:
        launcher: Starts workers; None if others start them.
        order: What to start, for a number of slots.
        needs_workers: Whether there is work that is not done.

    Attributes:
        awaits_work: Nobody has been started, for want of work: whoever brings some should have `turn` called at once.
    """

    def __init__(
        self,
        session: SessionStore,
        client_id: str,
        launcher: Launcher | None,
        *,
        order: Callable[[int], Order],
        needs_workers: Callable[[], bool],
    ) -> None:
        self._session = session
        self._client_id = client_id
        self._launcher = launcher
        self._order = order
        self._needs_workers = needs_workers
        self._clock = session.clock
        self._timings = session.manifest.timings
        self._watcher = Watcher(session, self._timings.looks_until_lost)
        self._beat = ClientBeat(client_id, 0, self._clock.now())
        self._own = OwnObject(session.store, session.keys.client(client_id), session.clock)
        self._next_beat = self._next_deaths = float("-inf")
        self._n_looks = 0
        self._n_futile = 0
        self._buried: set[str] = set()
        self._launched_at: float | None = None
        self._heard = False
        self._before: frozenset[str] = frozenset()
        self._next_start = float("-inf")
        self._next_hearing = float("-inf")
        self._is_renumbered = False
        self.awaits_work = False
        self._never = threading.Event()

    def turn(self) -> float:
        """Do what is due; how long until something is again, in seconds.

        Raises: SessionNotFound if the session was deleted.
        Store: nothing mostly; each beat interval 1 swap, 1 LIST, 1 GET; each fourth a repair.
        """
        now = self._clock.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._timings.beat_s
            self._beat_and_look()
        if self._launcher is not None and (now >= self._next_deaths or self.awaits_work):
            self._next_deaths = now + _DEATHS_S
            self._bury(self._launcher)
            if self._is_renumbered:
                self._is_renumbered = False
                self._drain_surplus(self._launcher)
            self._keep_number(self._launcher)
        ring_s = self._session.ring_due()
        waits = [self._next_beat - now, _DEATHS_S if self._launcher is not None else self._timings.beat_s]
        return max(0.0, min(waits + ([] if ring_s is None else [ring_s])))

    @property
    def buried(self) -> frozenset[str]:
        """Workers whose death the launcher has seen, those included that the manifest names no more."""
        return frozenset(self._buried)

    def see_worker_stay(self) -> None:
        """Before a client leaves work behind: start workers if there are none, and hear of one.

        Raises: LaunchError if none could be started.
        """
        launcher = self._launcher
        if launcher is None:
            return
        self._keep_number(launcher)
        while not self._heard and self._session.manifest.state == SessionState.OPEN:
            self._bury(launcher)
            self._keep_number(launcher)
            self._clock.wait(self._never, _DEATHS_S / 2)
        if self._session.manifest.state == SessionState.BROKEN:
            raise LaunchError(self._session.manifest.reason)

    def renumber(self) -> None:
        """The number of workers has been changed: drain those that are too many, at the next turn. Thread-safe."""
        self._is_renumbered = True

    def _drain_surplus(self, launcher: Launcher) -> None:
        manifest = self._session.manifest
        surplus = self._n_slots_alive(launcher, manifest) - manifest.workers
        for launch in reversed(manifest.launches):
            n_slots = self._slots_of(launcher, launch)
            if surplus > 0 and launch.handle and launch.launcher == launcher.name and n_slots:
                launcher.stop(launch.handle, at_once=False)
                surplus -= n_slots

    def leave(self) -> None:
        """The last beat. Store: 1 swap, if there was a beat."""
        if not self._own.is_written:
            return
        with suppress(ObjectNotFound):
            # The session may have been deleted by another client: there is nothing left to leave.
            self._write(left=True)

    def beat(self) -> None:
        """Be known as an attached client. Store: 1 create or 1 swap."""
        self._write(left=False)

    # --- beats and looks ----------------------------------------------------------------------------------------------

    def _beat_and_look(self) -> None:
        try:
            self.beat()
            self._watcher.look()
        except StoreUnavailable:
            self._watcher.watch.failed()
            raise
        self._n_looks += 1
        if self._n_looks % self._timings.looks_until_lost == 0:
            self._repair()
        self._session.refresh()
        manifest = self._session.expire_if_due()
        if manifest.state.is_over:
            end_what_is_left(self._session, manifest)

    def _repair(self) -> None:
        n_tasks = self._watcher.repair()
        if n_tasks:
            _log.warning("took back tasks of lost workers: tasks=%d, session=%s", n_tasks, self._session.session_id)

    def _write(self, *, left: bool) -> None:
        self._beat = replace(self._beat, number=self._beat.number + 1, at=self._clock.now(), left=left)
        self._own.write(self._beat)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _bury(self, launcher: Launcher) -> None:
        """Take back at once what a worker held whose death the launcher saw."""
        deaths = [
            death
            for launch in self._session.manifest.launches
            if launch.handle and launch.launcher == launcher.name
            for death in launcher.deaths(launch.handle)
            if death.worker_id not in self._buried
        ]
        if not deaths:
            return
        for death in deaths:
            self._buried.add(death.worker_id)
            self._watcher.watch.dead.add(death.worker_id)
            self._watcher.words[death.worker_id] = death.words
            self._count_futile(death)
        self._repair()
        manifest = self._session.refresh()
        if manifest.state.is_over:
            end_what_is_left(self._session, manifest)

    def _count_futile(self, death: Death) -> None:
        heard = read_beat(self._session, self._session.keys.worker(death.worker_id)) is not None
        self._n_futile = 0 if heard else self._n_futile + 1
        level = logging.INFO if heard else logging.WARNING
        _log.log(level, "a worker has ended: worker=%s, %s", death.worker_id, death.words or "no last words")
        if self._n_futile >= _FUTILE_STARTS:
            self._could_not_start(f"no worker could be started: {death.words}", 0)

    def _keep_number(self, launcher: Launcher) -> None:
        """Start as many workers as are missing, if there is work for them."""
        manifest = self._session.manifest
        needs_workers = self._needs_workers()
        self.awaits_work = not needs_workers and not manifest.launches
        if manifest.state != SessionState.OPEN or not needs_workers:
            return
        if self._clock.monotonic() < self._next_start:
            return
        missing = manifest.workers - self._n_slots_alive(launcher, manifest)
        if missing <= 0:
            self._check_first_beat(launcher)
            return
        launch = Launch(self._clock.new_id(), launcher.name, missing, "", self._clock.now())

        def intend(current: Manifest) -> Manifest | None:
            # Whoever lands first starts; the other sees it here.
            if current.state != SessionState.OPEN or current.workers - self._n_slots_alive(launcher, current) < missing:
                return None
            kept = tuple(one for one in current.launches if self._slots_of(launcher, one))
            return replace(current, launches=(*kept, launch))

        # Crash here: an intent without a handle; after twenty seconds it counts no more and the next client starts anew.
        if launch not in self._session.change(intend).launches:
            return
        # Beats of workers that were there before say nothing of those that are started now.
        self._before = self._worker_keys()
        try:
            handle = launcher.start(self._order(missing))
        except (LaunchError, ConfigError, OSError) as error:
            self._could_not_start(f"no worker could be started: {error}", missing)
            return
        self._launched_at, self._heard = self._clock.monotonic(), False

        def settle(current: Manifest) -> Manifest | None:
            started = replace(launch, handle=handle)
            if started in current.launches:
                return None
            # Also if the intent grew too old meanwhile and was dropped: these workers run, so they are to be found.
            return replace(current, launches=(*(one for one in current.launches if one != launch), started))

        # Crash here: workers run that no handle names; they are found by their beats and leave when idle.
        self._session.change(settle)

    def _could_not_start(self, reason: str, n_slots: int) -> None:
        """Break the session, unless others do the work: then try again in a while."""
        manifest = self._session.manifest
        n_others = sum(self._slots_of(self._launcher, launch) for launch in manifest.launches) if self._launcher else 0
        if n_others > n_slots:
            _log.warning("%s; the others go on: session=%s", reason, manifest.session_id)
            self._n_futile = 0
            self._next_start = self._clock.monotonic() + self._timings.launch_s
        else:
            self._break(reason)

    def _check_first_beat(self, launcher: Launcher) -> None:
        """Workers that live and say nothing for `launch_s` will not say anything."""
        if self._heard:
            return
        if self._launched_at is None:
            # Another client started them.
            self._launched_at = self._clock.monotonic()
        now = self._clock.monotonic()
        if now < self._next_hearing:
            return
        self._next_hearing = now + _HEARING_S
        keys = self._worker_keys()
        if keys - self._before:
            self._heard = True
        elif self._clock.monotonic() - self._launched_at <= self._timings.launch_s:
            return
        elif any(map(self._is_alive, keys)):
            # The others do the work.
            self._heard = True
        else:
            self._break(f"no worker of launcher {launcher.name!r} was heard of within {self._timings.launch_s:g} s")

    def _is_alive(self, worker_key: str) -> bool:
        return not self._watcher.watch.is_lost(worker_key.rpartition("/")[2])

    def _worker_keys(self) -> frozenset[str]:
        return frozenset(line.key for line in self._session.store.list(self._session.keys.workers))

    def _n_slots_alive(self, launcher: Launcher, manifest: Manifest) -> int:
        return sum(self._slots_of(launcher, launch) for launch in manifest.launches)

    def _slots_of(self, launcher: Launcher, launch: Launch) -> int:
        """How many slots of these workers are there, or on their way."""
        if launch.launcher != launcher.name:
            # Nobody here can ask that launcher: its workers count as long as any worker is heard of.
            is_young = self._clock.now() - launch.at < self._timings.launch_s
            return launch.slots if is_young or self._watcher.watch.living() else 0
        if not launch.handle:
            return launch.slots if self._clock.now() - launch.at < _INTENT_S else 0
        return launcher.slots_alive(launch.handle)

    def _break(self, reason: str) -> None:
        manifest = self._session.end(SessionState.BROKEN, reason)
        end_what_is_left(self._session, manifest)
