"""The stores that the contract is run on, and the local S3 some of them need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.s3_endpoint.process import BUCKET, ENVIRONMENT, Running, started
from starburst_executor.store.base import ObjectStore
from starburst_executor.testing.faulty import Fault
from starburst_executor.testing.memory import MemoryStore
from tests.contract.stores import SmallPagesS3Store, impatient_line, sqlite_store
from tests.moto_server import MotoServer, moto_server

__all__ = ["moto_server"]

PLAIN = ("memory", "sqlite", "s3", "s3-odd", "s3-rude", "s3-bench")
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
    elif kind == "s3-bench":
        endpoint: Running = request.getfixturevalue("s3_endpoint")
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        made = SmallPagesS3Store.on(BUCKET, endpoint.url, prefix=tmp_path.name, monkeypatch=monkeypatch)
    else:
        server: MotoServer = request.getfixturevalue("moto_server")
        dialect = kind.removeprefix("s3").removeprefix("-") or "plain"
        made = SmallPagesS3Store.speaking(server, dialect, prefix=tmp_path.name, monkeypatch=monkeypatch)
    yield made
    made.close()
