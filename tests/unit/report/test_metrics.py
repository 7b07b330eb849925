"""Metrics: three formats with the same numbers; Prometheus' own parser reads one of them."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from starburst_executor.protocol.spans.record import State
from starburst_executor.report.metrics import Metrics, read_metrics
from tests.support.session_pictures import ran
from tests.support.session_rig import SESSION, Rig


@pytest.fixture
def metrics() -> Metrics:
    rig = Rig()
    at = rig.clock.now()
    rig.clock.advance(10)
    states = [State.COMPLETED] * 8 + [State.FAILED] * 2
    ran(rig, rig.submit(10), "w", at + 9, [0.5] * 10, states=states, submitted_at=at)
    rig.submit(6, first=10)
    requests = {"get": 30, "not_modified": 10, "get_us": 2_000_000, "swap": 5, "swap_us": 500_000, "bytes_in": 1000}
    rig.beat("w", requests=requests)
    return read_metrics(rig.session, lambda: {"get": 10, "bytes_out": 7, "retried": 3})


def test_prometheus_reads_every_number(metrics: Metrics) -> None:
    samples = {}
    for family in text_string_to_metric_families(metrics.to_prometheus()):
        assert family.documentation
        assert family.type in ("gauge", "counter", "summary")
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("session") == SESSION
            samples[(sample.name, *labels.values())] = sample.value
    assert samples["starburst_tasks", "completed"] == 8
    assert samples["starburst_tasks", "failed"] == 2
    assert samples["starburst_tasks", "pending"] == 6
    assert samples["starburst_task_duration_seconds_count",] == 10
    assert samples["starburst_task_duration_seconds_sum",] == 5
    assert samples["starburst_task_duration_seconds", "0.5"] == pytest.approx(0.5, rel=0.05)
    assert samples["starburst_task_queue_seconds_count",] == 10
    assert samples["starburst_store_requests_total", "get"] == 50
    assert samples["starburst_store_request_seconds_total", "get"] == pytest.approx(2.0)
    assert samples["starburst_store_bytes_total", "out"] == 7
    assert samples["starburst_store_retries_total",] == 3
    assert samples["starburst_busy_seconds_total",] == 5


def test_json_and_text_have_the_same_numbers(metrics: Metrics) -> None:
    plain = json.loads(json.dumps(metrics.to_dict()))
    assert plain["tasks"] == {"total": 16, "pending": 6, "claimed": 0, "completed": 8, "failed": 2, "cancelled": 0}
    assert (plain["failure_rate"], plain["durations"]["n"], plain["is_exact"]) == (0.2, 10, True)
    assert plain["requests"]["swap"] == {"n": 5, "mean_s": 0.1}
    assert plain["requests"]["get"]["mean_s"] == pytest.approx(0.04)
    text = str(metrics)
    for words in ("6 pending", "20.0% of ended tasks", "swap            5  100 ms each"):
        assert words in text


def test_a_session_without_tasks_has_metrics() -> None:
    metrics = read_metrics(Rig().session)
    assert metrics.to_dict()["utilisation"] is None
    assert str(metrics)
    assert list(text_string_to_metric_families(metrics.to_prometheus()))
