"""A worker's signs of life: its beat, the session's state and deadline, and its last words.

Owned by one thread of the agent, whose work grows with neither workers, clients nor tasks. This worker's duties for the
others are in `watching.py`, in a thread of its own.
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
from starburst_executor.protocol.spans.record import SizeClass
from starburst_executor.session.beats import list_workers, read_beats
from starburst_executor.session.own import OwnObject
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.latencies import Latencies
from starburst_executor.worker.rank import Rank
from starburst_executor.worker.runner.usage import RunningNow, Usage
from starburst_executor.worker.stock import Stock
from starburst_executor.worker.watching import Heard, Watching

__all__ = ["Keeper"]

_log = logging.getLogger(__name__)

# How long a last beat waits for one that is being written.
_FAREWELL_S = 5.0
_WORDS_CHARS = 2000
_TROUBLE_CHARS = 400
_FEW_WORKERS = 32


class Keeper:
    """Beats, enforces the deadline, decides when this worker may leave. One thread calls `turn`; any thread may call `say`.

    Args:
        bound: Whether this worker ends with the client that started it, through a pipe; it then need not watch client beats.
        is_idle: Return whether no slot has work.
        running: Return the running tasks.
        requests: Return the number of store requests so far, by kind.
        trouble: Return for which error a request of this worker has waited for long; empty if none has.
        size: vCPUs, GB and GPUs of this worker, if its launcher passed them.
        stock: What this worker has of each resource.
        lost_s: Return the seconds of work that were lost when it was stopped.
        n_failed_waiting: Return the number of tasks that it has failed because of others for which they waited.
        launcher_id: What its launcher calls it; empty for its process id.

    Attributes:
        watching: This worker's watch over other workers and clients; another thread calls its `turn`.
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
        running: Callable[[], list[RunningNow]],
        requests: Callable[[], Mapping[str, int]],
        trouble: Callable[[], str] = lambda: "",
        size: tuple[float, float, int] = (0.0, 0.0, 0),
        lost_s: Callable[[], float] = lambda: 0.0,
        n_failed_waiting: Callable[[], int] = lambda: 0,
        launcher_id: str = "",
        rank: Rank | None = None,
        publish: Callable[[str, str], None] | None = None,
        stock: Stock | None = None,
    ) -> None:
        self._session = session
        self._worker_id = worker_id
        self._claims = claims
        self._clock = clock
        self._is_idle = is_idle
        self._running = running
        self._requests = requests
        self._trouble = trouble
        self._lost_s = lost_s
        self._n_failed_waiting = n_failed_waiting
        self._stock = stock or Stock()
        timings = session.manifest.current.timings
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
            resources=self._stock.total,
            launcher_id=launcher_id or str(os.getpid()),
        )
        self._own = OwnObject(session.store, session.keys.worker(worker_id), clock)
        # Guards _beat, _heard and _own; held during the swap, so that beats are written one by one.
        self._lock = threading.Lock()
        self._usage = Usage(clock)
        self._latencies = Latencies()
        self._rate_from = (clock.monotonic(), 0)
        self._heard = Heard(0, 0)
        self.watching = Watching(session, worker_id, lambda: self._heard, bound=bound, rank=rank, publish=publish)

    # --- beats --------------------------------------------------------------------------------------------------------

    def say(self, state: WorkerState | None = None) -> WorkerBeat:
        """Beat now and return the acknowledged beat. Store: 1 swap."""
        with self._lock:
            return self._say(state or self._present_state())

    def _say(self, state: WorkerState, words: str = "") -> WorkerBeat:
        self._beat = replace(self._next_beat(state), words=words)
        n_acknowledged, n_failed = self._heard
        try:
            self._own.write(self._beat)
        except StoreUnavailable:
            self._heard = Heard(n_acknowledged, n_failed + 1)
            raise
        self._heard = Heard(n_acknowledged + 1, n_failed)
        return self._beat

    def _present_state(self) -> WorkerState:
        """Return the state for the next beat: a worker that is leaving stays so, any other works or is idle."""
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
        at, requests = self._clock.now(), dict(self._requests())
        return replace(
            self._beat,
            number=self._beat.number + 1,
            state=state,
            at=at,
            claims=self._claims.held(),
            running=tuple(self._usage.records(self._running(), at)),
            n_ended=n_ended,
            per_s=per_s,
            requests=requests,
            latency=self._latencies.recent(now, requests),
            lost_s=self._lost_s(),
            trouble=self._trouble()[:_TROUBLE_CHARS],
            n_failed=self._claims.n_failed + self.watching.n_failed + self._n_failed_waiting(),
        )

    # --- the turn -----------------------------------------------------------------------------------------------------

    def turn(self) -> Manifest:
        """Do the work of one beat interval; return the current manifest.

        Raises: SessionNotFound if the session was deleted; ObjectNotFound if this worker's beat was.
        Store: 1 swap, 1 GET (usually a 304).
        """
        self.say()
        self._session.manifest.refresh()
        return self._session.manifest.expire_if_due()

    # --- leaving ------------------------------------------------------------------------------------------------------

    def may_leave(self, give_up: threading.Event) -> bool:
        """Return whether this idle worker can leave without stranding a task. It beats `leaving` first, and `idle` again if not.

        Store: 1 swap, 1 LIST an open epoch; if other workers hold claims, 1 LIST per 1,000 workers twice.
        """
        self.say(WorkerState.LEAVING)
        session = self._session
        listing = session.statuses.of_epochs(session.manifest.refresh().open_epochs())
        # Tasks that ask for more than this worker has are no reason to stay.
        listing = [g for g in listing if g.size_class != SizeClass.ALL_PENDING or self._stock.can_ever(g.ref.resources)]
        if any(g.size_class.has_pending and self._stock.can_ever(g.ref.resources) for g in listing):
            stays = True
        elif all(listed.size_class.has_ended for listed in listing):
            stays = False
        else:
            # Another worker's claim stands: if that worker dies, a remaining worker must take back its tasks.
            stays = not self._a_peer_stays(give_up)
        # A slot may have been claiming while this worker looked idle.
        if stays or self._claims.held():
            self.say(WorkerState.IDLE)
            return False
        return True

    def _a_peer_stays(self, give_up: threading.Event) -> bool:
        """Return whether another worker beats, idle and not leaving, after this worker's `leaving` beat."""
        before = {sign.owner: sign.etag for sign in list_workers(self._session)}
        self._clock.wait(give_up, self._timings.beat_s * 1.5)
        n_stay = sum(
            sign.state == WorkerState.IDLE and sign.etag != before.get(sign.owner)
            for sign in list_workers(self._session)
            if sign.owner != self._worker_id
        )
        # In a detached session no client starts new workers: a second one must stay in reserve.
        return n_stay >= (2 if self._session.manifest.current.kind == DETACHED else 1)

    def left(self, words: str = "") -> None:
        """Write the last beat, with the reason in `words` if this worker cannot go on. Store: 1 swap."""
        # A beat that waits for the store holds the lock; a worker that cannot go on waits for it only for a limited time.
        if not self._lock.acquire(timeout=_FAREWELL_S if words else -1):
            return
        try:
            self._say(WorkerState.LEFT, words[:_WORDS_CHARS])
        except (AccessDenied, ObjectNotFound, StoreUnavailable) as error:
            _log.info("left without a last beat: %s", error)
        finally:
            self._lock.release()

    def break_if_hopeless(self) -> Manifest:
        """End the session if all other workers, on other machines, also left because they could not go on.

        Call it after this worker has left for that reason. An attached client starts new workers meanwhile; without a client
        the tasks would wait for workers that never come.
        Store: 1 LIST; 1 LIST and 1 GET a worker if all have left and they are few; 1 swap to end it.
        """
        session = self._session
        signs = list_workers(session)
        # If there were many workers, most of them will have worked: reading all their beats is left to a client.
        if len(signs) <= _FEW_WORKERS and all(sign.has_left for sign in signs):
            words = hopeless([beat for beat, _ in read_beats(session)])
            if words:
                return session.manifest.end(SessionState.BROKEN, f"no worker could do any work: {words}")
        return session.manifest.current
