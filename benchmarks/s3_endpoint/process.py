"""Starts the endpoint from a benchmark or a test, and reads its counters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["BUCKET", "ENVIRONMENT", "Running", "running", "started"]

BUCKET = "bench"
# Any credentials are accepted, but clients send no request without credentials.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class Running:
    """A running endpoint.

    Attributes:
        url: Its address.
        pid: The id of its process.
    """

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    def store(self, prefix: str) -> str:
        """The URL of a store in its bucket."""
        return f"s3://{BUCKET}/{prefix}?endpoint_url={self.url}&region=us-east-1"

    def counts(self) -> dict[str, float]:
        """Requests by kind since it started, refusals by status, bytes, and `cpu_s`, its CPU seconds."""
        with urllib.request.urlopen(f"{self.url}/_control/counts", timeout=60) as answer:
            counts: dict[str, float] = json.load(answer)
        return counts


@contextmanager
def running(latency: str = "aws", *, limits: str = "none", trace: Path | None = None) -> Iterator[Running]:
    """Run an endpoint with an empty bucket during the block, with the `AWS_*` variables that it needs."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with started(latency, limits=limits, trace=trace) as endpoint:
        for name in before:
            del os.environ[name]
        os.environ.update(ENVIRONMENT)
        try:
            yield endpoint
        finally:
            for name in ENVIRONMENT:
                os.environ.pop(name, None)
            os.environ.update(before)


@contextmanager
def started(latency: str = "aws", *, limits: str = "none", trace: Path | None = None) -> Iterator[Running]:
    """Run the same without a change of this process's environment: clients need `ENVIRONMENT`."""
    command = [sys.executable, str(Path(__file__).parent), "--latency", latency, "--limits", limits, "--bucket", BUCKET]
    if trace is not None:
        command += ["--trace", str(trace)]
    process = subprocess.Popen(
        [*command, "--until-eof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None  # the call asked for a pipe
    assert process.stdout is not None  # and for this one
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("the S3 endpoint did not start")
        yield Running(url, process.pid)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=30)
