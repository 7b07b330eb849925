"""The common part of all libraries with the interface of `concurrent.futures`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

from benchmarks.peers._job import Caller, Job

__all__ = ["caller"]


def caller(executor: Executor, job: Job) -> Caller:
    """Submit in a loop, or map, as the job says."""
    map_options = {"chunksize": job.options["chunksize"]} if "chunksize" in job.options else {}

    def submit_all(function: Callable[[int], int], items: Sequence[int]) -> Iterable[int]:
        futures = [executor.submit(function, i) for i in items]
        return (future.result() for future in futures)

    def map_all(function: Callable[[int], int], items: Sequence[int]) -> Iterable[int]:
        return executor.map(function, items, **map_options)

    return submit_all if job.how == "submit" else map_all
