"""A session in memory for tests: its store counts requests and fails on request, and tests advance its clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from starburst_executor.config import Timings
from starburst_executor.protocol import calls, outcomes, status
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
from starburst_executor.protocol.status import Ended, Entry, State, Status
from starburst_executor.session.manifest import new_token
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.testing import Asked, FakeClock, Fault, FaultyStore, MemoryStore
from starburst_executor.worker.call_reader import Arrived, CallReader, Wanted

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

    def submit(self, n_tasks: int, *, first: int = 0, epoch: int = 0, call: Any = (2, 3), digest: str = DIGEST) -> str:
        """A status object of pending tasks, each `pow(*call)`; its key."""
        ref = StatusRef(0, first, n_tasks, epoch)
        pickled = calls.dump_call(call, {})
        entries = tuple(
            Entry.pending(0, self.sealer.sealed("call", status.call_label(0, first + i, digest), pickled))
            for i in range(n_tasks)
        )
        key: str = self.keys.status(ref)
        self.objects.create(key, status.encode(Status(0, first, (digest,), entries), self.clock.new_id()))
        return key

    def read(self, key: str) -> Status:
        """Return a status object's record, without a counted request."""
        stored = self.objects.get(key)
        assert stored is not None
        return status.decode(stored.body)

    def call(self, ref: StatusRef, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a stored task, as a worker that has kept nothing gets them."""
        current = self.read(self.keys.status(ref))
        entry = current.entries[index]
        assert entry.call is not None
        label = status.call_label(ref.ordinal, ref.first + index, current.functions[entry.function])
        (arrived,) = CallReader(self.session).get([Wanted(ref, entry.call, label)], 1)
        if not isinstance(arrived, Arrived):
            raise arrived
        return calls.load_call(arrived.call, dict(arrived.pieces))

    def states(self, key: str) -> list[State]:
        return [State(entry.state) for entry in self.read(key).entries]

    def write(self, key: str, step: Callable[[Status], Status]) -> None:
        """Change a status object without a counted request."""
        stored = self.objects.get(key)
        assert stored is not None
        changed = step(status.decode(stored.body))
        self.objects.swap(key, status.encode(changed, self.clock.new_id()), stored.etag)

    def write_entries(self, key: str, **changes: Any) -> None:
        self.write(key, lambda current: replace(current, entries=tuple(e._replace(**changes) for e in current.entries)))

    def claim(self, key: str, claim_id: str, at_most: int = 256, **how: bool) -> None:
        """Somebody else claims."""
        self.write(
            key,
            lambda current: status.claim(
                current, claim_id, at_most=at_most, now=0.0, max_losses=3, **{"alone": True, **how}
            )[0],
        )

    def end(self, key: str, value: object = 8, *, claim_id: str = "other.1") -> None:
        """Somebody else claims and completes every pending task."""
        self.claim(key, claim_id)
        body = outcomes.dump_value(value)

        def step(current: Status) -> Status:
            ended = {
                i: Ended(
                    State.COMPLETED,
                    self.sealer.sealed("outcome", status.outcome_label(current, i, current.entries[i]), body),
                    None,
                    0.01,
                    0,
                )
                for i in current.under(claim_id)
            }
            return status.commit(current, claim_id, ended, self.clock.now())[0]

        self.write(key, step)

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
