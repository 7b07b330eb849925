"""Which workers are certainly dead, by every means that this client has, whatever started them and whoever did.

    handles of this client's launcher ──► what its engine says
    handles of local launches         ──► process id and start time, if they are of this machine
    handles of the session's launcher ──► what that engine says: asked where an answer is waited for, since it may cost
    beats that name their process     ──► the same, also where no handle names it any more

Guarantee: what cannot be told is not dead: it is judged by its beats, as everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import cached_property

from starburst_executor.client.handles import handle_of
from starburst_executor.client.opening import own_launcher
from starburst_executor.launch.base import Death, Launcher
from starburst_executor.launch.local.launcher import Local
from starburst_executor.launch.local.processes import has_ended
from starburst_executor.protocol.records import WorkerBeat
from starburst_executor.session.store import SessionStore

__all__ = ["Deaths"]

_log = logging.getLogger(__name__)


class Deaths:
    """What one client can know of deaths in its session. As thread-safe as its launchers are."""

    def __init__(self, session: SessionStore, launcher: Launcher | None) -> None:
        self._session = session
        self._launcher = launcher

    @property
    def are_seen(self) -> bool:
        """Whether there is anything to ask at no cost."""
        return self._launcher is not None or self._has_local

    def seen(self) -> list[tuple[Death, bool]]:
        """Those that can be seen at no cost, and whether this client's own launcher started them."""
        launcher, found = self._launcher, []
        if launcher is not None:
            found += [(death, True) for death in self._of(launcher)]
        if self._has_local and (launcher is None or launcher.name != Local.name):
            found += [(death, False) for death in self._of(self._local)]
        return found

    def known(self, beats: Iterable[WorkerBeat]) -> set[str]:
        """The workers that are dead by any means: asks the session's own launcher too, which may be another one."""
        found = {death.worker_id for death, _ in self.seen()}
        found |= {beat.worker_id for beat in beats if has_ended(beat.process)}
        own = self._others()
        if own is not None:
            try:
                found |= {death.worker_id for death in self._of(own)}
            except Exception as error:
                # This client has another launcher, or none: it need not have the rights to ask that one.
                _log.info("the session's launcher could not be asked who died: %s", error)
        return found

    def _others(self) -> Launcher | None:
        """The session's own launcher where this client has another one, or none, and workers of it may be there."""
        mine = None if self._launcher is None else self._launcher.name
        if all(launch.launcher in (mine, Local.name) for launch in self._session.manifest.launches):
            return None
        own = self._own
        return None if own is None or own.name == mine else own

    @cached_property
    def _own(self) -> Launcher | None:
        return own_launcher(self._session)

    @cached_property
    def _local(self) -> Launcher:
        return Local(clock=self._session.clock)

    @property
    def _has_local(self) -> bool:
        return any(launch.launcher == Local.name for launch in self._session.manifest.launches)

    def _of(self, launcher: Launcher) -> Iterator[Death]:
        for launch in self._session.manifest.launches:
            if launch.launcher == launcher.name and (handle := handle_of(self._session.sealer, launch)):
                yield from launcher.deaths(handle)
