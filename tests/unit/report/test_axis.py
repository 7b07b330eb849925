"""The axis of bins that become wider, against a sum over all intervals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor.report.axis import N_BINS, Axis, Counts, Coverage
from starburst_executor.report.durations import ERROR, Durations

moments = st.floats(0, 1e5)
lengths = st.floats(1e-4, 1e4)


@settings(max_examples=30)
@given(st.lists(st.tuples(moments, lengths), min_size=1, max_size=20))
def test_each_bin_has_its_share_of_every_interval(intervals: list[tuple[float, float]]) -> None:
    axis = Axis(100.0)
    coverage, counts = Coverage(axis), Counts(axis)
    for start, length in intervals:
        coverage.cover(100.0 + start, 100.0 + start + length)
        counts.count(100.0 + start)
    width, values = axis.width_s, coverage.values()
    for i in range(N_BINS):
        begin, end = i * width, (i + 1) * width
        covered = sum(max(0.0, min(start + length, end) - max(start, begin)) for start, length in intervals) / width
        assert values[i] == pytest.approx(covered, abs=1e-6)
    assert sum(counts.values) == len(intervals)


def test_an_interval_up_to_the_last_bin_has_an_end_after_bins_were_joined() -> None:
    axis = Axis(0.0)
    coverage = Coverage(axis)
    last = N_BINS * axis.width_s
    coverage.cover(0.0, last * 0.9999)
    axis.place(last * 1.5)
    assert coverage.values()[N_BINS // 2 + 1 :] == [0.0] * (N_BINS // 2 - 1)


def test_what_was_before_the_first_moment_counts_to_the_first_bin() -> None:
    axis = Axis(100.0)
    counts = Counts(axis)
    counts.count(3.0)
    assert counts.values[0] == 1


@given(st.lists(st.floats(1e-5, 1e6), min_size=1, max_size=200), st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_quantiles_are_right_within_the_error_that_they_state(seconds: list[float], share: float) -> None:
    durations = Durations()
    durations.add(seconds)
    exact = sorted(seconds)[max(0, -(-int(share * 1000) * len(seconds) // 1000) - 1)]
    assert durations.quantile(share) == pytest.approx(exact, rel=ERROR * 1.01)
    assert durations.mean_s == pytest.approx(sum(seconds) / len(seconds))
    assert sum(n for _, _, n in durations.histogram()) == len(seconds)
    assert len(durations.histogram()) <= 60


@pytest.mark.parametrize("step", [1, 2, 4, 8, 24, 48, 96])
def test_a_histogram_has_at_most_sixty_bars_wherever_its_first_one_begins(step: int) -> None:
    for length in (59 * step - 1, 59 * step, 59 * step + 1, 60 * step - 1, 60 * step):
        for first in (-7200, -7199, -step - 1, -1, 0, 1, step - 1):
            ends = [10 ** ((number + 0.5) / 24) for number in (first, first + length)]
            durations = Durations()
            durations.add(ends)
            bars = durations.histogram()
            assert len(bars) <= 60
            assert [end for _, end, _ in bars[:-1]] == [start for start, _, _ in bars[1:]]
            assert (bars[0][0] <= ends[0], bars[-1][1] >= ends[1]) == (True, True)
            assert sum(n for _, _, n in bars) == 2


def test_without_durations_there_are_no_numbers() -> None:
    durations = Durations()
    durations.add([])
    assert (durations.quantile(0.5), durations.mean_s, durations.histogram()) == (None, None, [])
