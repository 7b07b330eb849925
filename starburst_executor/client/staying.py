"""Decides whether a worker stays, which a client must know before it leaves tasks to the workers.

An idle worker that leaves writes LEAVING first and lists pending tasks afterwards. So if its newest beat, read after the
tasks were acknowledged, is neither LEAVING nor LEFT, its next listing finds the tasks. Whether it is alive is a second
question, since the last beat of a dead worker does not change:

    this client has asked it to leave ───────────────────────────► does not count
    beat read after the acknowledgement: LEAVING, LEFT ──────────► does not count
                                         IDLE, WORKING, and
        it has beaten or claimed since then, or its
        process is on this machine and alive  ───────────────────► it stays
        none of these (yet)  ────────────────────────────────────► wait: `beat_s` at most

Guarantee: a client that leaves once `is_sure` has returned True strands no task, unless that worker is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from starburst_executor.client.handles import workers_of
from starburst_executor.clock import Backoff
from starburst_executor.launch.base import Launcher
from starburst_executor.launch.local.processes import has_ended
from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.money import is_of
from starburst_executor.protocol.records import Launch, WorkerBeat, WorkerState
from starburst_executor.session.beats import Beats, Sign, list_workers, read_beat
from starburst_executor.session.repair import Watcher
from starburst_executor.session.store import SessionStore

__all__ = ["Staying"]

# The first and the longest pause between two looks. A live worker that finds the tasks soon shows it by a claim.
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.02, 1.0
# Up to this number of workers, the newest first, are read at once to find one whose process is alive on this machine.
_READ_AT_ONCE = 8


class Staying:
    """Looks for a worker that stays, from its construction on. Not thread-safe.

    Args:
        watcher: Knows the workers whose death was seen.
        claims: Returns the ids of the claims in the status objects that the client watches, as it last read them.
        launcher: Starts workers.
    """

    def __init__(
        self, session: SessionStore, watcher: Watcher, claims: Callable[[], frozenset[str]], launcher: Launcher
    ) -> None:
        self._session = session
        self._watcher = watcher
        self._claims = claims
        self._launcher = launcher
        self._beats = Beats(session)
        self._before_claims = claims()
        # Assumes: made after the tasks were acknowledged, so that any later change of an ETag is a beat after that.
        self._before = {sign.owner: sign.etag for sign in list_workers(session)}
        self._is_first = True
        self._backoff = Backoff(session.clock, _FIRST_PAUSE_S, _MOST_PAUSE_S)
        self._next_look = float("-inf")

    def is_sure(self, *, is_starting: bool, drained: Callable[[], Collection[str]]) -> bool:
        """Whether a worker stays. Reads the store only when the next look is due.

        Args:
            is_starting: This client has a launch to finish, whose workers no handle names yet.
            drained: Returns the workers that this client has asked to leave, whatever their newest beats say.
        Store: usually nothing; 1 LIST, 1 GET for each worker that has beaten or claimed since and is not leaving.
        """
        now = self._session.clock.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + self._backoff.next_s()
        # Those that are on their way out are not read, however many these are.
        listed = {sign.owner: sign for sign in list_workers(self._session) if not _goes(sign)}
        for worker_id in drained():
            listed.pop(worker_id, None)
        changed = {worker_id for worker_id, sign in listed.items() if self._before.get(worker_id) != sign.etag}
        claimed = {worker_of(claim) for claim in self._claims() - self._before_claims} & listed.keys()
        if any(self._stays(worker_id) for worker_id in sorted(changed | claimed, reverse=True)):
            return True
        if self._is_first:
            self._is_first = False
            newest = sorted(listed.keys() - changed - claimed, reverse=True)[:_READ_AT_ONCE]
            if any(self._stays(worker_id, by_its_process=True) for worker_id in newest):
                return True
        return self._launcher.keeps_trying and not is_starting and self._is_one_on_its_way()

    def _stays(self, worker_id: str, *, by_its_process: bool = False) -> bool:
        """Whether this worker is not leaving; with `by_its_process`, also whether its process is seen to be alive."""
        beat = self._beat(worker_id)
        if beat is None or beat.state in (WorkerState.LEAVING, WorkerState.LEFT):
            return False
        gone = has_ended(beat.process)
        return worker_id not in self._watcher.watch.dead and (gone is False if by_its_process else not gone)

    def _is_one_on_its_way(self) -> bool:
        """Whether the platform has workers of this launcher that have not beaten: these come, if it keeps trying.

        Store: 1 LIST, 1 GET for each of them that has beaten since it was read.
        """
        session, launcher = self._session, self._launcher
        for launch in session.manifest.current.launches:
            workers = workers_of(session.sealer, launcher, launch)
            if workers is None:
                continue
            dead = {death.worker_id for death in workers.deaths()}
            heard = self._beats.read(partial(_is_one_of, launch, dead))
            if workers.slots_alive() > sum(beat.slots for beat in heard):
                return True
        return False

    def _beat(self, worker_id: str) -> WorkerBeat | None:
        stored = read_beat(self._session, self._session.keys.worker(worker_id))
        return None if stored is None else stored[0]


def _is_one_of(launch: Launch, dead: Collection[str], worker_id: str) -> bool:
    return is_of(launch, worker_id) and worker_id not in dead


def _goes(sign: Sign) -> bool:
    """Whether a worker is on its way out, by its newest beat."""
    return sign.state in (WorkerState.LEAVING, WorkerState.LEFT)
