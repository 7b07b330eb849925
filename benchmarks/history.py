"""Measures the cost of a long history: a census of 100,000 status objects, and a session's 100,000th lone submit beside its first.

    python benchmarks/history.py [--quick] [--out FOLDER]

Only requests are counted, so nothing is timed: the protocol's own code runs in one thread, step by step, on a store in
memory. The objects of the census are written through `protocol/`; each lone submit completes, from the submitter
through a claim and a commit to its future, before the next one begins.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments, n_requests
from benchmarks._simulated_s3 import Folders
from benchmarks.peers.tasks import no_op
from starburst_executor import config
from starburst_executor.client.batches import Acknowledged
from starburst_executor.client.collector import FEW_REMOTE, Collector
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.looks import Looks
from starburst_executor.client.opening import Opened, start
from starburst_executor.client.report import SessionStatus
from starburst_executor.client.submitter import Submitter
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.records import WorkerBeat, WorkerState, encode
from starburst_executor.protocol.spans import encoding, transitions
from starburst_executor.protocol.spans.record import CallBlock, OutcomeBlock, Span, State, Status
from starburst_executor.store.open import register_scheme
from starburst_executor.testing import FakeClock
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.finder import Finder
from starburst_executor.worker.runner.jobs import Finished

N_UNWELL, N_WORKERS = 100, 50


def session(clock: FakeClock) -> Opened:
    """Return a new session on its own store in memory."""
    folders = Folders(clock.now)
    register_scheme("sim", lambda _: folders)
    settings = config.resolve(detached=False, store="sim://bucket", workers=N_WORKERS)
    return start(settings, clock, detached=False, key="5e" * 32)


# --------------------------------------------------------------------------------------------------------------- census


def status_object(first: int, state: State) -> Status:
    """Return a status object of one task in this state."""
    pending = Status(0, first, ("0" * 32,), (Span(1),), (CallBlock(0, 1, 0, b""),))
    if state == State.PENDING:
        return pending
    claimed, _ = transitions.claim(pending, "w.1", at_most=1, now=0.0, max_losses=3)
    if state == State.CLAIMED:
        return claimed
    failed = (0,) if state == State.FAILED else ()
    ended = OutcomeBlock(0, 1, 1, 1, "w.1", b"an outcome", failed, seconds=array("f", [0.01]).tobytes())
    return transitions.commit(claimed, "w.1", [ended], 0.0)[0]


def census(n_statuses: int) -> Row:
    """Return the rows for the requests of one `status()`."""
    clock = FakeClock()
    opened = session(clock)
    store, keys = opened.store.inner, opened.session.keys
    # Half of the objects that are not completed have failed, half are claimed: only a read shows which.
    unwell = {i * (n_statuses // N_UNWELL): State.FAILED if i % 2 else State.CLAIMED for i in range(N_UNWELL)}
    for i in range(n_statuses):
        record = status_object(i, unwell.get(i, State.COMPLETED))
        store.create(keys.status(StatusRef(0, i, 1, i // STATUSES_PER_EPOCH)), encoding.encode(record, clock.new_id()))
    for i in range(N_WORKERS):
        beat = WorkerBeat(f"w{i:02}", 1, WorkerState.WORKING, 1, clock.now(), clock.now())
        store.create(keys.worker(beat.worker_id), encode(beat, clock.new_id()))
    before = Counter(opened.store.requests.snapshot())
    found = Looks(opened.session).look()
    requests = Counter(opened.store.requests.snapshot()) - before
    check_census(found, n_statuses)
    lists, gets = requests["list"], requests["get"] + requests["not_modified"]
    row = Row(f"status() of a session with {n_statuses:,} status objects", "requests", [n_requests(requests)])
    row.requests = dict(requests)
    row.conditions = {"status_objects": n_statuses, "unwell": N_UNWELL, "workers": N_WORKERS}
    pages = -(-n_statuses // 1000)
    row.budget = f"≤ {pages + 1 + N_UNWELL + N_WORKERS}"
    row.note = f"{lists} LISTs, {gets} GETs; {N_UNWELL} objects not ended well, {N_WORKERS} live workers"
    return row


def check_census(found: SessionStatus, n_statuses: int) -> None:
    expected = (n_statuses, N_UNWELL // 2, N_UNWELL // 2, N_WORKERS)
    if (found.total, found.failed, found.claimed, found.workers) != expected:
        raise SystemExit(f"a wrong census: {found}")


# --------------------------------------------------------------------------------------------------------- lone submits


class _StayingClient:
    """A client's successor that does nothing."""

    has_left = False

    def cancel(self, _: list[StarburstFuture[Any]]) -> int:
        return 0

    def reattacher(self) -> None:
        return None

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        raise AssertionError(f"only the future of a client that has left asks again: {future}")


