"""A check for the page of a CI job, as Markdown, and for its list of tests, as JUnit XML."""

from __future__ import annotations

from pathlib import Path

from starburst_executor.errors import ConfigError
from starburst_executor.study.checking import UNCERTAIN, CheckReport, Comparison, line_of
from starburst_executor.study.wording import shown

__all__ = ["to_markdown", "write_junit"]

_MARKS = {
    "regression": "❌", "missing": "❌", "uncertain": "⚠️", "ok": "✅", "better": "✅", "new": "➕",
}  # fmt: skip


def to_markdown(report: CheckReport) -> str:
    """Return a check as Markdown, with a table."""
    said = "passes" if report.is_ok else "fails"
    lines = [
        f"### {'✅' if report.is_ok else '❌'} Check of study `{report.study}`, stage `{report.stage}`, {said}",
        "",
        f"Baseline: `{report.baseline}`. Confidence {report.confidence:.0%}; Welch's t-test, one-sided, where trials repeat.",
        "",
        "| | metric | trials | baseline | now | change | interval | p | tolerance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(one) for one in report.comparisons]
    if any(one.verdict == UNCERTAIN for one in report.comparisons):
        lines += ["", "⚠️ worse than the tolerance, and the test does not show it: more repeats would."]
    return "\n".join(lines) + "\n"


def _row(one: Comparison) -> str:
    interval = "" if one.low is None or one.high is None else f"{one.low:+.4g} … {one.high:+.4g}"
    change = "" if one.change is None else f"{one.change * 100:+.2f} %"
    cells = [
        f"{_MARKS[one.verdict]} {one.verdict}",
        f"{_cell(one.metric)} ({one.direction})",
        _cell(one.case),
        _number(one.baseline, one.n_baseline),
        _number(one.current, one.n_current),
        change,
        interval,
        "" if one.p is None else f"{one.p:.3g}",
        one.tolerance,
    ]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return shown(text).replace("|", "\\|")


def _number(value: float | None, n: int) -> str:
    return "none" if value is None else f"{value:.6g} (n={n})"


def write_junit(report: CheckReport, path: Path) -> None:
    """Write a check as JUnit XML: a test case for each comparison. Raises: ConfigError: the extra is missing; the file cannot be written."""
    try:
        from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite
    except ImportError as error:
        raise ConfigError(
            f"JUnit XML needs an extra: pip install 'starburst-executor[cli,check]' ({error.name} is missing)"
        ) from error
    suite = TestSuite(f"starburst study check {report.study}")
    for one in report.comparisons:
        case = TestCase(f"{shown(one.metric)}: {shown(one.case)}", classname=f"{report.study}.{report.stage}", time=0)
        if one.fails:
            case.result = [Failure(line_of(one), one.verdict)]
        elif one.verdict == UNCERTAIN:
            case.result = [Skipped(f"uncertain: {line_of(one)}")]
        suite.add_testcase(case)
    xml = JUnitXml("starburst study check")
    xml.add_testsuite(suite)
    try:
        xml.write(str(path), pretty=True)
    except OSError as error:
        raise ConfigError(f"JUnit XML cannot be written: {path}: {error.strerror}") from error
