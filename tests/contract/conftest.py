"""The stores that the contract is run on, and the local S3 some of them need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.s3_endpoint.process import BUCKET, ENVIRONMENT, Running, started
from starburst_executor.store.base import ObjectStore
from starburst_executor.testing.faulty import Fault
from starburst_executor.testing.memory import MemoryStore
from tests.contract.stores import impatient_line, s3_store, sqlite_store
from tests.support.express_bucket import DIRECTORY_BUCKET
from tests.support.moto_server import MotoServer, moto_server

__all__ = ["moto_server"]

# A server that is rude to losers differs in nothing else, and boto3 has no words of its own for them.
S3 = (
    "s3-plain-obstore",
    "s3-odd-obstore",
    "s3-rude-obstore",
    "s3-plain-boto3",
    "s3-odd-boto3",
    "s3-bench-obstore",
    "s3-express-boto3",
)
PLAIN = ("memory", "sqlite", *S3)
FAULTY = {
    "patient-lost-answers": [Fault.ANSWER_LOST, Fault.ERROR_AFTER],
    "patient-late-writes": [Fault.LATE],
    "patient-conflicts": [Fault.CONFLICT],
    "patient-throttled": [Fault.THROTTLED, Fault.RESET],
    "patient-everything": [fault for fault in Fault if fault is not Fault.DENIED],
}


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[Running]:
    """The S3 that benchmarks run on, as fast as it can: it must be one, or they measure something else."""
    with started("none") as endpoint:
        yield endpoint


def s3_place(request: pytest.FixtureRequest, dialect: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The bucket and the address of a server that speaks so."""
    if dialect == "bench":
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        endpoint: Running = request.getfixturevalue("s3_endpoint")
        return BUCKET, endpoint.url
    server: MotoServer = request.getfixturevalue("moto_server")
    if dialect == "express":
        return DIRECTORY_BUCKET, server.endpoints[dialect]
    return server.bucket, server.endpoints[dialect]


@pytest.fixture(params=[*PLAIN, *FAULTY])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Each implementation in turn, empty."""
    kind: str = request.param
    made: ObjectStore
    if kind == "memory":
        made = MemoryStore()
    elif kind == "sqlite":
        made = sqlite_store(tmp_path)
    elif kind in FAULTY:
        made = impatient_line(MemoryStore(), FAULTY[kind])
    else:
        _, dialect, transport = kind.split("-")
        where = s3_place(request, dialect, monkeypatch)
        made = s3_store(*where, dialect, prefix=tmp_path.name, transport=transport, monkeypatch=monkeypatch)
    yield made
    made.close()
