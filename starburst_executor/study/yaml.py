"""Studies as YAML files: read into `Study` arguments; an error names file, line, field and what is allowed.

    text ──PyYAML──► nodes, each with its line ──► plain values ──pydantic──► StudyFile ──► stages

Needs the extra `study`. Nothing in a file is code: functions are named, as `module:function` or `script.py:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from starburst_executor.errors import ConfigError
from starburst_executor.study.own_policies import OWN_ABORTING, OWN_SELECTING
from starburst_executor.study.plan import faults_of
from starburst_executor.study.policies import SELECTING
from starburst_executor.study.selection import selection_of
from starburst_executor.study.stage import Stage, is_name
from starburst_executor.study.yaml_model import (
    NAME,
    WORDS,
    GateFile,
    MetricFile,
    SearchFile,
    SelectFile,
    StudyFile,
    study_model,
)
from starburst_executor.study.yaml_source import Source, source_of

__all__ = ["EXAMPLE", "StudyFile", "read_head", "read_study", "stages_of"]

Load = Callable[[str], Callable[..., Any]]

# `starburst study init` writes it; the tests run it.
EXAMPLE = """\
# A study of two stages: forty trials of a program, then five of each of the best four.
#
#   starburst study run study.yaml          runs it, and goes on where it stopped
#   starburst study status shapes --watch   from another terminal
#   starburst study schema > schema.json    what a file may hold, for editors
study: shapes
seed: 7
workers: 2
stages:
  - name: coarse
    # Words of a program; no shell. {x} is a parameter; {index}, {seed}, {folder} and {here} are the trial's own.
    command: [python3, -c, "x = {x}; print('area:', round(x * (10 - x), 3))"]
    cases:
      - {x: 1}
      - {x: 3}
      - {x: 4.5}
      - {x: 6}
      - {x: 9}
    trials: 40
    metrics:
      area: {direction: max, unit: cm2, regex: "area: ([0-9.]+)"}
    select: {top: area, k: 4}
    abort_if: {failed: 0.5, after: 10}

  - name: fine
    command: [python3, -c, "x = {x}; print('area:', round(x * (10 - x) + {seed} % 100 / 1000, 3))"]
    trials: 20
    options: {timeout: 60, retries: 1}
    metrics:
      area: {direction: max, unit: cm2, regex: "area: ([0-9.]+)"}
    select: {top: area, k: 1}
