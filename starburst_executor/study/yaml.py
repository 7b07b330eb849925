"""Studies as YAML files: read into `Study` arguments; an error names file, line, field and what is allowed.

    text ──PyYAML──► nodes, each with its line ──► plain values ──pydantic──► StudyFile ──► stages

Needs the extra `study`. Nothing in a file is code: functions are named, as `module:function` or `script.py:function`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import ErrorDetails

from starburst_executor.errors import ConfigError
from starburst_executor.study.stage import Stage, is_name

__all__ = ["EXAMPLE", "StudyFile", "json_schema", "read_head", "read_study", "stages_of"]

Load = Callable[[str], Callable[..., Any]]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Whole = Annotated[int, Field(strict=True)]
_Count = Annotated[int, Field(strict=True, ge=0)]
_NAME, _TARGET = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$", r"^.+:.+$"
# What people read instead of a pattern.
_WORDS = {
    _NAME: "must be 1 to 63 of letters, digits, _ and -",
    _TARGET: "must be module:function or script.py:function, seen from the file's folder",
}
_Name = Annotated[str, Field(pattern=_NAME, description=_WORDS[_NAME])]
_Target = Annotated[str, Field(pattern=_TARGET, description=_WORDS[_TARGET])]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Metric(_Model):
    direction: Literal["max", "min"] = "max"
    unit: str = ""
    key: str | None = None
    regex: str | None = None
    file: str | None = None
    function: _Target | None = None


class _Options(_Model):
    timeout: Annotated[_Number, Field(gt=0, description="seconds for one attempt")] | None = None
    retries: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    priority: _Whole = 0


class _Gate(_Model):
    timeout: Annotated[_Number, Field(gt=0, description="seconds")] | None = None
    then: Literal["abort", "approve"] = "abort"


class _AbortIf(_Model):
    failed: Annotated[_Number, Field(ge=0, lt=1, description="share of ended trials that failed")] | None = None
    after: _Count = 1
    no_progress: Annotated[_Number, Field(gt=0, description="seconds")] | None = None
    budget_usd: Annotated[_Number, Field(gt=0)] | None = None
    function: _Target | None = None


class _Select(_Model):
    """One of: `top` and `k`; `pareto`, perhaps with `most`; `where`; `function`."""

    top: str | None = None
    k: Annotated[int, Field(strict=True, ge=1)] | None = None
    pareto: list[str] | None = None
    most: Annotated[int, Field(strict=True, ge=1)] | None = None
    where: _Target | None = None
    function: _Target | None = None


class _Prune(_Model):
    metric: str
    after: Annotated[int, Field(strict=True, ge=1, description="trials that have to have ended first")]


class _StageFile(_Model):
    name: _Name
    run: _Target | None = None
    command: str | list[str] | None = None
    trials: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    cases: list[Any] | None = None
    select: _Select | None = None
    depends_on: list[_Name] | None = None
    options: _Options | None = None
    gate: StrictBool | Annotated[_Number, Field(gt=0, description="seconds")] | _Gate = False
    abort_if: _AbortIf | None = None
    metrics: dict[str, Literal["max", "min"] | _Metric] = {}
    seed: _Whole | None = None
    prune: _Prune | None = None
    metadata: dict[str, Any] = {}


class StudyFile(_Model):
    """A study, as a file describes it. Settings that are left out are those of every session."""

    study: _Name
    seed: _Whole = 0
    store: str | None = None
    launcher: str | None = None
    workers: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    budget_usd: Annotated[_Number, Field(gt=0)] | None = None
    stages: Annotated[list[_StageFile], Field(min_length=1)]


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


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a file, for editors and other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **StudyFile.model_json_schema(),
        "title": "starburst study",
    }


def read_study(path: Path, load: Load) -> tuple[StudyFile, list[Stage]]:
    """Read a study from a file.

    Args:
        load: Returns the function that a text such as `script.py:function` names, from the file's folder; raises ConfigError.
    Raises: ConfigError: it has a line for each fault, with file, line, field and what is allowed.
    """
    source = _source(path)
    try:
        found = StudyFile.model_validate(source.values)
    except ValidationError as error:
        raise ConfigError("\n".join(source.messages(error.errors()))) from error
    return found, list(stages_of(found, source, load))


def read_head(path: Path) -> tuple[str, str | None]:
    """Return the name of the study that a file describes, and its store if it names one; the rest is not looked at.

    Raises: ConfigError.
    """
    source = _source(path)
    values = source.values if isinstance(source.values, dict) else {}
    name, store = values.get("study"), values.get("store")
    if not isinstance(name, str) or not is_name(name) or not (store is None or isinstance(store, str)):
        raise ConfigError(f"{path}: names no study: its field study {_WORDS[_NAME]}, not {name!r}")
    return name, store


def stages_of(found: StudyFile, source: _Source, load: Load) -> Iterator[Stage]:
    """Yield the stages of a file. Raises: ConfigError, with file and line."""
    here = str(source.path.absolute().parent)
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
            yield Stage(
                one.name,
                named(one.run, "run"),
                one.trials,
                cases=one.cases,
                select=_selection(one.select, named),
                depends_on=one.depends_on,
                options=None if one.options is None else one.options.model_dump(),
                gate=one.gate.model_dump() if isinstance(one.gate, _Gate) else one.gate,
                abort_if=abort_if,
                metrics=metrics,
                seed=one.seed,
                command=one.command,
                prune=None if one.prune is None else (one.prune.metric, one.prune.after),
                metadata=one.metadata,
                here=here,
            )
        except ConfigError as error:
            # One that has its place in the file already, or one of the stage as a whole.
            text = str(error)
            raise ConfigError(text if text.startswith(str(source.path)) else source.of_stage(number, text)) from error


def _metric(name: str, metric: str | _Metric, named: Callable[..., Any]) -> object:
    if isinstance(metric, str):
        return metric
    fields = metric.model_dump(exclude_none=True)
    if metric.function is not None:
        fields["function"] = named(metric.function, "metrics", name, "function")
    return fields


def _selection(select: _Select | None, named: Callable[..., Any]) -> object:
    if select is None:
        return None
    ways = [way for way in ("top", "pareto", "where", "function") if getattr(select, way) is not None]
    if len(ways) != 1:
        raise ConfigError("select: give one of top with k, pareto with most, where, function")
    if (select.k is None) != (select.top is None) or (select.most is not None and select.pareto is None):
        raise ConfigError("select: k belongs to top, and most to pareto")
    if select.top is not None:
        return (select.top, select.k)
    if select.pareto is not None:
        return (tuple(select.pareto), select.most)
    return named(select.where, "select", "where") or named(select.function, "select", "function")


def _source(path: Path) -> _Source:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the study cannot be read: {path}: {getattr(error, 'strerror', None) or error}") from error
    return _Source(path, text)


class _Source:
    """A YAML text: its plain values, and the line of each field."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        loader = yaml.SafeLoader(text)
        try:
            self._root = loader.get_single_node()
            self._check(self._root, set())
            self.values = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f", line {mark.line + 1}"
            raise ConfigError(f"{path}{line}: {error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: {error}") from error
        except RecursionError as error:
            raise ConfigError(f"{path}: nested too deeply") from error
        finally:
            loader.dispose()

    def _check(self, node: yaml.Node | None, above: set[int]) -> None:
        """Refuse what YAML allows and a study does not mean: a field twice, and a part that contains itself."""
        if node is None or isinstance(node, yaml.ScalarNode):
            return
        if id(node) in above:
            raise ConfigError(self._place(node) + "a part contains itself")
        inside = above | {id(node)}
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                        raise ConfigError(self._place(key) + f"{key.value}: is there twice")
                    seen.add(key.value)
                self._check(value, inside)
        else:
            for value in node.value:
                self._check(value, inside)

    def messages(self, errors: Sequence[ErrorDetails]) -> list[str]:
        """Return the faults that pydantic found, for people, in the order of their lines.

        Where a field may be one of several things, pydantic reports a fault for each; the innermost says what was meant.
        """
        placed = [(tuple(part for part in error["loc"] if not _is_of_pydantic(part)), error) for error in errors]
        innermost = [
            (place, error)
            for place, error in placed
            if not any(len(other) > len(place) and other[: len(place)] == place for other, _ in placed)
        ]
        lines = {self.at(place, _said(place, error)): self._line(place) for place, error in innermost}
        return sorted(lines, key=lambda line: lines[line])

    def _line(self, place: tuple[Hashable, ...]) -> int:
        node = self._node(place)
        return 0 if node is None else int(node.start_mark.line)

    def at(self, place: tuple[Hashable, ...], message: str) -> str:
        """Return a message with file, line and field."""
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return self._place(self._node(place)) + (f"{field}: " if field else "") + message

    def of_stage(self, number: int, message: str) -> str:
        """Return a message about a stage, at the line of the field that it begins with."""
        words = message.removeprefix("stage ").partition(": ")[2] if message.startswith("stage ") else message
        field = words.partition(":")[0].partition("=")[0].partition("[")[0].partition(" ")[0]
        place: tuple[Hashable, ...] = ("stages", number)
        has_field = isinstance(self.values, Mapping) and field in self.values["stages"][number]
        return self._place(self._node((*place, field) if has_field else place)) + f"stages[{number}].{words}"

    def _node(self, place: tuple[Hashable, ...]) -> yaml.Node | None:
        """Return the node of a field, or the innermost around it that is there."""
        node = self._root
        for part in place:
            inner: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                inner = next((key for key, _ in node.value if key.value == part), None)
                value = next((value for key, value in node.value if key.value == part), None)
                if part == place[-1]:
                    return inner or node
                inner = value
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                inner = node.value[part]
            if inner is None:
                return node
            node = inner
        return node

    def _place(self, node: yaml.Node | None) -> str:
        return f"{self.path}: " if node is None else f"{self.path}, line {node.start_mark.line + 1}: "


