"""dask.distributed by its `concurrent.futures` front: a scheduler and one process a worker, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers._executors import caller
from benchmarks.peers._job import Job, Seat

DISTRIBUTION = "distributed"


@contextmanager
def opened(job: Job) -> Iterator[Seat]:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=job.n_workers, threads_per_worker=1, dashboard_address=None)
    # pure=False: calls with equal arguments are separate calls, as in all other libraries.
    with cluster, Client(cluster) as client, client.get_executor(pure=False) as executor:
        yield Seat(caller(executor, job))
