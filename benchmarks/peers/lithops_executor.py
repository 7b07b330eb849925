"""Lithops: serverless functions whose state is in object storage, here with processes of this machine as functions.

Option `endpoint_url`: an S3 endpoint for its storage; without it, files. It has no futures for
single calls: `map` only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.peers._job import Job, Seat

DISTRIBUTION = "lithops"


@contextmanager
def opened(job: Job) -> Iterator[Seat]:
    from lithops import FunctionExecutor

    with FunctionExecutor(config=_config(job), log_level=None) as executor:

        def call(function: Callable[[int], int], items: Sequence[int]) -> Iterable[int]:
            futures = executor.map(function, [(i,) for i in items])
            results: list[int] = executor.get_result(futures, show_progressbar=False)
            return results

        yield Seat(call)


def _config(job: Job) -> dict[str, Any]:
    endpoint_url = job.options.get("endpoint_url")
    config: dict[str, Any] = {
        "lithops": {"backend": "localhost", "storage": "minio" if endpoint_url else "localhost"},
        # Version 1 runs a job's calls in processes that stay; the default one starts a process a call, 0.3 s of Python each.
        "localhost": {"runtime": sys.executable, "worker_processes": job.n_workers, "version": 1},
    }
    if endpoint_url:
        config["minio"] = {
            "endpoint": endpoint_url,
            "access_key_id": "testing",
            "secret_access_key": "testing",
            "storage_bucket": job.options["bucket"],
        }
    return config