def _said(place: tuple[Hashable, ...], error: ErrorDetails) -> str:
    """Return what is wrong, and what is allowed."""
    given = repr(error["input"])
    given = given if len(given) < 60 else given[:57] + "..."  # noqa: PLR2004 - the rest of a line
    kind, allowed = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        fields = list(_fields_at(place[:-1]))
        near = difflib.get_close_matches(str(place[-1]), fields, 1)
        return "unknown field" + (f", did you mean {near[0]}?" if near else f"; allowed: {', '.join(fields)}")
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        fields = list(_fields_at(place))
        return (
            f"must be a mapping of {', '.join(fields)}, not {given}"
            if not place or place[-1] != "metrics"
            else f"must be a mapping, not {given}"
        )
    if kind == "string_pattern_mismatch":
        return f"{_WORDS[allowed['pattern']]}, not {given}"
    if kind == "too_short":
        return "must not be empty"
    message = (
        error["msg"]
        .replace("Input should be", "must be")
        .replace("a valid integer", "a whole number")
        .replace("a valid ", "a ")
    )
    return f"{message[:1].lower()}{message[1:]}, not {given}"


def _is_of_pydantic(part: int | str) -> bool:
    """Whether a part of a place names a branch of a union, not a field."""
    return isinstance(part, str) and (
        part in ("bool", "float", "str", "_Gate", "_Metric") or part[:4] in ("lite", "cons", "list")
    )


def _fields_at(place: tuple[Hashable, ...]) -> Iterator[str]:
    """Yield the fields that a mapping at this place may have."""
    models: dict[str, type[_Model]] = {
        "options": _Options, "gate": _Gate, "abort_if": _AbortIf, "select": _Select, "prune": _Prune,
    }  # fmt: skip
    model: type[_Model] = StudyFile
    if len(place) > 1:
        model = _Metric if "metrics" in place else models.get(str(place[-1]), _StageFile)
    yield from model.model_fields
