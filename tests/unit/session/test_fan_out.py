"""Requests side by side where the store is far, one by one where it is here."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from starburst_executor.session.fan_out import AT_ONCE, fan_out
from starburst_executor.testing import MemoryStore


class Far(MemoryStore):
    @property
    def url(self) -> str:
        return "s3://bucket"


def test_far_away_as_many_as_may_be_are_on_their_way_at_once() -> None:
    together = threading.Barrier(AT_ONCE)

    def ask(i: int) -> int:
        together.wait(30)
        return i * i

    assert fan_out(Far(), ask, range(2 * AT_ONCE)) == [i * i for i in range(2 * AT_ONCE)]


def test_here_they_are_made_one_by_one_in_this_thread() -> None:
    me = threading.get_ident()
    assert fan_out(MemoryStore(), lambda _: threading.get_ident(), range(50)) == [me] * 50


@pytest.mark.parametrize("store", [MemoryStore(), Far()])
def test_an_error_is_raised_once_none_runs_any_more(store: Any) -> None:
    asked: list[int] = []

    def ask(i: int) -> None:
        asked.append(i)
        if i == 3:
            raise ValueError(f"number {i}")

    with pytest.raises(ValueError, match="number 3"):
        fan_out(store, ask, range(10_000))
    assert len(asked) < 10_000
    assert fan_out(store, str, ()) == []
