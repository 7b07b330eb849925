"""Measures what five watchers take from a run: `status --watch` on a simulated S3, in virtual time.

    python benchmarks/watchers.py [--quick] [--out FOLDER]

A fleet runs once alone, and once with five watchers, each of which looks each two seconds, as the command does. Processors of machines do not
count in virtual time; a watcher is a process of its own, usually on another machine.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._fleet import _KEY, Fleet, Flight
from benchmarks._rows import Row, Run, arguments
from starburst_executor.client.looks import Looks
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import split_url
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.processes import ClientProcess
from starburst_executor.testing.simulation.threads import Event, ProcessClock

LOOK_S = 2.0
N_WATCHERS = 5


class WatchedFleet(Fleet):
    """A fleet with watchers.

    Attributes:
        n_looks: How often they looked.
        n_requests: The requests of all looks.
    """

    def __init__(self, n_workers: int, *, n_watchers: int) -> None:
        super().__init__(n_workers)
        self._n_watchers = n_watchers
        self._others: list[ClientProcess] = []
        self.n_looks = self.n_requests = 0

    def _start_worker(self) -> None:
        super()._start_worker()
        while self._n_watchers:
            self._n_watchers -= 1
            process = ClientProcess(self._scheduler, f"watcher-{self._n_watchers}")
            process.clock = ProcessClock(process, Lots(self._n_watchers + 100))
            self._others.append(process)
            process.spawn("main", partial(self._watch, process))

    def _watch(self, process: ClientProcess) -> None:
        clock: Any = process.clock
        assert self._url is not None
        _, session_id = split_url(self._url)
        store: Any = PatientStore(self._s3.line(), clock, patience_s=60.0, stop=Event())  # type: ignore[arg-type]
        session = SessionStore(store, session_id, Sealer(bytes.fromhex(_KEY), session_id), clock)
        session.manifest.refresh()
        looks = Looks(session)
        while True:
            before = self._made(store)
            looks.look()
            self.n_looks += 1
            self.n_requests += self._made(store) - before
            clock.wait(Event(), LOOK_S)

    @staticmethod
    def _made(store: PatientStore) -> int:
        counts = store.requests.snapshot()
        return sum(counts[kind] for kind in ("get", "not_modified", "list"))


def row_of(flight: Flight, conditions: dict[str, Any], fleet: WatchedFleet) -> Row:
    row = Row(f"{conditions['watchers']} watchers", "s", [flight.seconds])
    row.conditions = {**conditions, "measure": "seconds", "useful": round(flight.useful, 4)}
    looks = f"; {fleet.n_requests / fleet.n_looks:.1f} requests a look" if fleet.n_looks else ""
    row.note = f"useful time {flight.useful:.1%}, {sum(flight.requests.values()):,} requests{looks}"
    return row


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    n_workers, n_tasks, task_s = (10, 300, 1.0) if run.quick else (50, 5000, 1.0)
    found = []
    for n_watchers in (0, N_WATCHERS):
        fleet = WatchedFleet(n_workers, n_watchers=n_watchers)
        flight = fleet.run(n_tasks, task_s)
        conditions = {"workers": n_workers, "n_tasks": n_tasks, "task_s": task_s, "watchers": n_watchers}
        found.append(row_of(flight, conditions, fleet))
    run.table(f"{n_workers} workers, {n_tasks:,} tasks of {task_s:g} s", found)


if __name__ == "__main__":
    main()
