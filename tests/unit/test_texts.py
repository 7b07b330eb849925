"""Words and numbers for people, as short as they must be."""

from __future__ import annotations

import pytest

from starburst_executor.texts import shortened, usd_text


@pytest.mark.parametrize(("text", "short"), [("", ""), ("abcd", "abcd"), ("abcde", "abc…"), ("a\nb" * 9, "a\nb…")])
def test_a_text_is_never_longer_than_it_may_be(text: str, short: str) -> None:
    assert shortened(text, 4) == short


@pytest.mark.parametrize(
    ("usd", "text"), [(0.0, "$0"), (0.00012, "$0.0001"), (0.5, "$0.5000"), (1.0, "$1.00"), (12345.678, "$12,345.68")]
)
def test_small_amounts_have_more_digits(usd: float, text: str) -> None:
    assert usd_text(usd) == text
