"""Listens for the first beats of started workers: of any of them after a start, and of each of them.

If no worker beats within `launch_s`, none will: the client breaks the session. If some beat, each of the others still has
`launch_s` for its first beat. Then it is stopped and replaced, so that it no longer counts or costs anything.

Guarantee: time in which the store did not answer does not count as silence, since no beat can arrive then.
"""

from __future__ import annotations

import logging

from starburst_executor.client.decisions import Hearing, judge_silence
from starburst_executor.client.launches import Launches
from starburst_executor.client.warner import Warner
from starburst_executor.session.beats import list_workers
from starburst_executor.session.repair import Watcher
from starburst_executor.session.store import SessionStore

__all__ = ["FirstBeats", "SilentWorkers"]

_log = logging.getLogger(__name__)

# How often to look for the first beat of a started worker, and the most of the time between two looks that counts as
# silence.
_HEARING_S, _HEARD_NOTHING_MOST_S = 0.5, 1.0


class FirstBeats:
    """Listens for the first beat after a start. Not thread-safe.

    Args:
        watcher: Knows which workers are lost.

    Attributes:
        is_heard: Whether a worker has beaten since the last start.
    """

    def __init__(self, session: SessionStore, watcher: Watcher) -> None:
        self._session = session
        self._watcher = watcher
        self._clock = session.clock
        self._timings = session.manifest.current.timings
        self.is_heard = False
        self._silent_s: float | None = None  # the time without a beat since workers were started; None before
        self._listened_at = 0.0
        self._before: frozenset[str] = frozenset()
        self._next_hearing = self._next_others_look = float("-inf")
        self._sees_others = False

    @property
    def has_started(self) -> bool:
        """Whether this client has started workers, or has listened for those of another client."""
        return self._silent_s is not None

    def expect(self) -> None:
        """Expect new workers to beat: beats of earlier ones prove nothing about a launch. Store: 1 LIST, or nothing."""
        if self.is_heard or self._silent_s is None:
            self._before, self.is_heard, self._silent_s = self._worker_keys(), False, 0.0
            self._listened_at = self._clock.monotonic()

    def listen(self, *, is_starting: bool) -> Hearing:
        """Look for the first beat, unless one was heard; HEARD is returned once. Store: 1 LIST each half second until then."""
        if self.is_heard or self._clock.monotonic() < self._next_hearing:
            return Hearing.WAITING
        keys, now = self._worker_keys(), self._clock.monotonic()
        if self._silent_s is None:
            # Another client started them.
            self._silent_s, self._listened_at = 0.0, now
        self._silent_s += min(now - self._listened_at, _HEARD_NOTHING_MOST_S)
        self._listened_at, self._next_hearing = now, now + _HEARING_S
        hearing = judge_silence(
            has_new=bool(keys - self._before),
            has_earlier=any(map(self._is_alive, keys)),
            is_starting=is_starting,
            silent_s=self._silent_s,
            launch_s=self._timings.launch_s,
        )
        self.is_heard = hearing is Hearing.HEARD
        return hearing

    def others_work(self) -> bool:
        """Whether workers are alive that this client's launcher did not start. Store: 1 LIST; nothing between two looks."""
        now = self._clock.monotonic()
        if now >= self._next_others_look:
            self._next_others_look = now + self._timings.look_s
            signs = list_workers(self._session)
            self._sees_others = any(not sign.has_left and self._is_alive(sign.key) for sign in signs)
        return self._sees_others

    def _is_alive(self, worker_key: str) -> bool:
        return not self._watcher.watch.is_lost(worker_key.rpartition("/")[2])

    def _worker_keys(self) -> frozenset[str]:
        return frozenset(line.key for line in self._session.store.list(self._session.keys.workers))


class SilentWorkers:
    """Stops each worker that did not beat in time. Not thread-safe.

    Args:
        watcher: Knows which workers have beaten.
    """

    def __init__(self, session: SessionStore, launches: Launches, watcher: Watcher, warner: Warner) -> None:
        self._session = session
        self._launches = launches
        self._watcher = watcher
        self._warner = warner
        self._clock = session.clock
        self._timings = session.manifest.current.timings
        self._looked_at: float | None = None
        self._listened_s = 0.0  # the time covered by looks at the beats, without outages of the store
        # Workers that have never beaten: `_listened_s` when they were first expected.
        self._expected_since: dict[str, float] = {}

    def count_look(self) -> None:
        """Count the time since the last look at the beats; called after each."""
        now = self._clock.monotonic()
        since, self._looked_at = self._looked_at, now
        if since is not None:
            self._listened_s += min(now - since, 2 * self._timings.beat_s)

    def end(self) -> None:
        """Stop and log each worker that has been expected for `launch_s` and has never beaten.

        Store: nothing; 1 LIST before a worker is stopped. The platform: as for `deaths`.
        """
        launches = self._launches.workers(self._session.manifest.current)
        expected = {worker_id: workers for workers in launches for worker_id in workers.expected()}
        heard = self._watcher.watch.known()
        silent = {worker_id: workers for worker_id, workers in expected.items() if worker_id not in heard}
        self._expected_since = {name: self._expected_since.get(name, self._listened_s) for name in silent}
        due = [name for name in silent if self._listened_s - self._expected_since[name] >= self._timings.launch_s]
        # A worker may have beaten since that look.
        heard = self._listed() if due else set()
        for worker_id in due:
            if worker_id in heard:
                continue
            words = f"no beat within {self._timings.launch_s:g} s"
            if silent[worker_id].give_up(worker_id, words):
                _log.warning("a worker never beat and is stopped: worker=%s, %s", worker_id, words)
            else:
                self._warner.warn(f"a worker never beat and cannot be stopped alone: worker={worker_id}, {words}")

    def _listed(self) -> set[str]:
        return {line.key.rpartition("/")[2] for line in self._session.store.list(self._session.keys.workers)}
