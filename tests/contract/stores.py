"""Stores as the contract wants them: small pages, small parts, bad lines; and what a racing writer does."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.errors import PreconditionFailed
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.s3 import boto as s3_boto
from starburst_executor.store.s3 import obstore as s3_obstore
from starburst_executor.store.s3.boto import BotoTransport
from starburst_executor.store.s3.store import S3Store
from starburst_executor.store.sqlite.store import SqliteStore
from starburst_executor.testing.faulty import Asked, Fault, FaultyStore

FAULT_RATE = 0.3


class HurriedClock(SystemClock):
    """Waits pass at once, and by that alone time passes. Its lots are drawn from a seed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self._now

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self._now += timeout_s
        self.waits.append(timeout_s)
        return event.is_set()


def s3_store(
    bucket: str, url: str, dialect: str, *, prefix: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> ObjectStore:
    """By that transport, with small parts; it lists a few keys at a time, so that every listing has several pages."""
    pages = BotoTransport._pages
    monkeypatch.setattr(BotoTransport, "_pages", lambda self, prefix, **asked: pages(self, prefix, MaxKeys=7, **asked))
    monkeypatch.setattr(s3_boto, "_WHOLE_BYTES", 6 << 20)
    monkeypatch.setattr(s3_boto, "_PART_BYTES", 5 << 20)  # the least that S3 takes
    monkeypatch.setattr(s3_obstore, "_READ_BYTES", 6 << 20)
    made = S3Store(
        bucket,
        prefix,
        endpoint_url=url,
        etag_quotes=dialect != "odd",
        transport="boto3" if transport == "boto3" else None,
    )
    assert made.transport == transport
    # A server that answers 500 to the loser can only be used with patience.
    return PatientStore(made, HurriedClock(), patience_s=60) if dialect == "rude" else made


def sqlite_store(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "sessions")


def impatient_line(store: ObjectStore, faults: Sequence[Fault], seed: int = 7) -> PatientStore:
    """A patient store over a line that fails a third of its requests; late writes land some requests later."""
    clock = HurriedClock(seed)
    lots = random.Random(seed)

    def plan(asked: Asked) -> Fault | None:
        if lots.random() < FAULT_RATE:
            faulty.land()
        if lots.random() >= FAULT_RATE:
            return None
        fault = lots.choice(faults)
        # A late `put` may undo a newer one: that is why only hints are written so, and none here.
        return None if fault is Fault.LATE and asked.kind not in ("create", "swap") else fault

    faulty = FaultyStore(store, plan)
    return PatientStore(faulty, clock, patience_s=1e9)


def append_mark(store: ObjectStore, key: str, mark: bytes) -> int:
    """Add a mark to an object that holds one per line, against all others who do the same; how many races it lost.

    What every writer of the protocol does: an unclear refusal is settled by looking for the own mark.
    """
    for n_lost in itertools.count():
        stored = store.get(key)
        assert stored is not None
        if mark in stored.body.split():
            return n_lost
        try:
            store.swap(key, stored.body + mark + b"\n", stored.etag)
        except PreconditionFailed:
            continue
        return n_lost
    raise AssertionError


def main(url: str, key: str, name: str, n_marks: int) -> None:
    """One of several processes that race for one object."""
    store = open_store(url)
    for number in range(n_marks):
        append_mark(store, key, f"{name}-{number}".encode())
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
