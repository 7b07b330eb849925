"""Measures the claims per second that W claimers win, and the share of races that they lose, by the number of status objects.

    python benchmarks/contention.py [--quick] [--out FOLDER]

In virtual time, on a simulated S3 with Amazon's latencies: the workers' own `Finder` chooses, their own `Claims` claim,
one task at a time, and a claimer that loses a race goes to another object after the pause that a slot makes. Claimers
claim all the time, so the contention is many times that of workers that also run tasks. At the start each claimer has
listed everything once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments
from benchmarks._simulated_s3 import SimulatedS3
from starburst_executor import Timings
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, SessionKeys, StatusRef
from starburst_executor.protocol.records import ATTACHED, Manifest, Submitter, encode
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import encoding
from starburst_executor.protocol.spans.record import BLOCK_TASKS, CallBlock, Span, Status
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.scheduler import Process, Scheduler
from starburst_executor.testing.simulation.stage import on_stage
from starburst_executor.testing.simulation.threads import Event, ProcessClock
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.finder import Finder

SESSION = "contention"
N_TASKS = 256
CLAIMERS, OBJECTS = (1, 2, 4, 8, 16, 32, 64), (1, 10, 100, 1000)


@dataclass
class Count:
    """The counts of one claimer. A race is a swap for which another claimer was faster."""

    won: int = 0
    lost: int = 0
    is_done: bool = False


class Arena:
    """Claimers that compete for status objects of `N_TASKS` pending tasks each."""

    def __init__(self, n_claimers: int, n_objects: int, seconds: float) -> None:
        self._lots = Lots(n_claimers * 10_000 + n_objects)
        self._scheduler = Scheduler(self._lots.fork())
        self._s3 = SimulatedS3(self._scheduler)
        self.seconds = seconds
        self._fill(n_claimers, n_objects)
        self.counts = [Count() for _ in range(n_claimers)]

    def fight(self) -> None:
        """Let all of them claim for `seconds`."""
        scheduler, processes = self._scheduler, []
        with on_stage(self._s3.line, small=False):
            for number, count in enumerate(self.counts):
                process = Process(scheduler, f"claimer-{number}")
                process.clock = ProcessClock(process, self._lots.fork())
                process.spawn("main", partial(self._claim, process, count))
                processes.append(process)
            scheduler.run(lambda: all(count.is_done for count in self.counts), 10 * self.seconds)
            for process in processes:
                process.kill("the fight is over")
            scheduler.run(lambda: False, 0.0)
        if scheduler.errors or not all(count.is_done for count in self.counts):
            raise RuntimeError(f"the fight did not end well: errors={scheduler.errors[:3]}")

    def _fill(self, n_claimers: int, n_objects: int) -> None:
        folders, keys = self._s3.folders, SessionKeys(SESSION)
        submitter = Submitter("c0", 1, (0,))
        manifest = Manifest(
            session_id=SESSION, created_at=0.0, python="", library="", token=b"", kind=ATTACHED, slots=n_claimers,
            timings=Timings.remote(), submitters=(submitter,),
        )  # fmt: skip
        folders.create(keys.manifest, encode(manifest, "0"))
        calls = tuple(CallBlock(first, BLOCK_TASKS, 0, b"") for first in range(0, N_TASKS, BLOCK_TASKS))
        for i in range(n_objects):
            first = i * N_TASKS
            record = Status(0, first, ("0" * 32,), (Span(N_TASKS),), calls)
            key = keys.status(StatusRef(0, first, N_TASKS, i // STATUSES_PER_EPOCH))
            folders.create(key, encoding.encode(record, str(i)))

    def _claim(self, process: Process, count: Count) -> None:
        clock: Any = process.clock
        store: Any = PatientStore(self._s3.line(), clock, patience_s=60.0, stop=Event())  # type: ignore[arg-type]
        session = SessionStore(store, SESSION, Sealer(b"", SESSION), clock)
        session.manifest.refresh()
        finder, claims = Finder(session, clock, 1), Claims(session, process.name, clock)
        finder.look()
        until, n_races = clock.monotonic() + self.seconds, 0
        never: Any = Event()
        while clock.monotonic() < until:
            key = finder.candidates.take()
            if key is None:
                finder.look()
                continue
            claim, seen = claims.claim(key, size=lambda _: 1)
            if seen is not None:
                finder.candidates.saw(key, seen)
            if claim is not None:
                count.won += 1
                n_races = 0
            elif seen is None:
                # The pause of `worker/slot.py` after a lost race.
                count.lost += 1
                n_races += 1
                finder.candidates.avoid(key)
                clock.wait(never, session.manifest.current.timings.bell_min_s * n_races * clock.random())
        count.is_done = True


def rows(n_claimers: int, n_objects: int, counts: list[Count], seconds: float) -> list[Row]:
    won, lost = sum(count.won for count in counts), sum(count.lost for count in counts)
    conditions = {"claimers": n_claimers, "objects": n_objects}
    words = f"{n_claimers} claimers, {n_objects:,} objects"
    rate = Row(f"claims won: {words}", "claims/s", [won / seconds], conditions={**conditions, "measure": "won"})
    share = Row(f"races lost: {words}", "share", [lost / max(1, won + lost)])
    share.conditions = {**conditions, "measure": "lost"}
    share.note = f"{won:,} won, {lost:,} lost"
    return [rate, share]


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    seconds = 2.0 if run.quick else 10.0
    for n_objects in OBJECTS[:2] if run.quick else OBJECTS:
        found = []
        for n_claimers in CLAIMERS:
            # Enough tasks for the whole fight: an object allows about 20 swaps a second in all.
            arena = Arena(n_claimers, n_objects, seconds)
            arena.fight()
            found += rows(n_claimers, n_objects, arena.counts, seconds)
        run.table(f"{n_objects:,} status objects", found)


if __name__ == "__main__":
    main()
