"""Each benchmark with a load so small that it only shows that it works, and the S3 endpoint that they run on."""

from __future__ import annotations

import argparse
import json
import statistics
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks import latency, request_counts, sweep
from benchmarks._rows import Row, Run, cost_usd, n_requests
from benchmarks.s3_endpoint.answers import Request
from benchmarks.s3_endpoint.latency import Latency
from benchmarks.s3_endpoint.process import running
from benchmarks.s3_endpoint.server import Endpoint, Limits
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from tests.contract.stores import HurriedClock


def test_rows_are_written_where_out_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("benchmarks/some.py", argparse.Namespace(quick=True, out=tmp_path))
    row = Row(
        "wall", "s", [3.0, 1.0, 2.0], requests={"get": 1000, "swap": 1000}, conditions={"workers": 2}, budget="≤ 5"
    )
    run.table("a table", [row])
    run.table("another", [row])
    table, rows = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert table.read_text(encoding="utf-8") == capsys.readouterr().out
    told = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert [(one["p50"], one["n"], one["n_requests"], one["conditions"]) for one in told] == [
        (2.0, 3, 2000, {"workers": 2})
    ] * 2
    assert cost_usd(row.requests) == pytest.approx(0.0054)


# ---------------------------------------------------------------------------------------------------------- endpoint


def test_the_endpoint_counts_what_a_client_asks(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with running("none", trace=trace) as endpoint:
        store = PatientStore(open_store(endpoint.store("some")), HurriedClock(), patience_s=1.0)
        etag = store.create("a/key", b"body")
        store.swap("a/key", b"other", etag)
        stored = store.get("a/key")
        assert stored is not None
        assert store.get_if_changed("a/key", stored.etag) is None
        assert [line.key for line in store.list("a/")] == ["a/key"]
        store.put("a/key", b"third")
        store.delete(["a/key"])
        store.close()
        counts, told = endpoint.counts(), store.requests.snapshot()
    assert {kind: counts[kind] for kind in told if told[kind] and "bytes" not in kind} == {
        kind: n for kind, n in told.items() if n and "bytes" not in kind
    }
    assert len(trace.read_text(encoding="utf-8").splitlines()) == n_requests(told)


def test_the_endpoint_refuses_what_is_no_request_of_its_own() -> None:
    with running("none") as endpoint:
        for path, code in (("/bench/nothing", 404), ("/nobucket/key", 404), ("/bench", 501)):
            with pytest.raises(urllib.error.HTTPError) as raised:
                urllib.request.urlopen(endpoint.url + path)
            assert raised.value.code == code
            raised.value.close()


def test_bodies_in_pieces_are_put_together() -> None:
    with running("none") as endpoint:
        body = b"4;chunk-signature=x\r\nbody\r\n2;chunk-signature=y\r\n!!\r\n0;chunk-signature=z\r\n\r\n"
        request = urllib.request.Request(
            f"{endpoint.url}/bench/key", body, {"Content-Encoding": "aws-chunked"}, method="PUT"
        )
        urllib.request.urlopen(request).close()
        with urllib.request.urlopen(f"{endpoint.url}/bench/key") as answer:
            assert answer.read() == b"body!!"


def test_above_its_limits_the_endpoint_refuses() -> None:
    endpoint = Endpoint(Latency("none"), Limits(n_reads=10.0, n_writes=5.0))
    request = Request.parse("GET", "/bench/key", {})
    assert [endpoint.is_throttled(request, "get", 100.0) for _ in range(12)] == [False] * 10 + [True] * 2
    assert [endpoint.is_throttled(request, "put", 100.0) for _ in range(7)] == [False] * 5 + [True] * 2
    assert [endpoint.is_throttled(request, "get", 100.3) for _ in range(4)] == [False] * 3 + [True]


def test_latencies_are_as_published() -> None:
    drawn = Latency("aws", seed=3)
    reads, writes = sorted(drawn.draw_s("get") for _ in range(5000)), sorted(drawn.draw_s("swap") for _ in range(5000))
    assert statistics.median(reads) == pytest.approx(0.030, rel=0.05)
    assert statistics.median(writes) == pytest.approx(0.060, rel=0.05)
    assert reads[4750] / statistics.median(reads) == pytest.approx(69.0 / 26.8, rel=0.15)
    assert 0.08 < writes[4950] <= 0.15
    again = Latency("aws", seed=3)
    assert sorted(again.draw_s("get") for _ in range(5000)) == reads
    assert Latency("none").draw_s("put") == 0.0


# -------------------------------------------------------------------------------------------------------- benchmarks


def test_a_sweep_is_measured() -> None:
    load = sweep.Load("naps", [0.01] * 20, most_s=5.0)
    with running("none") as endpoint:
        before = endpoint.counts()
        with sweep.warm(endpoint, 2, "test") as (executor, first_s, all_s):
            assert 0 < first_s <= all_s
            measured = sweep.measure(endpoint, executor, load, "naps-0")
        compared = sweep.compared(executor, endpoint, before, 2)
    rows = {row.name: row for row in sweep.rows_of(load, [measured], 2)}
    assert rows["naps: wall"].values[0] >= 0.1
    assert 0 < rows["naps: useful time"].values[0] <= 100
    assert rows["naps: requests a task"].values[0] * 20 == n_requests(measured.requests)
    # Requests after the last beat, and those of the benchmark itself, are not reported.
    assert 50 < compared.values[0] <= 101


def test_ideal_is_what_the_longest_line_takes() -> None:
    assert sweep.ideal_s([1.0, 1.0, 1.0, 5.0], 2) == 6.0


def test_latencies_of_one_task_are_measured(tmp_path: Path) -> None:
    rows = latency.starburst("embedded", f"sqlite://{tmp_path}/sessions", "≤ 5", n_trips=5, n_cold=1, n_rests=0)
    assert [len(row.values) for row in rows] == [5, 5, 3, 1]
    assert all(value > 0 for row in rows for value in row.values)


def test_requests_are_counted_in_simulated_time() -> None:
    one = request_counts.row_of(1.0, 20, 4)
    assert one.conditions["seconds"] >= 5.0
    assert one.values == request_counts.row_of(1.0, 20, 4).values
    assert 5 < one.percentile(0.5) < 20