"""


def read_study(path: Path, load: Load, load_module: Load | None = None) -> tuple[StudyFile, list[Stage]]:
    """Read a study from a file.

    Args:
        load: Returns the function that a text such as `script.py:function` names, from the file's folder; raises ConfigError.
        load_module: Imports a module or a script likewise, so that it registers its policies.
    Raises: ConfigError: it has a line for each fault, with file, line, field and what is allowed.
    """
    source = source_of(path)
    if load_module is not None:
        _import(source, load_module)
    try:
        found = study_model(OWN_SELECTING, OWN_ABORTING).model_validate(source.values)
    except ValidationError as error:
        raise ConfigError("\n".join(source.messages(error.errors()))) from error
    stages = stages_of(found, source, load)
    faults = [
        source.at(("stages",) if fault.number is None else ("stages", fault.number, fault.field), fault.text)
        for fault in faults_of(stages)
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    return found, stages


def _import(source: Source, load_module: Load) -> None:
    """Import what a file wants imported, before it is checked: only then its policies are known. What is no list is a fault of the file."""
    named = source.values.get("import") if isinstance(source.values, dict) else None
    for number, one in enumerate(named if isinstance(named, list) else []):
        try:
            load_module(str(one))
        except ConfigError as error:
            raise ConfigError(source.at(("import", number), str(error))) from error


def read_head(path: Path) -> tuple[str, str | None]:
    """Return the name of the study that a file describes, and its store if it names one; the rest is not looked at.

    Raises: ConfigError.
    """
    source = source_of(path)
    values = source.values if isinstance(source.values, dict) else {}
    name, store = values.get("study"), values.get("store")
    if not isinstance(name, str) or not is_name(name) or not (store is None or isinstance(store, str)):
        raise ConfigError(f"{path}: names no study: its field study {WORDS[NAME]}, not {name!r}")
    return name, store


def stages_of(found: StudyFile, source: Source, load: Load) -> list[Stage]:
    """Return the stages of a file. Raises: ConfigError, with file and line: a fault of each stage that has one."""
    here = str(source.path.absolute().parent)
    stages: list[Stage] = []
    faults: list[str] = []
    for number, one in enumerate(found.stages):

        def named(target: str | None, *field: Hashable, number: int = number) -> Callable[..., Any] | None:
            if target is None:
                return None
            try:
                return load(target)
            except ConfigError as error:
                raise ConfigError(source.at(("stages", number, *field), str(error))) from error

        try:
            metrics = {name: _metric(name, metric, named) for name, metric in one.metrics.items()}
            rules = one.abort_if
            function = named(rules.function, "abort_if", "function") if rules is not None else None
            abort_if = (
                None
                if rules is None
                else rules.model_dump(exclude_none=True) | ({"function": function} if function else {})
            )
            stage = Stage(
                one.name,
                named(one.run, "run"),
                one.trials,
                cases=one.cases,
                search=_search(one.search, named),
                select=_selection(one.select, named),
                depends_on=one.depends_on,
                options=None if one.options is None else one.options.model_dump(),
                gate=one.gate.model_dump() if isinstance(one.gate, GateFile) else one.gate,
                abort_if=abort_if,
                metrics=metrics,
                seed=one.seed,
                command=one.command,
                prune=None if one.prune is None else one.prune.model_dump(exclude_none=True),
                metadata=one.metadata,
                here=here,
                keep=one.keep,
            )
            stages.append(stage)
        except ConfigError as error:
            # One that has its place in the file already, or one of the stage as a whole.
            text = str(error)
            faults.append(text if text.startswith(str(source.path)) else source.of_stage(number, text))
    if faults:
        raise ConfigError("\n".join(faults))
    return stages


def _metric(name: str, metric: str | MetricFile, named: Callable[..., Any]) -> object:
    if isinstance(metric, str):
        return metric
    fields = metric.model_dump(exclude_none=True)
    if metric.function is not None:
        fields["function"] = named(metric.function, "metrics", name, "function")
    return fields


def _search(search: SearchFile | None, named: Callable[..., Any]) -> object:
    if search is None:
        return None
    fields = search.model_dump(exclude_none=True)
    if search.object is not None:
        fields["object"] = named(search.object, "search", "object")
    return fields


def _selection(select: SelectFile | None, named: Callable[..., Any]) -> object:
    if select is None:
        return None
    named_ways = (*SELECTING, *OWN_SELECTING)
    ways = [
        way for way in ("top", "pareto", "where", "function", *named_ways) if getattr(select, way, None) is not None
    ]
    if len(ways) != 1:
        raise ConfigError("select: give one of top with k, pareto with most, where, function, " + ", ".join(named_ways))
    if (select.k is None) != (select.top is None) or (select.most is not None and select.pareto is None):
        raise ConfigError("select: k belongs to top, and most to pareto")
    if select.top is not None:
        return (select.top, select.k)
    if select.pareto is not None:
        return (tuple(select.pareto), select.most)
    if ways[0] in named_ways:
        return {ways[0]: getattr(select, ways[0])}
    field = ways[0]
    function = named(getattr(select, field), "select", field)
    try:
        return selection_of(function, "select")
    except ConfigError as error:
        wanted = "one argument, a trial" if field == "where" else "two, the table and a dict that is stored"
        raise ConfigError(f"select: {field}={getattr(select, field)!r}: must be a function of {wanted}") from error
