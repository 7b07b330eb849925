"""What a study's YAML file may hold, as pydantic models: the source of its checks and of its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, create_model

from starburst_executor import config
from starburst_executor.config.settings import LAUNCHERS
from starburst_executor.errors import ConfigError
from starburst_executor.store.open import open_store

__all__ = [
    "NAME",
    "WORDS",
    "GateFile",
    "MetricFile",
    "SearchFile",
    "SelectFile",
    "StudyFile",
    "fields_at",
    "json_schema",
    "study_model",
]


def _number_of(given: Any) -> Any:
    """Return what a number of YAML means: `1e-5`, which has no point, is text there."""
    if isinstance(given, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", given):
        return float(given)
    if type(given) not in (int, float):
        raise ValueError("must be a number")
    return given


def _launcher_of(given: str) -> str:
    if given.partition("?")[0] not in LAUNCHERS:  # the rest are its options
        raise ValueError(f"must be one of {', '.join(LAUNCHERS)}")
    return given


def _store_of(given: str) -> str:
    try:
        open_store(config.store_to_read(given))  # makes no request
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return given


_Plain = Annotated[int | float, Field(allow_inf_nan=False), BeforeValidator(_number_of)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Whole = Annotated[int, Field(strict=True)]
_Count = Annotated[int, Field(strict=True, ge=0)]
NAME, _TARGET = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$", r"^.+:.+$"
# What people read instead of a pattern.
WORDS = {
    NAME: "must be 1 to 63 of letters, digits, _ and -",
    _TARGET: "must be module:function or script.py:function, seen from the file's folder",
}
_Name = Annotated[str, Field(pattern=NAME, description=WORDS[NAME])]
_Target = Annotated[str, Field(pattern=_TARGET, description=WORDS[_TARGET])]


_Keep = Annotated[Literal["all", "survivors", "none"], Field(description="whose artefacts stay when the study ends")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MetricFile(_Model):
    """A metric: its direction, its unit, and how it is taken."""

    direction: Literal["max", "min"] = "max"
    unit: str = ""
    key: str | None = None
    regex: str | None = None
    file: str | None = None
    function: _Target | None = None


class _Options(_Model):
    timeout: Annotated[_Number, Field(gt=0, description="seconds for one attempt")] | None = None
    retries: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    retry_on: Annotated[str | list[str], Field(description="exception classes, as module.Class")] | None = None
    backoff: Annotated[_Number | list[_Number], Field(description="seconds; or first, factor and most")] | None = None
    priority: _Whole = 0
    artefact_bytes: Annotated[int, Field(strict=True, ge=0, description="most bytes that a trial may save")] = (
        1_000_000_000
    )


class GateFile(_Model):
    """A gate with a time limit."""

    timeout: Annotated[_Number, Field(gt=0, description="seconds")] | None = None
    then: Literal["abort", "approve"] = "abort"


class _AbortIf(_Model):
    failed: Annotated[_Number, Field(ge=0, lt=1, description="share of ended trials that failed")] | None = None
    after: _Count = 1
    no_progress: Annotated[_Number, Field(gt=0, description="seconds")] | None = None
    budget_usd: Annotated[_Number, Field(gt=0)] | None = None
    function: _Target | None = None
    budget_left: dict[str, Any] | None = None
    no_improvement: dict[str, Any] | None = None
    doomed: dict[str, Any] | None = None


class SelectFile(_Model):
    """One of: `top` and `k`; `pareto`, perhaps with `most`; `where`; `function`; a policy with its arguments."""

    top: str | None = None
    k: Annotated[int, Field(strict=True, ge=1)] | None = None
    pareto: list[str] | None = None
    most: Annotated[int, Field(strict=True, ge=1)] | None = None
    where: _Target | None = None
    function: _Target | None = None
    at_least: dict[str, Any] | None = None
    at_most: dict[str, Any] | None = None
    within: dict[str, Any] | None = None


class _Prune(_Model):
    """`metric`, and either `after` or `pruner`, perhaps with `options`."""

    metric: str
    after: Annotated[int | None, Field(strict=True, ge=1, description="trials that have to have ended first")] = None
    pruner: Annotated[str | None, Field(description="a class of optuna.pruners")] = None
    options: Annotated[dict[str, Any] | None, Field(description="arguments of the pruner")] = None


class _Range(_Model):
    low: _Plain
    high: _Plain
    log: StrictBool = False
    step: _Plain | None = None


_Space = dict[str, list[str | StrictBool | _Plain | None] | _Range]


class SearchFile(_Model):
    """One of: `grid`, `random`, `sobol`, `optuna` with a space each; `object`."""

    grid: _Space | None = None
    random: _Space | None = None
    sobol: _Space | None = None
    optuna: _Space | None = None
    object: Annotated[
        str | None,
        Field(pattern=_TARGET, description="a function of a seed that returns an object with ask and tell"),
    ] = None
    ahead: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    metric: str | list[str] | None = None
    sampler: Annotated[str | None, Field(description="a class of optuna.samplers")] = None
    options: Annotated[dict[str, Any] | None, Field(description="arguments of the sampler")] = None


class _StageFile(_Model):
    name: _Name
    run: _Target | None = None
    command: str | list[str] | None = None
    trials: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    cases: list[Any] | None = None
    search: SearchFile | None = None
    select: SelectFile | None = None
    depends_on: list[_Name] | None = None
    options: _Options | None = None
    gate: StrictBool | Annotated[_Number, Field(gt=0, description="seconds")] | GateFile = False
    abort_if: _AbortIf | None = None
    metrics: dict[str, Literal["max", "min"] | MetricFile] = {}
    seed: _Whole | None = None
    prune: _Prune | None = None
    metadata: dict[str, Any] = {}
    keep: _Keep | None = None


class StudyFile(_Model):
    """A study, as a file describes it. Settings that are left out are those of every session."""

    study: _Name
    seed: _Whole = 0
    store: Annotated[str, AfterValidator(_store_of)] | None = None
    launcher: Annotated[str, AfterValidator(_launcher_of), Field(description=", ".join(LAUNCHERS))] | None = None
    workers: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    budget_usd: Annotated[_Number, Field(gt=0)] | None = None
    import_: Annotated[
        list[str],
        Field(alias="import", description="modules or scripts that register policies, seen from the file's folder"),
    ] = []
    keep: _Keep = "all"
    stages: Annotated[list[_StageFile], Field(min_length=1)]


def study_model(selecting: Collection[str], aborting: Collection[str]) -> type[StudyFile]:
    """Return the model of a file that may name these policies of the user's besides the known ones."""
    if not selecting and not aborting:
        return StudyFile
    arguments: Any = (dict[str, Any] | None, None)
    select: Any = create_model("SelectFile", __base__=SelectFile, **dict.fromkeys(selecting, arguments))
    abort_if: Any = create_model("_AbortIf", __base__=_AbortIf, **dict.fromkeys(aborting, arguments))
    stage: Any = create_model(
        "_StageFile", __base__=_StageFile, select=(select | None, None), abort_if=(abort_if | None, None)
    )
    return create_model("StudyFile", __base__=StudyFile, stages=(Annotated[list[stage], Field(min_length=1)], ...))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a file, for editors and other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **StudyFile.model_json_schema(),
        "title": "starburst study",
    }


def fields_at(place: tuple[Hashable, ...]) -> Iterator[str]:
    """Yield the fields that a mapping at this place may have."""
    models: dict[str, type[_Model]] = {
        "options": _Options, "gate": GateFile, "abort_if": _AbortIf, "select": SelectFile, "prune": _Prune,
    }  # fmt: skip
    model: type[_Model] = StudyFile
    if len(place) > 1:
        model = MetricFile if "metrics" in place else models.get(str(place[-1]), _StageFile)
        if "search" in place:
            model = SearchFile if place[-1] == "search" else _Range
    yield from (field.alias or name for name, field in model.model_fields.items())
