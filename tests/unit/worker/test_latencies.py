"""How long requests took lately: counts since a minute ago, whatever was before."""

from __future__ import annotations

from collections import Counter

from starburst_executor.protocol.records import Latency
from starburst_executor.worker.latencies import RECENT_S, Latencies


def test_only_the_last_minute_counts() -> None:
    latencies, requests = Latencies(), Counter({"get": 1, "get_us": 5_000, "swap": 1, "swap_us": 9_000})
    assert latencies.recent(0.0, requests) == Latency(1, 5_000, 1, 9_000)
    for turn in range(1, 20):
        requests.update({"not_modified": 1, "get_us": 100, "list": 1, "list_us": 300, "put": 1, "put_us": 700})
        found = latencies.recent(15.0 * turn, requests)
    n_turns = int(RECENT_S / 15)
    assert found == Latency(2 * n_turns, 400 * n_turns, n_turns, 700 * n_turns)


def test_after_a_longer_pause_the_requests_since_then_count() -> None:
    latencies, requests = Latencies(), Counter({"get": 1, "get_us": 1})
    latencies.recent(0.0, requests)
    requests.update({"get": 2, "get_us": 50})
    assert latencies.recent(1000.0, requests) == Latency(2, 50, 0, 0)
    assert latencies.recent(1001.0, requests) == Latency(2, 50, 0, 0)
