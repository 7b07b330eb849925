"""Finds the workers that are certainly dead, by every means of this client, with any launcher and from any client.

    handles of this client's launcher ──► the platform's report
    handles of local launches         ──► process id and start time, on this machine only
    handles of the session's launcher ──► the platform's report; read only by `known`, since it may cost a request
    beats that name their process     ──► process id and start time, also if no handle names the process any more

Guarantee: a worker whose state is unknown does not count as dead: it is judged by its beats, as everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import cached_property

from starburst_executor.client.handles import workers_of
from starburst_executor.client.opening import own_launcher
from starburst_executor.launch.base import Death, Launcher
from starburst_executor.launch.local.launcher import Local, LocalLauncher
from starburst_executor.launch.local.processes import has_ended
from starburst_executor.protocol.records import WorkerBeat
from starburst_executor.session.store import SessionStore

__all__ = ["Deaths"]

_log = logging.getLogger(__name__)


class Deaths:
    """The deaths that one client can see in its session. As thread-safe as its launchers."""

    def __init__(self, session: SessionStore, launcher: Launcher | None) -> None:
        self._session = session
        self._launcher = launcher

    @property
    def are_seen(self) -> bool:
        """Whether any death can be seen without a request that costs money."""
        return self._launcher is not None or self._has_local

    def seen(self) -> list[tuple[Death, bool]]:
        """Return the deaths that can be seen without cost, each with whether this client's own launcher started the worker."""
        launcher, deaths = self._launcher, []
        if launcher is not None:
            deaths += [(death, True) for death in self._of(launcher)]
        if self._has_local and (launcher is None or launcher.name != LocalLauncher.name):
            deaths += [(death, False) for death in self._of(self._local)]
        return deaths

    def known(self, beats: Iterable[WorkerBeat]) -> set[str]:
        """Return the ids of all workers that are known to be dead. Also asks the session's launcher, if it is another one."""
        dead = {death.worker_id for death, _ in self.seen()}
        dead |= {beat.worker_id for beat in beats if has_ended(beat.process)}
        own = self._others()
        if own is not None:
            try:
                dead |= {death.worker_id for death in self._of(own)}
            except Exception as error:
                # This client has another launcher, or none, and may lack the rights to ask that one.
                _log.info("the session's launcher could not report dead workers: %s", error)
        return dead

    def _others(self) -> Launcher | None:
        """Return the session's launcher if this client has another one, or none, and it has started workers; else None."""
        name = None if self._launcher is None else self._launcher.name
        if all(launch.launcher in (name, LocalLauncher.name) for launch in self._session.manifest.current.launches):
            return None
        own = self._own
        return None if own is None or own.name == name else own

    @cached_property
    def _own(self) -> Launcher | None:
        return own_launcher(self._session)

    @cached_property
    def _local(self) -> Launcher:
        return Local().open(self._session.clock)

    @property
    def _has_local(self) -> bool:
        return any(launch.launcher == LocalLauncher.name for launch in self._session.manifest.current.launches)

    def _of(self, launcher: Launcher) -> Iterator[Death]:
        for launch in self._session.manifest.current.launches:
            if (workers := workers_of(self._session.sealer, launcher, launch)) is not None:
                yield from workers.deaths()
