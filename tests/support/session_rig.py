"""A session in memory for tests: its store counts requests and fails on request, and tests advance its clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starburst_executor.config import Timings
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import (
    ATTACHED,
    Bell,
    Manifest,
    Submitter,
    WorkerBeat,
    WorkerState,
    decode_bell,
    encode,
)
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import encoding, transitions
from starburst_executor.protocol.spans.record import State, Status
from starburst_executor.session.manifest import new_token
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.testing import Asked, FakeClock, Fault, FaultyStore, MemoryStore
from starburst_executor.worker.call_reader import Arrived, CallReader, Wanted
from tests.support.spans import ended, outcome_of, pending, with_spans

SESSION = "a-session"
KEY = b"k" * 32
FUNCTION = calls.dump_function(pow)
DIGEST = calls.digest(FUNCTION)


class Rig:
    """One session. `requests` counts what is asked of the store, patience included, through any of its sessions."""

    def __init__(self, *, timings: Timings | None = None, clock: Any = None, workers: int = 4, **manifest: Any) -> None:
        self.clock = clock or FakeClock()
        self.objects = MemoryStore(clock=self.clock)
        self.asked: list[Asked] = []
        self.plan: Callable[[Asked], Fault | None] = lambda _: None
        self.faulty = FaultyStore(self.objects, self._watched)
        self.sealer = Sealer(KEY, SESSION)
        self.session = self.another()
        settings: dict[str, Any] = {
            "kind": ATTACHED,
            "slots": workers,
            "timings": timings or Timings(),
            "submitters": (Submitter("c0", 1, (0,)),),
            **manifest,
        }
        self.session.manifest.create(
            Manifest(
                session_id=SESSION,
                created_at=self.clock.now(),
                python="3.11",
                library="0",
                token=new_token(self.sealer),
                **settings,
            )
        )
        self.session.store.create(self.keys.function(DIGEST), self.sealer.sealed("function", DIGEST, FUNCTION))
        self.asked.clear()

    def another(self) -> SessionStore:
        """The same session as another process sees it."""
        store = PatientStore(self.faulty, self.clock, patience_s=60.0)
        return SessionStore(store, SESSION, self.sealer, self.clock)

    def _watched(self, asked: Asked) -> Fault | None:
        self.asked.append(asked)
        return self.plan(asked)

    @property
    def keys(self) -> Any:
        return self.session.keys

    @property
    def timings(self) -> Timings:
        return self.session.manifest.current.timings

    @contextmanager
    def requests(self) -> Iterator[Counter[str]]:
        """Counts the requests of a block by kind."""
        counts: Counter[str] = Counter()
        before = len(self.asked)
        yield counts
        counts.update(asked.kind for asked in self.asked[before:])

    def before(self, kind: str, key: str, do: Callable[[], object], *, nth: int = 1) -> None:
        """Have something happen right before the nth request of this kind for this key."""
        left = [nth]

        def plan(asked: Asked) -> None:
            if (asked.kind, asked.key) == (kind, key):
                left[0] -= 1
                if left[0] == 0:
                    do()

        self.plan = plan

    def fail(self, kind: str, key: str, *faults: Fault) -> None:
        """Let the next requests of this kind for this key fail like that."""
        rest = list(faults)
        self.plan = lambda asked: rest.pop(0) if rest and (asked.kind, asked.key) == (kind, key) else None

    # --- status objects -----------------------------------------------------------------------------------------------

    def submit(
        self,
        n_tasks: int,
        *,
        first: int = 0,
        epoch: int = 0,
        call: Any = (2, 3),
        digest: str = DIGEST,
        priority: int = 0,
        limit: str = "",
        resources: str = "",
    ) -> str:
        """A status object of pending tasks, each `pow(*call)`; its key."""
        ref = StatusRef(0, first, n_tasks, epoch, priority, limit, resources)
        record = pending(self.sealer, [calls.dump_call(call, {})] * n_tasks, first=first, digest=digest)
        key: str = self.keys.status(ref)
        self.objects.create(key, encoding.encode(record, self.clock.new_id()))
        return key

    def read(self, key: str) -> Status:
        """Return a status object's record, without a counted request."""
        stored = self.objects.get(key)
        assert stored is not None
        return encoding.decode(stored.body)

    def call(self, ref: StatusRef, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a stored task, as a worker that has kept nothing gets them."""
        current = self.read(self.keys.status(ref))
        block = current.entry(index).call
        assert block is not None
        (arrived,) = CallReader(self.session).get([Wanted(ref, current, block, (index,))], 1)
        if not isinstance(arrived, Arrived):
            raise arrived
        return calls.load_call(arrived.call, dict(arrived.pieces))

    def outcome(self, key: str, position: int) -> bytes:
        """The verified outcome of a task that has ended."""
        return outcome_of(self.session, key, self.read(key), position)

    def states(self, key: str) -> list[State]:
        return [entry.state for entry in self.read(key).entries]

    def write(self, key: str, step: Callable[[Status], Status]) -> None:
        """Change a status object without a counted request."""
        stored = self.objects.get(key)
        assert stored is not None
        changed = step(encoding.decode(stored.body))
        self.objects.swap(key, encoding.encode(changed, self.clock.new_id()), stored.etag)

    def write_spans(self, key: str, *positions: int, **changes: Any) -> None:
        """Change fields of the spans of these tasks, or of all."""
        self.write(key, lambda current: with_spans(current, positions or range(current.n_tasks), **changes))

    def claim(self, key: str, claim_id: str, at_most: int = 256, **how: bool) -> None:
        """Somebody else claims."""
        self.write(
            key,
            lambda current: transitions.claim(
                current, claim_id, at_most=at_most, now=0.0, max_losses=3, **{"alone": True, **how}
            )[0],
        )

    def end(self, key: str, value: object = 8, *, claim_id: str = "other.1") -> None:
        """Somebody else claims and completes every pending task."""
        self.claim(key, claim_id)
        body = outcomes.dump_value(value)
        self.write(key, lambda current: ended(self.sealer, current, claim_id, body, self.clock.now()))

    # --- signs of life ------------------------------------------------------------------------------------------------

    def beat(self, worker_id: str, number: int = 1, state: WorkerState = WorkerState.WORKING, **fields: Any) -> None:
        """A worker beats."""
        beat = WorkerBeat(worker_id, number, state, 1, 0.0, self.clock.now(), **fields)
        self.objects.put(self.keys.worker(worker_id), encode(beat, self.clock.new_id()))

    def bell(self) -> Bell | None:
        lines = [line for line in self.objects.list(self.keys.folder) if line.key == self.keys.bell]
        if not lines:
            return None
        stored = self.objects.get(self.keys.bell)
        assert stored is not None
        return decode_bell(stored.body)
