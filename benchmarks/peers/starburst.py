"""Ours. Its option `store` is the store's URL; without it, an embedded store in a folder of the measurement's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers._executors import caller
from benchmarks.peers._job import Job, Seat
from starburst_executor import StarburstExecutor

DISTRIBUTION = "starburst-executor"


@contextmanager
def opened(job: Job) -> Iterator[Seat]:
    store = job.options.get("store") or f"sqlite://{tempfile.gettempdir()}/sessions"
    with StarburstExecutor(workers=job.n_workers, store=store) as executor:
        seat = Seat(caller(executor, job))
        yield seat
    seat.requests = executor.requests()
