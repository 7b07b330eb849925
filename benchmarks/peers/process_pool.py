"""The standard library's `ProcessPoolExecutor`, with the platform's own start method. Option `chunksize`, for `map`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from benchmarks.peers._executors import caller
from benchmarks.peers._job import Job, Seat

DISTRIBUTION = ""


@contextmanager
def opened(job: Job) -> Iterator[Seat]:
    with ProcessPoolExecutor(job.n_workers) as executor:
        yield Seat(caller(executor, job))
