"""What a worker has, and which slots use it."""

from __future__ import annotations

from typing import Any

import pytest

from starburst_executor.launch.local import machine
from starburst_executor.launch.local.machine import this_machine
from starburst_executor.worker.shares import Share
from starburst_executor.worker.stock import Grant, Stock


def test_no_more_is_given_than_there_is() -> None:
    stock = Stock({"gpu": 2, "memory": 100}, ("0", "1"))
    assert stock.can_ever("2xgpu.100xmemory")
    assert not stock.can_ever("3xgpu")
    assert not stock.can_ever("1xcamera")
    assert stock.take(0, "1xgpu.60xmemory") == Grant("1xgpu.60xmemory", ("0",))
    assert stock.take(1, "1xgpu.60xmemory") is None
    assert stock.take(1, "1xgpu.40xmemory") == Grant("1xgpu.40xmemory", ("1",))
    assert not stock.fits("1xgpu")
    assert stock.give_back(1)
    assert not stock.give_back(1)
    assert stock.give_back(0)
    assert stock.take(2, "2xgpu") == Grant("2xgpu", ("0", "1"))


class Offers:
    def __init__(self) -> None:
        self.n_unblocked = 0

    def unblock(self) -> None:
        self.n_unblocked += 1


def test_a_runner_ends_before_its_gpus_change_and_not_for_other_resources() -> None:
    stock, offers, ended = Stock({"gpu": 1, "cpu": 4}, ("7",)), Offers(), []
    candidates: Any = offers
    share = Share(stock, 0, candidates, lambda: ended.append(stock.fits("1xgpu")))
    assert share.take("2xcpu")
    assert share.take("2xcpu"), "the same again"
    assert not ended
    assert share.take("1xgpu")
    assert share.grant.gpus == ("7",)
    assert len(ended) == 1
    assert share.take("")
    # It ended while its slot still had them.
    assert ended == [False, False]
    assert stock.fits("1xgpu.4xcpu")
    assert offers.n_unblocked == 2
    assert not share.take("5xcpu")
    assert share.grant == Grant("")


def test_a_machine_has_what_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    found = this_machine()
    assert found.gpus == ("2", "GPU-abc")
    assert found.cpus >= 1
    assert found.memory_bytes > 2**28
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert this_machine().gpus == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(machine, "_LIMITS", ("/proc/self/no-such-file",))
    assert this_machine().memory_bytes >= found.memory_bytes
