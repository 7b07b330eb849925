"""What a regression check compares: the values of one stage's metrics, by the parameters of its trials; from a study, or from a file.

A file is JSON, sorted and stable, to be kept with the code:

    {"format": 1, "study": …, "stage": …, "directions": {"loss": "min"},
     "cases": [{"params": {"size": 10}, "trials": 5, "metrics": {"loss": [0.3, 0.31, 0.3, 0.29, 0.3]}}]}
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starburst_executor.errors import ConfigError
from starburst_executor.study.metrics import DIRECTIONS
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import StageRecord
from starburst_executor.study.tables import TrialRow

__all__ = [
    "Case",
    "Measured",
    "directions_of",
    "keep_artefacts",
    "mean_of",
    "measured",
    "median_of",
    "read_baseline",
    "write_baseline",
]

FORMAT = 1
_DIRECTION = re.compile(r'"direction": "(max|min)"')


@dataclass(frozen=True, slots=True)
class Case:
    """Trials with equal parameters: repeats of one measurement.

    Attributes:
        params: The parameters.
        trials: How many trials have them, also failed ones.
        metrics: The finite values of the completed ones, by metric, in the order of the trials.
    """

    params: Mapping[str, Any]
    trials: int
    metrics: Mapping[str, tuple[float, ...]]

    @property
    def key(self) -> str:
        """The parameters as JSON: equal ones have equal keys."""
        return json.dumps(self.params, sort_keys=True)

    @property
    def name(self) -> str:
        """The parameters as text, for people."""
        return ", ".join(f"{name}={_short(value)}" for name, value in sorted(self.params.items())) or "all trials"


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of one stage.

    Attributes:
        study: The study's name.
        stage: The stage's name.
        directions: `max` or `min` for each declared metric.
        cases: By parameters, in the order of their first trials.
    """

    study: str
    stage: str
    directions: Mapping[str, str]
    cases: tuple[Case, ...]


def measured(objects: StudyObjects, stage: str | None = None, *, by: Iterable[str] | None = None) -> Measured:
    """Return the values of a decided stage of a stored study.

    Args:
        stage: Its name; the last stage if not given.
        by: The parameters whose values separate cases; all that are plain, if not given.

    Raises: ConfigError: there is no such stage, or it is not decided; no trial has such a parameter. The errors of reading a study. Store: 2 GETs.
    """
    record = objects.read()
    try:
        found = record.stages[-1] if stage is None else record.stage(stage)
    except LookupError as error:
        raise ConfigError(str(error.args[0])) from error
    if found.table is None:
        raise ConfigError(
            f"stage {found.name} of study {record.name} is {found.state}: a check needs a decided stage; "
            f"`starburst study run {record.name}` goes on with it"
        )
    rows = objects.read_table(found.table)
    names = None if by is None else tuple(by)
    known = sorted({name for row in rows for name in row.params})
    for name in names or ():
        if name not in known:
            raise ConfigError(f"by {name!r}: no trial has this parameter: there are {', '.join(known) or 'none'}")
    return Measured(record.name, found.name, directions_of(found), _by_case(rows, names))


def read_baseline(path: Path) -> Measured:
    """Read a baseline from a file. Raises: ConfigError: it names the field."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the baseline cannot be read: {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ConfigError(f"{path} is no baseline of format {FORMAT}: `--update-baseline` writes one")
    try:
        cases = tuple(
            Case(
                dict(case["params"]),
                int(case["trials"]),
                {str(name): tuple(map(_number, values)) for name, values in case["metrics"].items()},
            )
            for case in whole["cases"]
        )
        directions = {str(name): str(one) for name, one in whole["directions"].items() if one in DIRECTIONS}
        return Measured(str(whole["study"]), str(whole["stage"]), directions, cases)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is a malformed baseline: {type(error).__name__}: {error}; `--update-baseline` writes it anew"
        ) from error


def write_baseline(path: Path, found: Measured) -> None:
    """Write a baseline; equal values give equal bytes. The old file stays until the new one is whole. Raises: ConfigError."""
    whole = {
        "format": FORMAT,
        "study": found.study,
        "stage": found.stage,
        "directions": dict(sorted(found.directions.items())),
        "cases": [
            {
                "params": dict(sorted(case.params.items())),
                "trials": case.trials,
                "metrics": dict(sorted(case.metrics.items())),
            }
            for case in found.cases
        ],
    }
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"the baseline cannot be written: {path}: {error.strerror}") from error


def keep_artefacts(objects: StudyObjects, found: Measured, name: str) -> None:
    """Keep what the trials of a baseline saved: no cleanup of the study removes it until the baseline of that name is of others. Store: 2 GETs, 1 put."""
    table = objects.read().stage(found.stage).table
    rows = [] if table is None else objects.read_table(table)
    place = f"{found.stage}.{quote(name, safe='')}"
    objects.artefacts.keep_for(place, [artefact for row in rows for artefact in row.artefacts.values()])


def _by_case(rows: Iterable[TrialRow], by: tuple[str, ...] | None) -> tuple[Case, ...]:
    by_key: dict[str, list[TrialRow]] = {}
    params_of: dict[str, dict[str, Any]] = {}
    for row in rows:
        params = {name: value for name, value in row.params.items() if by is None or name in by}
        plain = json.loads(json.dumps(params, sort_keys=True, default=repr))
        key = json.dumps(plain, sort_keys=True)
        params_of[key] = plain
        by_key.setdefault(key, []).append(row)
    found = []
    for key, members in by_key.items():
        metrics: dict[str, tuple[float, ...]] = {}
        for row in members:
            if row.is_completed:
                for name, value in row.metrics.items():
                    if math.isfinite(value):
                        metrics[name] = (*metrics.get(name, ()), float(value))
        found.append(Case(params_of[key], len(members), metrics))
    return tuple(found)


def directions_of(stage: StageRecord) -> dict[str, str]:
    """Return the declared directions, from the settings that the record has: no function need be loaded."""
    found = {}
    for name, text in stage.config.items():
        if name.startswith("metrics.") and (match := _DIRECTION.search(text)):
            found[name.removeprefix("metrics.")] = match[1]
    return found


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of at least one number; not a number if the infinite ones have both signs."""
    try:
        return statistics.fmean(values)
    except OverflowError:  # the sum is too large for a float, the mean is not
        return math.fsum(value / len(values) for value in values)
    except ValueError:
        return math.nan


def median_of(values: Sequence[float]) -> float:
    """Return the median of at least one number, also if twice the number is too large for a float."""
    return mean_of([statistics.median_low(values), statistics.median_high(values)])


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, (bool, str)) or math.isnan(number):
        raise ValueError(f"{value!r} is no number")
    return number


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
