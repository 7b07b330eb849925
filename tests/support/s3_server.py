"""The S3 that whole sessions of tests run on: the endpoint of the benchmarks, for a tenth of moto's CPU time a request.

The contract of stores is run on both, and what moto alone has is tested on moto: other dialects, other services, and
what boto3 asks for by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.s3_endpoint.process import BUCKET, ENVIRONMENT, started

__all__ = ["S3Server", "s3_server"]


class S3Server:
    """A running server with one bucket, and what a process must know to use it."""

    bucket = BUCKET

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url

    def use(self, patch: pytest.MonkeyPatch, *, at: str | None = None) -> None:
        """Have boto3, here and in processes started from now on, ask it, whatever the machine's own AWS settings are.

        Args:
            at: The address of a proxy in front of it.
        """
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": at or self.endpoint_url}.items():
            patch.setenv(name, value)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One for all tests of a process: each has a folder of its own in the bucket."""
    with started("none") as running:
        yield S3Server(running.url)
