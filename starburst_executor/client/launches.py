"""The launches in a session's manifest as one client counts them: their handles, their live slots, and who works on each.

An unsettled launch counts in full while its client works on it. A client that has left or is dead no longer works on its
launch, which another client then takes over. If the client's state is unknown, its launch counts as abandoned after twenty
looks, one a second, without a renewal.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from itertools import chain

from starburst_executor.client.handles import handle_of, workers_of
from starburst_executor.launch.base import Launcher, Workers
from starburst_executor.launch.local.processes import has_ended
from starburst_executor.protocol.money import is_of
from starburst_executor.protocol.records import Launch, Manifest, WorkerBeat
from starburst_executor.session.beats import Beats, read_client_beat
from starburst_executor.session.repair import Watcher
from starburst_executor.session.store import SessionStore

__all__ = ["Launches"]

# An unsettled launch that was not renewed over this number of looks, one a second, was left by a client that died.
_ABANDONED_LOOKS = 20
_INTENT_LOOK_S = 1.0


@dataclass(slots=True)
class _Intent:
    """Another client's unsettled launch: the number of looks without a renewal, and whether that client is gone."""

    n_looks: int
    is_left: bool


class Launches:
    """Counts the launches of a session. Not thread-safe.

    Args:
        watcher: Knows which workers have beaten.

    Attributes:
        own_id: The id of the launch that this client is working on; empty if there is none.
        buried: The workers whose death this client has taken account of; None if it does not.
    """

    def __init__(self, session: SessionStore, launcher: Launcher, client_id: str, watcher: Watcher) -> None:
        self._session = session
        self._launcher = launcher
        self._client_id = client_id
        self._watcher = watcher
        self._clock = session.clock
        self._launch_s = session.manifest.current.timings.launch_s
        self._beats = Beats(session)
        self._intents: dict[tuple[str, float], _Intent] = {}  # by launch and its renewal
        self._next_intent_look = float("-inf")
        self.own_id = ""
        self.buried: Container[str] | None = None

    def handle_of(self, launch: Launch) -> str:
        """Return the handle of a launch; empty if it has none yet, or one that no holder of the key wrote."""
        return handle_of(self._session.sealer, launch)

    def workers_of(self, launch: Launch) -> Workers | None:
        """Return the workers of a launch; None if another launcher started it, or it has no handle yet."""
        return workers_of(self._session.sealer, self._launcher, launch)

    def workers(self, manifest: Manifest) -> list[Workers]:
        """Return the workers of all launches of this client's launcher, oldest first."""
        return [workers for launch in manifest.launches if (workers := self.workers_of(launch)) is not None]

    # --- slots --------------------------------------------------------------------------------------------------------

    def n_slots_alive(self, manifest: Manifest) -> int:
        """Return the number of slots of all launches that are alive or on their way."""
        return sum(map(self.slots_of, manifest.launches))

    def slots_of(self, launch: Launch) -> int:
        """Return the number of a launch's slots that are alive or on their way."""
        if not self._is_ours(launch):
            # This client cannot ask another launcher: its workers count while any worker of the session beats.
            is_young = self._clock.now() - launch.at < self._launch_s
            return launch.slots if is_young or self._watcher.watch.living() else 0
        if not launch.settled and not self.is_abandoned(launch):
            return launch.slots
        workers = self.workers_of(launch)
        return 0 if workers is None else workers.slots_alive()

    def has_unseen_deaths(self, manifest: Manifest) -> bool:
        """Whether a worker has died of which no account was taken: one that is replaced before that leaves no words and does not count."""
        buried = self.buried
        if buried is None:
            return False
        return any(death.worker_id not in buried for workers in self.workers(manifest) for death in workers.deaths())

    def drain_surplus(self) -> None:
        """Drain surplus workers, the newest first, after the number of workers was changed."""
        manifest = self._session.manifest.current
        surplus = self.n_slots_alive(manifest) - manifest.slots
        for launch in reversed(manifest.launches):
            workers = self.workers_of(launch)
            if surplus > 0 and workers is not None and self.slots_of(launch):
                surplus -= workers.shed(surplus)

    def drained(self) -> frozenset[str]:
        """Return the workers that were asked to leave, as far as their launches tell. Their beats may not say so yet."""
        found = (workers.drained() for workers in self.workers(self._session.manifest.current))
        return frozenset(chain.from_iterable(found))

    def beats_of_paid(self) -> list[WorkerBeat]:
        """Return the beats of the workers of launches that cost money and have no workers left.

        Store: usually nothing; 1 LIST, 1 GET for each of these workers, once.
        """
        launches = self._session.manifest.current.launches
        over = [launch for launch in launches if launch.usd_per_hour and not self.slots_of(launch)]
        return self._beats.read(lambda worker_id: any(is_of(launch, worker_id) for launch in over)) if over else []

    # --- interruptions ------------------------------------------------------------------------------------------------

    def counted(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the number of interruptions of each launch that the platform reports.

        Each client counts all interruptions that the platform still reports, and the highest count stays: two clients that
        see the same interruption do not count it twice.
        """
        launches = [
            replace(launch, n_taken=max(launch.n_taken, workers.interruptions()))
            if (workers := self.workers_of(launch)) is not None
            else launch
            for launch in manifest.launches
        ]
        return replace(manifest, launches=tuple(launches))

    def recounted(self, manifest: Manifest) -> Manifest | None:
        """As `counted`, but return None if nothing is new."""
        counted = self.counted(manifest)
        return None if counted == manifest else counted

    # --- other clients' launches --------------------------------------------------------------------------------------

    def is_abandoned(self, launch: Launch) -> bool:
        """Whether a launch is unsettled and no client is working on it."""
        if launch.settled or not self._is_ours(launch) or launch.launch_id == self.own_id:
            return False
        if launch.client in ("", self._client_id):
            return True
        intent = self._intents.get((launch.launch_id, launch.at))
        return intent is not None and (intent.is_left or intent.n_looks > _ABANDONED_LOOKS)

    def look_at_intents(self, manifest: Manifest) -> Manifest:
        """Check whether the other clients that are starting workers are still alive; return the current manifest.

        Guarantee: judged by this client's clock alone, and only looks that the store has answered count.
        """
        now = self._clock.monotonic()
        if now < self._next_intent_look or not any(map(self._is_anothers, manifest.launches)):
            return manifest
        manifest = self._session.manifest.refresh()
        self._next_intent_look = self._clock.monotonic() + _INTENT_LOOK_S
        looks = {key: intent.n_looks for key, intent in self._intents.items()}
        self._intents = {
            (launch.launch_id, launch.at): _Intent(
                looks.get((launch.launch_id, launch.at), 0) + 1, self._has_gone(launch.client)
            )
            for launch in manifest.launches
            if self._is_anothers(launch)
        }
        return manifest

    def _is_ours(self, launch: Launch) -> bool:
        """Whether this client's launcher started it, for this client or for another one."""
        return launch.launcher == self._launcher.name

    def _is_anothers(self, launch: Launch) -> bool:
        return (
            not launch.settled
            and self._is_ours(launch)
            and launch.client not in ("", self._client_id)
            and launch.launch_id != self.own_id
        )

    def _has_gone(self, client_id: str) -> bool:
        """Whether a client has written that it left, or its process on this machine has ended. Store: 1 GET."""
        beat = read_client_beat(self._session, client_id)
        return beat is not None and (beat.left or bool(has_ended(beat.process)))
