"""joblib's `Parallel` with its own batching, which measures durations as ours does. It has no futures: `map` only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.peers._job import Job, Seat

DISTRIBUTION = "joblib"


@contextmanager
def opened(job: Job) -> Iterator[Seat]:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=job.n_workers, return_as="generator") as parallel:

        def call(function: Callable[[int], int], items: Sequence[int]) -> Iterable[int]:
            results: Iterable[int] = parallel(delayed(function)(i) for i in items)
            return results

        yield Seat(call)
