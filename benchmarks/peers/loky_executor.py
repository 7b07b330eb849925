"""loky: a process pool that survives the death of its processes; what joblib runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers._executors import caller
from benchmarks.peers._job import Job, Seat

DISTRIBUTION = "loky"


@contextmanager
def opened(job: Job) -> Iterator[Seat]:
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(job.n_workers) as executor:
        yield Seat(caller(executor, job))
