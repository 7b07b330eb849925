"""A client's life signs and its care for the workers: beat, watch, repair; `starter.py` replaces who is missing.

Owned by one thread of the engine, which calls `turn` often; each part knows when it is due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from starburst_executor.client.handles import handle_of
from starburst_executor.client.starter import Starter
from starburst_executor.errors import ObjectNotFound, StoreUnavailable
from starburst_executor.launch.base import Launcher, Order
from starburst_executor.protocol.records import ClientBeat
from starburst_executor.session.budget import Budget
from starburst_executor.session.own import OwnObject
from starburst_executor.session.repair import Watcher, end_what_is_left, read_beat
from starburst_executor.session.store import SessionStore

__all__ = ["ClientKeeper"]

_log = logging.getLogger(__name__)

# How often the launcher is asked who died; for local workers that is one `waitpid` each.
_DEATHS_S = 0.1


class ClientKeeper:
    """Keeps a session going while its client is attached. Not thread-safe.

    Args:
        launcher: Starts workers; None if others start them.
        order: What to start, for a launch's id and a number of slots.
        needs_workers: Whether there is work that is not done.
    """

    def __init__(
        self,
        session: SessionStore,
        client_id: str,
        launcher: Launcher | None,
        *,
        order: Callable[[str, int], Order],
        needs_workers: Callable[[], bool],
    ) -> None:
        self._session = session
        self._client_id = client_id
        self._launcher = launcher
        self._clock = session.clock
        self._timings = session.manifest.timings
        self._watcher = Watcher(session, self._timings.looks_until_lost)
        self._budget = Budget(session)
        self._beat = ClientBeat(client_id, 0, self._clock.now())
        self._own = OwnObject(session.store, session.keys.client(client_id), session.clock)
        self._next_beat = self._next_deaths = float("-inf")
        self._n_looks = 0
        self._buried: set[str] = set()
        self._is_renumbered = False
        self._starter = None
        if launcher is not None:
            self._starter = Starter(session, launcher, order=order, needs_workers=needs_workers, watcher=self._watcher)

    def turn(self) -> float:
        """Do what is due; how long until something is again, in seconds.

        Raises: SessionNotFound if the session was deleted.
        Store: nothing mostly; each beat interval 1 swap, 1 LIST, 1 GET; each fourth a repair.
        """
        now = self._clock.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._timings.beat_s
            self._beat_and_look()
        if self._starter is not None and (now >= self._next_deaths or self.awaits_work):
            self._next_deaths = now + _DEATHS_S
            self._bury()
            if self._is_renumbered:
                self._is_renumbered = False
                self._starter.drain_surplus()
            self._starter.turn()
        ring_s = self._session.ring_due()
        waits = [self._next_beat - now, _DEATHS_S if self._starter is not None else self._timings.beat_s]
        return max(0.0, min(waits + ([] if ring_s is None else [ring_s])))

    @property
    def awaits_work(self) -> bool:
        """Nobody has been started, for want of work: whoever brings some should have `turn` called at once."""
        return self._starter is not None and self._starter.awaits_work

    @property
    def buried(self) -> frozenset[str]:
        """Workers whose death the launcher has seen, those included that the manifest names no more."""
        return frozenset(self._buried)

    def see_worker_stay(self) -> None:
        """Before a client leaves work behind: start workers if there are none, and hear of one.

        Raises: LaunchError if none could be started.
        """
        if self._starter is not None:
            self._starter.see_worker_stay(self._bury, _DEATHS_S / 2)

    def renumber(self) -> None:
        """The number of workers has been changed: drain those that are too many, at the next turn. Thread-safe."""
        self._is_renumbered = True

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
        self._session.expire_if_due()
        manifest = self._budget.keep(watches=True, dead=self._buried)
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

    def _bury(self) -> None:
        """Take back at once what a worker held whose death the launcher saw."""
        launcher, starter = self._launcher, self._starter
        if launcher is None or starter is None:
            return
        deaths = [
            death
            for launch in self._session.manifest.launches
            if launch.launcher == launcher.name and (handle := handle_of(self._session.sealer, launch))
            for death in launcher.deaths(handle)
            if death.worker_id not in self._buried
        ]
        if not deaths:
            return
        for death in deaths:
            self._buried.add(death.worker_id)
            self._watcher.watch.dead.add(death.worker_id)
            self._watcher.words[death.worker_id] = death.words
            beat = read_beat(self._session, self._session.keys.worker(death.worker_id))
            starter.saw_death(death, heard=beat is not None)
        self._repair()
        manifest = self._session.refresh()
        if manifest.state.is_over:
            end_what_is_left(self._session, manifest)
