"""Bars: what they count, where they are drawn, and when they are not."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest

from starburst_executor.client import bars
from starburst_executor.client.bars import Bar, Capacity, total_of, wants_bar
from starburst_executor.client.future import StarburstFuture
from starburst_executor.errors import ConfigError
from starburst_executor.testing import FakeClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def last(self) -> str:
        return self.getvalue().rstrip("\n").rpartition("\r")[2].strip()


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What is a terminal from now on; not a fixture, after which pytest would put its own in this place."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "200")
    return shown


def futures(n: int) -> list[StarburstFuture[int]]:
    return [StarburstFuture(None, 0, i) for i in range(n)]


def test_a_bar_counts_what_ended_failed_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    clock = FakeClock()
    bar = Bar(Capacity(lambda: 2, lambda: 3), clock, 8)
    mine = futures(8)
    bar.add(*mine)
    bar.tick()
    assert "0/8" in terminal.last()
    for future in mine[:6]:
        future.mark_running()
    mine[0].complete(1, None)
    mine[1].complete(None, ValueError())
    mine[2].mark_cancelled()
    bar.tick()
    assert "0/8" in terminal.last(), "it is drawn a few times a second only"
    clock.advance(1.0)
    bar.tick()
    assert "3/8" in terminal.last()
    assert "1 failed, 1 cancelled, 2 running, 3 workers" in terminal.last()
    for future in mine:
        future.complete(1, None)
    bar.close()
    assert "8/8" in terminal.last()
    assert "running" not in terminal.last()
    bar.close()


def test_a_bar_keeps_no_future_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    bar = Bar(Capacity(lambda: 2, lambda: 0), FakeClock(), None)
    (future,) = futures(1)
    bar.add(future)
    future.complete([1], None)
    bar.tick(now=True)
    before = sys.getrefcount(future)
    bar.close()
    assert sys.getrefcount(future) == before
    assert "1 tasks" in terminal.last()


def test_futures_come_as_they_end_while_the_bar_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    clock = FakeClock()
    mine = futures(3)
    mine[2].complete(2, None)
    ended = Bar(Capacity(lambda: 2, lambda: 1), clock, 3).as_completed(mine, None)
    assert next(ended) is mine[2]
    timer = threading.Timer(0.05, lambda: [future.complete(0, None) for future in mine[:2]])
    timer.start()
    assert list(ended) == mine[:2]
    timer.join()
    assert "3/3" in terminal.last()


def test_waiting_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    clock = FakeClock()
    (future,) = futures(1)
    bar = Bar(Capacity(lambda: 2, lambda: 1), clock, 1)
    bar.wait_for(future, clock.monotonic())
    with pytest.raises(bars.TimeoutError, match=r"1 \(of 1\) futures unfinished"):
        list(bar.as_completed([future], clock.monotonic()))
    assert not future.is_asked_for()


def test_a_bar_needs_no_thread_and_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    before = threading.enumerate()
    bar = Bar(Capacity(lambda: 2, lambda: 1), FakeClock(), 1)
    bar.tick()
    assert threading.enumerate() == before
    bar.close()


def test_a_bar_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    assert wants_bar(True)
    assert wants_bar(None)
    assert not wants_bar(False)
    for elsewhere in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", elsewhere)
        assert not wants_bar(True)
        assert not wants_bar(None)


def test_without_tqdm_only_who_asks_for_a_bar_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    bars._tqdm.cache_clear()
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'starburst-executor\[progress\]'"):
        wants_bar(True)
    assert not wants_bar(None)
    assert not wants_bar(False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(ConfigError, match="tqdm"):
        wants_bar(True)


@pytest.mark.parametrize(
    ("iterables", "total"), [(([1, 2, 3], range(2)), 2), (([1, 2], iter([1])), None), ((), 0), ((iter(()),), None)]
)
def test_how_many_calls_a_map_makes(iterables: Any, total: int | None) -> None:
    assert total_of(iterables) == total
