"""A worker's life signs: its beat, its look at the others' beats, the session's state, deadline and budget.

Owned by one thread of the agent. Each turn: beat, then look and repair if this worker is one of the three oldest, then
the manifest. The beat comes first, so that a look counts only when the worker itself has been heard.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from starburst_executor.clock import Clock
from starburst_executor.errors import AccessDenied, ObjectNotFound, StoreUnavailable
from starburst_executor.launch.local.processes import identity
from starburst_executor.protocol.liveness import hopeless
from starburst_executor.protocol.records import DETACHED, Manifest, SessionState, WorkerBeat, WorkerState
from starburst_executor.session.budget import Budget
from starburst_executor.session.own import OwnObject
from starburst_executor.session.repair import Watcher, read_beat, read_beats
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.claims import Claims

__all__ = ["Keeper"]

_log = logging.getLogger(__name__)

# How long a last beat waits for one that is being written.
_FAREWELL_S = 5.0
_WORDS_CHARS = 2000
_FEW_WORKERS = 32
# Three watchers: two may be lost at once, and the cost of watching does not grow with the workers.
_N_WATCHERS = 3


class Keeper:
    """Beats, watches, keeps deadline and budget. Its `turn` is called by one thread; `say` by any.

    Args:
        bound: This worker ends with the client that started it, by a pipe, so it need not watch that client's beats.
        is_idle: Tells whether no slot has work.
        running: Tells which tasks run, with the seconds they have.
        requests: Tells the store requests made so far, by kind.
        size: vCPUs, GB and GPUs of this worker, where its launcher has told.
        lost_s: Tells how many seconds of work were thrown away as it was told to stop.
    """

    def __init__(
        self,
        session: SessionStore,
        worker_id: str,
        claims: Claims,
        clock: Clock,
        *,
        n_slots: int,
        bound: bool,
        is_idle: Callable[[], bool],
        running: Callable[[], list[tuple[str, float]]],
        requests: Callable[[], Mapping[str, int]],
        size: tuple[float, float, int] = (0.0, 0.0, 0),
        lost_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._session = session
        self._worker_id = worker_id
        self._claims = claims
        self._clock = clock
        self._bound = bound
        self._is_idle = is_idle
        self._running = running
        self._requests = requests
        self._lost_s = lost_s
        timings = session.manifest.timings
        self._timings = timings
        now = clock.now()
        where = f"{socket.gethostname()}:{os.getpid()}"
        vcpus, memory_gb, gpus = size
        self._beat = WorkerBeat(
            worker_id,
            0,
            WorkerState.WORKING,
            n_slots,
            now,
            now,
            where=where,
            process=identity(),
            vcpus=vcpus,
            memory_gb=memory_gb,
            gpus=gpus,
        )
        self._own = OwnObject(session.store, session.keys.worker(worker_id), clock)
        self._lock = threading.Lock()  # guards: _beat, _own, held over the swap: beats are written one by one
        self._watcher = Watcher(session, timings.looks_until_lost)
        self._budget = Budget(session)
        self._watches = False
        self._n_looks = 0
        self._next_look = 0.0
        self._next_rank = 0.0
        self._ranked: dict[str, str] = {}  # the older workers' beats at the last ranking
        self._rate_from = (clock.monotonic(), 0)
        self._clients_seen: frozenset[str] = frozenset()
        self._clients_looked = clock.monotonic()
        self._clients_silent_s = 0.0

    # --- beats --------------------------------------------------------------------------------------------------------

    def say(self, state: WorkerState | None = None) -> WorkerBeat:
        """Beat now; the beat once it is acknowledged. Store: 1 swap."""
        with self._lock:
            return self._say(state or self._present_state())

    def _say(self, state: WorkerState, words: str = "") -> WorkerBeat:
        self._beat = replace(self._next_beat(state), words=words)
        self._own.write(self._beat)
        return self._beat

    def _present_state(self) -> WorkerState:
        """What the next beat says unless told otherwise: a worker that is leaving goes on leaving."""
        if self._beat.state in (WorkerState.LEAVING, WorkerState.LEFT):
            return self._beat.state
        return WorkerState.IDLE if self._is_idle() else WorkerState.WORKING

    def _next_beat(self, state: WorkerState) -> WorkerBeat:
        now, n_ended = self._clock.monotonic(), self._claims.n_ended
        since, n_before = self._rate_from
        elapsed_s = now - since
        per_s = (n_ended - n_before) / elapsed_s if elapsed_s >= self._timings.commit_s else self._beat.per_s
        if elapsed_s >= self._timings.commit_s:
            self._rate_from = (now, n_ended)
        at = self._clock.now()
        return replace(
            self._beat,
            number=self._beat.number + 1,
            state=state,
            at=at,
            claims=self._claims.held(),
            running=tuple((name, at - seconds) for name, seconds in self._running()),
            n_ended=n_ended,
            per_s=per_s,
            requests=dict(self._requests()),
            lost_s=self._lost_s(),
        )

    # --- the turn -----------------------------------------------------------------------------------------------------

    def turn(self) -> Manifest:
        """One beat interval's work; the session's manifest as it then is.

        Raises: SessionNotFound if the session was deleted; ObjectNotFound if this worker's beat was.
        Store: 1 swap, 1 GET (mostly a 304); a watcher: 1 LIST, and a repair each fourth look.
        """
        try:
            self.say()
        except StoreUnavailable:
            self._watcher.watch.failed()
            raise
        self._learn_rank()
        if self._watches:
            self._look()
            self._watch_clients()
        self._session.refresh()
        self._session.expire_if_due()
        # The three that watch look at the beats; the others only once these have had the time to be replaced.
        return self._budget.keep(watches=self._watches, patience_s=self._timings.rank_s)

    def _learn_rank(self) -> None:
        """Whether this is one of the three oldest workers that live. Store: 1 LIST, 3 GETs, 1 more for each that left."""
        now = self._clock.monotonic()
        if now < self._next_rank:
            return
        self._next_rank = now + self._timings.rank_s
        lines = self._session.store.list(self._session.keys.workers)
        # Ids sort by the time of their making. No clock is trusted here: it only has to be about the same three for all.
        older = [line for line in lines if line.key < self._session.keys.worker(self._worker_id)]
        n_older = 0
        for line in older:
            # One that has not beaten since the last ranking watches nothing, whatever became of it.
            if self._ranked.get(line.key) != line.etag and n_older < _N_WATCHERS:
                found = read_beat(self._session, line.key)
                n_older += found is not None and found[0].state != WorkerState.LEFT
        self._ranked = {line.key: line.etag for line in older}
        self._watches = n_older < _N_WATCHERS

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self._timings.look_s * 0.9
        self._watcher.look()
        self._n_looks += 1
        if self._n_looks % self._timings.looks_until_lost == 0:
            n_tasks = self._watcher.repair()
            if n_tasks:
                _log.warning("took back tasks of lost workers: tasks=%d", n_tasks)

    def _watch_clients(self) -> None:
        """End an attached session whose client has been silent for too long: nobody would collect, somebody pays."""
        session = self._session
        if self._bound or session.manifest.kind == DETACHED:
            return
        timings = self._timings
        etags = frozenset(line.etag for line in session.store.list(session.keys.clients))
        now = self._clock.monotonic()
        # Between two looks of which the store kept us no client could be heard either: only so much of that time counts.
        silent_s = min(now - self._clients_looked, 2 * timings.beat_s)
        self._clients_looked = now
        self._clients_silent_s = 0.0 if etags != self._clients_seen else self._clients_silent_s + silent_s
        self._clients_seen = etags
        if self._clients_silent_s >= timings.client_gone_s + timings.unheard_s:
            session.end(SessionState.TERMINATED, "its client has not been heard of for too long")

    # --- leaving ------------------------------------------------------------------------------------------------------

    def may_leave(self, give_up: threading.Event) -> bool:
        """Whether this idle worker can go without stranding a task. Says `leaving` first, takes it back if not.

        Store: 1 swap, 1 LIST an open epoch; where others hold claims, 1 LIST and 1 GET a worker twice.
        """
        self.say(WorkerState.LEAVING)
        session = self._session
        groups = session.groups(session.refresh().open_epochs())
        if any(group.size_class.has_pending for group in groups):
            stays = True
        elif all(group.size_class.has_ended for group in groups):
            stays = False
        else:
            # Somebody's claim stands: if its worker dies, a worker that is still there must take the tasks.
            stays = not self._a_peer_stays(give_up)
        # A slot may have been claiming while this worker looked idle.
        if stays or self._claims.held():
            self.say(WorkerState.IDLE)
            return False
        return True

    def _a_peer_stays(self, give_up: threading.Event) -> bool:
        """Whether another worker beats, idle and not leaving, after we said that we leave."""
        before = {beat.worker_id: beat.number for beat, _ in read_beats(self._session)}
        self._clock.wait(give_up, self._timings.beat_s * 1.5)
        n_stay = sum(
            beat.state == WorkerState.IDLE and beat.number > before.get(beat.worker_id, -1)
            for beat, _ in read_beats(self._session)
            if beat.worker_id != self._worker_id
        )
        # In a detached session nobody else would come: keep a second one in reserve.
        return n_stay >= (2 if self._session.manifest.kind == DETACHED else 1)

    def left(self, words: str = "") -> None:
        """The last beat, with why if this worker cannot go on. Store: 1 swap."""
        # A beat that waits for the store holds the lock for as long; who cannot go on does not wait for it.
        if not self._lock.acquire(timeout=_FAREWELL_S if words else -1):
            return
        try:
            self._say(WorkerState.LEFT, words[:_WORDS_CHARS])
        except (AccessDenied, ObjectNotFound, StoreUnavailable) as error:
            _log.info("left without saying so: %s", error)
        finally:
            self._lock.release()

    def break_if_hopeless(self) -> Manifest:
        """This worker has left because it could not go on: end the session if all others did too, on other machines.

        A client that is there has others started meanwhile; with none, tasks would wait for workers that never come.
        Store: 1 LIST, 1 GET a worker; 1 swap to end it.
        """
        session = self._session
        # Where there were many, most will have worked: it is left to a client to read them all.
        if len(session.store.list(session.keys.workers)) <= _FEW_WORKERS:
            words = hopeless([beat for beat, _ in read_beats(session)])
            if words:
                return session.end(SessionState.BROKEN, f"no worker could do any work: {words}")
        return session.manifest
