"""Regression checks: whether the metrics of a study became worse than those of a baseline, by more than a tolerance. Pure.

For each case, which is trials with equal parameters, and each metric:

- With at least two values on both sides, the test is Welch's t-test (unequal variances), one-sided, of whether the mean became worse at all.
  The p-values of all tests of a check are adjusted by Holm's method. It is a *regression* if the mean is worse by more than the tolerance and the
  adjusted p-value is below 1 - confidence. If it is worse by more than the tolerance and the test does not show it, it is *uncertain*, and passes.
- With fewer values the means are compared with the tolerance alone.
- If the baseline has a value and the study has none, it is *missing*, which fails: a trial that fails is a regression too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from starburst_executor.errors import ConfigError
from starburst_executor.study.baselines import Case, Measured, mean_of
from starburst_executor.study.wording import shown

__all__ = ["CheckReport", "Comparison", "Tolerance", "checked", "tolerances_of"]

OK, BETTER, REGRESSION, UNCERTAIN, MISSING, NEW = "ok", "better", "regression", "uncertain", "missing", "new"
FAILING = (REGRESSION, MISSING)
_LEAST_CONFIDENCE = 0.5
_TOLERANCE = re.compile(r"(?P<metric>[^=]+)=(?P<value>[0-9.]+(?:[eE][+-]?[0-9]+)?)(?P<percent>%?)")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse a mean may become.

    Attributes:
        value: A share of the baseline's mean, or a number in the metric's own unit.
        is_share: Which of both.
    """

    value: float
    is_share: bool

    def limit(self, baseline: float) -> float:
        """Return it in the metric's unit."""
        return self.value * abs(baseline) if self.is_share else self.value

    def __str__(self) -> str:
        return f"{self.value * 100:g} %" if self.is_share else f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one case.

    Attributes:
        case: Its parameters, as text.
        metric: The metric.
        direction: `max` or `min`.
        tolerance: As text.
        verdict: `ok`, `better`, `regression`, `uncertain`, `missing` or `new`.
        baseline: The mean of the baseline; None without a value.
        current: The mean of the study; None without a value.
        n_baseline: The number of values of the baseline.
        n_current: The number of values of the study.
        change: (current - baseline) / |baseline|; None if one is missing or the baseline is 0.
        low: The lower end of the confidence interval of current - baseline; None without a test.
        high: The upper end.
        p: The adjusted p-value; None without a test.
        test: The test, in words.
    """

    case: str
    metric: str
    direction: str
    tolerance: str
    verdict: str
    baseline: float | None
    current: float | None
    n_baseline: int
    n_current: int
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    test: str = "none: too few values"

    @property
    def fails(self) -> bool:
        return self.verdict in FAILING


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of a check.

    Attributes:
        study: The study that was checked.
        stage: Its stage.
        baseline: Where the baseline comes from.
        confidence: Of tests and intervals.
        comparisons: One for each case and metric, those that fail first.
    """

    study: str
    stage: str
    baseline: str
    confidence: float
    comparisons: tuple[Comparison, ...]

    @property
    def is_ok(self) -> bool:
        return not any(one.fails for one in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {"format": 1, "ok": self.is_ok, **asdict(self)}

    def __str__(self) -> str:
        n_failing = sum(one.fails for one in self.comparisons)
        said = "passes" if self.is_ok else f"fails: {n_failing} of {len(self.comparisons)} comparisons"
        lines = [f"  {one.verdict:<10} {line_of(one)}" for one in self.comparisons]
        return "\n".join([f"check of study {self.study}, stage {self.stage}, against {self.baseline} {said}", *lines])


def line_of(one: Comparison) -> str:
    """Return a comparison as one line for people."""
    if one.baseline is None or one.current is None:
        side = (
            "the baseline has no value"
            if one.baseline is None
            else "the study has no value: none of its completed trials has a finite one"
        )
        return f"{shown(one.metric)} of {shown(one.case)}: {side}"
    change = "" if one.change is None else f" ({one.change * 100:+.2f} %, tolerance {one.tolerance})"
    test = "" if one.p is None else f", p={one.p:.3g}"
    return f"{shown(one.metric)} of {shown(one.case)}: {one.baseline:.6g} -> {one.current:.6g}{change}, n={one.n_baseline}, {one.n_current}{test}"


def tolerances_of(texts: Iterable[str] | Mapping[str, Any]) -> dict[str, Tolerance]:
    """Read tolerances: `loss=2%` is a share of the baseline, `loss=0.1` a number. Raises: ConfigError."""
    if isinstance(texts, Mapping):
        texts = [f"{name}={value}" for name, value in texts.items()]
    found = {}
    for text in texts:
        match = _TOLERANCE.fullmatch(text.replace(" ", ""))
        try:
            if match is None:
                raise ValueError(text)
            value = float(match["value"])
        except ValueError as error:
            raise ConfigError(f"tolerance {text!r}: must be metric=2% or metric=0.1") from error
        is_share = bool(match["percent"])
        found[match["metric"]] = Tolerance(value / 100 if is_share else value, is_share)
    if not found:
        raise ConfigError("a check needs a tolerance: --tolerance metric=2%")
    return found


def checked(
    current: Measured,
    baseline: Measured,
    tolerances: Mapping[str, Tolerance],
    *,
    directions: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    named: str = "",
) -> CheckReport:
    """Compare a study with a baseline.

    Args:
        directions: `max` or `min` of metrics that the study does not declare.
        named: Where the baseline comes from.

    Raises: ConfigError: a metric has no direction, or neither side has it; no case is in both; tests need the extra `check`.
    """
    if not _LEAST_CONFIDENCE <= confidence < 1:
        raise ConfigError(f"confidence={confidence!r}: must be at least {_LEAST_CONFIDENCE}, and below 1")
    known = {**baseline.directions, **current.directions, **(directions or {})}
    names = sorted({name for side in (current, baseline) for case in side.cases for name in case.metrics})
    for metric in tolerances:
        if metric not in names:
            raise ConfigError(f"there is no metric {metric!r}: there are {', '.join(names) or 'none'}")
        if known.get(metric) not in ("max", "min"):
            raise ConfigError(
                f"the direction of metric {metric!r} is not known: declare it in the stage's metrics, or give --direction {metric}=min"
            )
    found: list[Comparison] = []
    ours, theirs = ({case.key: case for case in side.cases} for side in (current, baseline))
    if ours and theirs and not ours.keys() & theirs.keys():
        raise ConfigError(
            f"no case is in both: {current.study} has {current.cases[0].name}, the baseline {baseline.cases[0].name}: --by names the "
            "parameters that separate cases, --update-baseline writes another baseline"
        )
    for metric, tolerance in tolerances.items():
        for key in dict.fromkeys([*theirs, *ours]):
            values = [_values(side.get(key), metric) for side in (theirs, ours)]
            if values[0] or values[1]:
                name = (ours.get(key) or theirs[key]).name
                found.append(_compared(name, metric, known[metric], tolerance, values[0], values[1], confidence))
    decided = [_decided(one, tolerances[one.metric], confidence) for one in _adjusted(found)]
    decided.sort(key=lambda one: not one.fails)
    return CheckReport(current.study, current.stage, named or baseline.study, confidence, tuple(decided))


def _values(case: Case | None, metric: str) -> tuple[float, ...]:
    values = () if case is None else case.metrics.get(metric, ())
    return tuple(value for value in values if math.isfinite(value))


def _compared(
    case: str,
    metric: str,
    direction: str,
    tolerance: Tolerance,
    before: Sequence[float],
    after: Sequence[float],
    confidence: float,
) -> Comparison:
    """Return a comparison with its test, and no verdict yet."""
    means = [mean_of(values) if values else None for values in (before, after)]
    one = Comparison(case, metric, direction, str(tolerance), "", means[0], means[1], len(before), len(after))
    if means[0] is None or means[1] is None:
        return one
    change = (means[1] - means[0]) / abs(means[0]) if means[0] else None
    one = replace(one, change=change)
    if min(len(before), len(after)) < 2:  # noqa: PLR2004 - a variance needs two
        return one
    test = "Welch's t-test, one-sided, p-values adjusted by Holm's method"
    if len({*before}) == len({*after}) == 1:  # no variance: the means differ for certain, or not at all
        is_worse = _worsening(one) > 0
        gap = means[1] - means[0]
        return replace(one, low=gap, high=gap, p=0.0 if is_worse else 1.0, test=test)
    welch = _welch()
    worse = "greater" if direction == "min" else "less"
    # Squares of very large numbers are too large, and of very small ones 0. A power of two changes no digit.
    exponent = max(math.frexp(value)[1] for value in (*before, *after))
    scaled = [[math.ldexp(value, -exponent) for value in values] for values in (after, before)]
    p = float(welch(*scaled, equal_var=False, alternative=worse).pvalue)
    interval = welch(*scaled, equal_var=False).confidence_interval(confidence)
    low, high = (_times_two(float(end), exponent) for end in (interval.low, interval.high))
    return replace(one, low=low, high=high, p=p, test=test)


def _times_two(value: float, times: int) -> float:
    try:
        return math.ldexp(value, times)
    except OverflowError:
        return math.copysign(math.inf, value)


def _adjusted(found: list[Comparison]) -> list[Comparison]:
    """Return the comparisons with Holm's adjustment of their p-values."""
    tested = sorted((one.p, number) for number, one in enumerate(found) if one.p is not None)
    adjusted, highest = list(found), 0.0
    for rank, (p, number) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[number] = replace(found[number], p=highest)
    return adjusted


def _decided(one: Comparison, tolerance: Tolerance, confidence: float) -> Comparison:
    if one.current is None or one.baseline is None:
        return replace(one, verdict=MISSING if one.current is None else NEW)
    limit = tolerance.limit(one.baseline)
    worsening = _worsening(one)
    # What decimal numbers cost in binary is no regression.
    slack = 1e-12 * max(abs(one.baseline), abs(one.current))
    if worsening > limit + slack:
        return replace(one, verdict=REGRESSION if one.p is None or one.p < 1 - confidence else UNCERTAIN)
    return replace(one, verdict=BETTER if -worsening > limit + slack else OK)


def _worsening(one: Comparison) -> float:
    assert one.current is not None and one.baseline is not None  # noqa: S101, PT018 - both sides have values
    gap = one.current - one.baseline
    return gap if one.direction == "min" else -gap


def _welch() -> Any:
    try:
        from scipy.stats import ttest_ind
    except ImportError as error:
        raise ConfigError(
            f"a check of repeated trials needs an extra: pip install 'starburst-executor[cli,check]' ({error.name} is missing)"
        ) from error
    return ttest_ind