class LoneSubmits:
    """Calls that are submitted one after the other."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        self._opened = session(self._clock)
        store = self._opened.session
        self._collector = Collector(store, map, few=FEW_REMOTE)
        self._submitter = Submitter(
            store, ordinal=0, n_workers=lambda: N_WORKERS, queue_bytes=1 << 20, acknowledged=self._acknowledged
        )
        self._finder, self._claims = Finder(store, self._clock, N_WORKERS), Claims(store, "w", self._clock)
        pickled = calls.dump_function(no_op)
        self._function = calls.digest(pickled), pickled

    def requests(self) -> Counter[str]:
        return Counter(self._opened.store.requests.snapshot())

    def call(self, number: int) -> None:
        """Make one call, from submit to result."""
        digest, pickled = self._function
        future = self._submitter.add(_future, digest, pickled, calls.dump_call((number,), {}))
        batch = self._submitter.take(0.0)
        assert batch is not None  # no other request is under way
        self._submitter.send(batch)
        self._clock.advance(1.0)  # longer than the pause between two rings
        self._finder.step()
        key = self._finder.candidates.take()
        assert key is not None  # the ring named it
        claim, _ = self._claims.claim(key, size=lambda _: 1)
        assert claim is not None  # there is no other worker
        claim.ended[0] = Finished(1, True, True, outcomes.dump_value(number), 0.0, b"", b"")
        self._claims.commit(claim)
        self._finder.candidates.saw(key, claim.stored.status)
        self._collector.poll()
        if future.result(0) != number:
            raise SystemExit(f"a wrong result: call={number}")

    def _acknowledged(self, batch: Acknowledged) -> None:
        self._collector.watch_rows(batch.key, batch.ref, batch.etag, batch.parts)


def _future(index: int) -> StarburstFuture[Any]:
    return StarburstFuture(_StayingClient(), 0, index)


def lone_submits(n_calls: int) -> Iterator[Row]:
    """Return the requests per call, for the session's first and last calls."""
    submits = LoneSubmits()
    window = min(1000, n_calls // 3)
    marks = {0: "first", n_calls - window: "last"}
    for number in range(n_calls):
        if number in marks:
            before = submits.requests()
        submits.call(number)
        start_of_window = number + 1 - window
        if start_of_window in marks:
            took = submits.requests() - before
            row = Row(f"a lone submit, mean of the {marks[start_of_window]} {window:,} of {n_calls:,}", "requests", [])
            row.values = [n_requests(took) / window]
            row.requests = dict(took)
            row.conditions = {"calls_before": start_of_window}
            yield row


def compared(rows: list[Row]) -> list[Row]:
    """Return the row that compares both: a full epoch costs the same at the beginning and at the end."""
    first, last = rows
    ratio = Row("last over first", "times", [last.values[0] / first.values[0]], budget="≤ 1.01")
    return [*rows, ratio]


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    n: Callable[[int, int], int] = lambda whole, quick: quick if run.quick else whole  # noqa: E731
    run.table("census", [census(n(100_000, 5_000))])
    run.table("lone submits", compared([*lone_submits(n(100_000, 6_000))]))


if __name__ == "__main__":
    main()
