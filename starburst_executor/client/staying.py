"""Whether a worker stays: what a client makes sure of before it leaves work behind.

An idle worker that goes says LEAVING first and lists what is pending afterwards. So a worker whose newest beat says
neither LEAVING nor LEFT, as read after the tasks were acknowledged, lists after that and finds them. That it is alive at
all is a second question, since the last beat of the dead says what it said:

    beat read after the acknowledgement: LEAVING, LEFT ──────────► does not count
                                         IDLE, WORKING, and
        it has beaten again since, or claimed since,
        or its process is of this machine and lives  ────────────► it stays
        nothing of that (yet)  ──────────────────────────────────► wait: `beat_s` at the longest

Guarantee: a client that was told that a worker stays strands no task by leaving, unless that worker is killed.
"""

from __future__ import annotations

from collections.abc import Callable

from starburst_executor.client.handles import handle_of
from starburst_executor.clock import Backoff
from starburst_executor.launch.base import Launcher
from starburst_executor.launch.local.processes import has_ended
from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.records import WorkerBeat, WorkerState
from starburst_executor.session.repair import Watcher, read_beat
from starburst_executor.session.store import SessionStore

__all__ = ["Staying"]

# How soon a worker that has found the tasks shows by a claim that it lives, and how often to look at the longest.
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.02, 1.0
# So many workers, the newest first, are read at once for one whose process lives here: elsewhere it is not known anyway.
_READ_AT_ONCE = 8


class Staying:
    """Looks for a worker that stays, from the moment of its making. Not thread-safe.

    Args:
        watcher: Knows whose death was seen.
        claims: Ids of the claims that stand in what the client collects, as far as it has read.
        launcher: What starts workers.
    """

    def __init__(
        self, session: SessionStore, watcher: Watcher, claims: Callable[[], frozenset[str]], launcher: Launcher
    ) -> None:
        self._session = session
        self._watcher = watcher
        self._claims = claims
        self._launcher = launcher
        self._before_claims = claims()
        # Assumes: what is there now was written before; whatever differs later was written after the acknowledgement.
        self._before = self._listed()
        self._is_first = True
        self._backoff = Backoff(session.clock, _FIRST_PAUSE_S, _MOST_PAUSE_S)
        self._next_look = float("-inf")

    def is_sure(self, *, is_starting: bool) -> bool:
        """Whether a worker stays. Asks the store only when it is time to.

        Args:
            is_starting: Workers are being started that no handle names yet: that must be gone on with.
        Store: nothing mostly; 1 LIST, 1 GET for each worker that has beaten or claimed since.
        """
        now = self._session.clock.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + self._backoff.next_s()
        listed = self._listed()
        changed = {worker_id for worker_id, etag in listed.items() if self._before.get(worker_id) != etag}
        claimed = {worker_of(claim) for claim in self._claims() - self._before_claims} & listed.keys()
        if any(self._stays(worker_id) for worker_id in sorted(changed | claimed, reverse=True)):
            return True
        if self._is_first:
            self._is_first = False
            newest = sorted(listed.keys() - changed - claimed, reverse=True)[:_READ_AT_ONCE]
            if any(self._stays(worker_id, by_its_process=True) for worker_id in newest):
                return True
        return self._launcher.keeps_trying and not is_starting and self._is_one_on_its_way(listed)

    def _stays(self, worker_id: str, *, by_its_process: bool = False) -> bool:
        """Whether this worker is not on its way out; `by_its_process`: and is seen to live."""
        beat = self._beat(worker_id)
        if beat is None or beat.state in (WorkerState.LEAVING, WorkerState.LEFT):
            return False
        gone = has_ended(beat.process)
        return worker_id not in self._watcher.watch.dead and (gone is False if by_its_process else not gone)

    def _is_one_on_its_way(self, listed: dict[str, str]) -> bool:
        """Whether the engine has workers of ours that have not been heard of: these come, if it keeps trying."""
        session, launcher = self._session, self._launcher
        for launch in session.manifest.launches:
            handle = handle_of(session.sealer, launch) if launch.launcher == launcher.name else ""
            if not handle:
                continue
            dead = {death.worker_id for death in launcher.deaths(handle)}
            ours = f"{launch.launch_id.partition('-')[0]}-"
            heard = [worker_id for worker_id in listed if worker_id.startswith(ours) and worker_id not in dead]
            slots_heard = sum(beat.slots for beat in map(self._beat, heard) if beat is not None)
            if launcher.slots_alive(handle) > slots_heard:
                return True
        return False

    def _beat(self, worker_id: str) -> WorkerBeat | None:
        found = read_beat(self._session, self._session.keys.worker(worker_id))
        return None if found is None else found[0]

    def _listed(self) -> dict[str, str]:
        """The ETag of each worker's beat."""
        workers = self._session.keys.workers
        return {line.key[len(workers) :]: line.etag for line in self._session.store.list(workers)}
