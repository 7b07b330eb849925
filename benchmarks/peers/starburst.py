"""This library. Option `store`: the store's URL; by default an embedded store in the measurement's own folder."""

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
