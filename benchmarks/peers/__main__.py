"""One measurement: `python -m benchmarks.peers <job as JSON> <file for the answer>`. See `_job.ask`."""

from __future__ import annotations

import importlib
import json
import platform
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks.peers._job import Answer, Job, measure
from benchmarks.peers.tasks import TASKS


def main() -> None:
    job, answer_file = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    answer = answered(job)
    # Renamed into place, so that the process that waits for the file never reads half of it.
    half = answer_file.with_suffix(".half")
    half.write_text(json.dumps(asdict(answer)), encoding="utf-8")
    half.rename(answer_file)


def answered(job: Job) -> Answer:
    """Return the job's answer; absent if its library is not installed."""
    adapter = importlib.import_module(f"benchmarks.peers.{job.peer}")
    try:
        version = metadata.version(adapter.DISTRIBUTION) if adapter.DISTRIBUTION else platform.python_version()
    except metadata.PackageNotFoundError:
        return Answer(absent="not installed")
    with adapter.opened(job) as seat:
        answer = measure(seat, job, TASKS[job.task], time.perf_counter)
    answer.version, answer.requests = version, seat.requests
    return answer


if __name__ == "__main__":
    main()
