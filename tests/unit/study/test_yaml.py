"""Studies from YAML: what is read, and for each mistake the file, the line, the field and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.errors import ConfigError
from starburst_executor.study.stage import Stage
from starburst_executor.study.yaml import EXAMPLE, StudyFile, read_study
from starburst_executor.study.yaml_model import json_schema


def score(trial: Any) -> dict[str, float]:
    return {"score": trial.index}


def three(one: Any, two: Any, more: Any) -> bool:
    return one == two == more


def load(target: str) -> Callable[..., Any]:
    if target == "file.py:three":
        return three
    if target != "file.py:score":
        raise ConfigError(f"no such function: {target}")
    return score


def read(text: str, folder: Path) -> tuple[StudyFile, list[Stage]]:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return read_study(path, load)


def stage(*lines: str) -> str:
    return "study: one\nstages:\n  - name: first\n" + "".join(f"    {line}\n" for line in lines)


def test_the_example_is_a_study(tmp_path: Path) -> None:
    found, stages = read(EXAMPLE, tmp_path)
    assert (found.study, found.seed, found.workers) == ("shapes", 7, 2)
    assert [(one.name, one.trials, one.mode) for one in stages] == [("coarse", 40, "command"), ("fine", 20, "command")]
    assert stages[0].metrics["area"].unit == "cm2"
    assert stages[1].options.retries == 1
    assert stages[0].here == str(tmp_path)


def test_every_field_of_a_stage_can_be_written(tmp_path: Path) -> None:
    found, (first, second, third, fourth) = read(
        """
study: all
keep: survivors
budget_usd: 12.5
stages:
  - name: first
    run: file.py:score
    trials: 3
    seed: 5
    cases: [{x: 1}, {x: 2}]
    options: {timeout: 10, retries: 2, priority: 1}
    gate: {timeout: 60, then: approve}
    abort_if: {failed: 0.5, after: 4, no_progress: 100, budget_usd: 3, function: "file.py:score"}
    metrics: {score: max, time: {direction: min, unit: s, key: seconds}, odd: {function: "file.py:score"}}
    select: {pareto: [score, time], most: 2}
    prune: {metric: score, after: 5}
    metadata: {owner: me}
    keep: none
  - {name: second, command: "tool --x {x}", trials: 1, depends_on: [first], gate: 30, select: {where: "file.py:score"}}
  - {name: third, command: [tool], trials: 1, depends_on: [], gate: true, select: {function: "file.py:score"}}
  - name: fourth
    run: file.py:score
    trials: 1
    select: {top: score, k: 1}
    prune: {metric: score, pruner: HyperbandPruner, options: {max_resource: 9}}
""",
        tmp_path,
    )
    assert (first.run, first.seed, first.cases) == (score, 5, ({"x": 1}, {"x": 2}))
    assert first.abort_if.function is score
    assert first.abort_if.no_progress == 100
    assert first.gate is not None
    assert (first.gate.timeout, first.gate.then) == (60, "approve")
    assert first.metrics["odd"].function is score
    assert first.metrics["time"].key == "seconds"
    assert first.prune == ("score", 5)
    assert fourth.prune.described() == {  # type: ignore[union-attr]  # a pruner
        "metric": "score", "pruner": "HyperbandPruner", "options": {"max_resource": 9},
    }  # fmt: skip
    assert first.metadata == {"owner": "me"}
    assert (found.keep, first.keep, second.keep) == ("survivors", "none", None)
    assert second.gate is not None
    assert second.gate.timeout == 30
    assert (second.depends_on, third.depends_on, fourth.depends_on) == (("first",), (), None)
    assert third.gate is not None
    assert third.gate.timeout is None


MISTAKES = [
    ("", "must be a mapping of study, seed"),
    ("- 1", "line 1: must be a mapping of study, seed"),
    ("study: [", "line 1: expected the node content"),
    ("study: one\n\tstages: 1", "line 2: found character"),
    ("study: one\nstages: []", "line 2: stages: must not be empty"),
    ("study: a b\nstages: [{name: q, command: ls, trials: 1}]", "line 1: study: must be 1 to 63 of letters"),
    ("sudy: one\nstages: [{name: q, command: ls, trials: 1}]", "line 1: sudy: unknown field, did you mean study?"),
    ("study: one\nstages: [{name: q, command: ls, trials: 1}]\nworkers: 0", "line 3: workers: must be greater"),
    ("study: one\nstages: [{name: q, command: ls, trials: 1}]\nworkers: '2'", "line 3: workers: must be a whole number"),
    ("study: one\nseed: 2026-02-30\n", "line 2: '2026-02-30' is no timestamp; a text stands in quotes"),
    ("study: one\nseed: !!int many\n", "line 2: 'many' is no int"),
    ("study: one\nseed: !!bool perhaps\n", "line 2: 'perhaps' is no bool"),
    ("study: one\nseed: !!timestamp soon\n", "line 2: 'soon' is no timestamp"),
    ("study: one\nseed: " + "7" * 5000, "line 2: '" + "7" * 10),
    ("study: one\n\nkeep: a\x07ll\n", "line 3: the character '\\x07' is not allowed"),
    ("study: one\nstages:\n- &a {name: q, command: ls, trials: 1, metadata: *a}", "line 3: a part contains itself"),
    (stage("command: ls"), "trials=None: must be a whole number, 1..1,000,000, or cases be given"),
    (stage("trials: 2"), "line 3: stages[0]: give either run, a function, or command, a program"),
    (stage("command: ls", "trials: 2", "trials: 3"), "line 6: trials: is there twice"),
    (stage("command: ls", "trials: two"), "line 5: stages[0].trials: must be a whole number, not 'two'"),
    (stage("command: ls", "trials: yes"), "line 5: stages[0].trials: must be a whole number, not True"),
    (stage("command: ls", "trials: 2", "selct: {}"), "line 6: stages[0].selct: unknown field, did you mean select?"),
    (stage("command: ls", "trials: 2", "select: {top: x}"), "line 6: stages[0].select: k belongs to top"),
    (stage("command: ls", "trials: 2", "select: {}"), "line 6: stages[0].select: give one of top with k"),
    (stage("command: ls", "trials: 2", "select: {top: x, k: 0}"), "line 6: stages[0].select.k: must be greater"),
    (stage("command: ls", "trials: 2", "options: {label: x}"), "stages[0].options.label: trials have none: a trial is called by its stage and index; allowed: timeout"),
    (stage("command: ls", "trials: 2", "options: {cpus: 2}"), "stages[0].options.cpus: unknown field; allowed: timeout"),
    (stage("command: ls", "trials: 2", "options: {timeout: -1}"), "stages[0].options.timeout: must be greater than 0"),
    (stage("command: ls", "trials: 2", "options: {timeout: .inf}"), "stages[0].options.timeout: must be a finite"),
    (stage("command: ls", "trials: 2", "gate: {then: wait}"), "stages[0].gate.then: must be 'abort' or 'approve'"),
    (stage("command: ls", "trials: 2", "gate: maybe"), "line 6: stages[0].gate: must be a boolean or a number or a mapping of timeout, then, not 'maybe'"),
    (stage("command: ls", "trials: 2", "abort_if: {failed: 2}"), "stages[0].abort_if.failed: must be less than 1"),
    (stage("command: ls", "trials: 2", "metrics: {x: up}"), "stages[0].metrics.x: must be"),
    (stage("command: ls", "trials: 2", "metrics: {x: {regex: '('}}"), "line 6: stages[0].metrics: x: regex='('"),
    (stage("command: ls", "trials: 2", "metrics: {x: {unit: 1}}"), "stages[0].metrics.x.unit: must be a string"),
    (stage("command: 'ls {'", "trials: 2"), "line 4: stages[0].command='ls {'"),
    (stage("run: score", "trials: 2"), "line 4: stages[0].run: must be module:function or script.py:function"),
    (stage("run: file.py:other", "trials: 2"), "line 4: stages[0].run: no such function: file.py:other"),
    (stage("run: file.py:score", "trials: 2", "select: {where: a:b}"), "line 6: stages[0].select.where: no such function"),
    (stage("run: file.py:score", "command: ls", "trials: 2"), "line 3: stages[0]: give either run"),
    (stage("command: ls", "trials: 2", "depends_on: first"), "line 6: stages[0].depends_on: must be a list"),
    (stage("command: ls", "trials: 2", "prune: {metric: x}"), "line 6: stages[0].prune={'metric': 'x'}: must have metric, and either"),
    (stage("command: ls", "trials: 2", "prune: {metric: x, pruner: X}"), "line 6: stages[0].prune: pruner='X': no pruner of"),
    (stage("command: ls", "trials: 2", "keep: best"), "line 6: stages[0].keep: must be 'all', 'survivors' or 'none'"),
    (stage("command: ls", "cases: [{1: 2}]"), "line 5: stages[0].cases[0]: the name 1 must be text"),
    (stage("command: ls", "cases: [{x: 2026-01-01}]"), "line 5: stages[0].cases[0]: x is a date"),
    (stage("command: ls", "metrics:", "  x: max", "  y:", "    unit: s", "    regex: '('", "trials: 2"), "line 9: stages[0].metrics: y: regex='('"),
    (stage("command: ls", "trials: 2", "cases:", "- {x: 1}", "- {x: 2026-01-01}"), "line 8: stages[0].cases[1]: x is a date"),
    (stage("command: ls", "trials: 2", "search:", "  random:", "    x: {low: 2, high: 1}"), "line 8: stages[0].search: random: x: low=2"),
    (stage("command: ls", "trials: 2", "depends_on: [firsts]"), "line 6: stages[0].depends_on: stage 'first' depends on 'firsts', which is no stage, did you mean 'first'?"),
    (stage("command: ls", "trials: 2", "depends_on: [other]"), "line 6: stages[0].depends_on: stage 'first' depends on 'other', which is no stage: there are first"),
    (stage("command: ls", "trials: 2", "depends_on: [first]"), "line 6: stages[0].depends_on: the stages depend on each other in a circle"),
    (stage("command: ls", "trials: 2") + "  - {name: first, command: ls, trials: 1}\n", "line 6: stages[1].name: two stages have the name 'first'"),
    (stage("command: ls", "trials: 2") + "  - {name: q, command: ls, cases: [1]}\n", "line 6: stages[1].cases: stage 'q' takes survivors"),
    (stage("command: ls", "trials: 2") + "launcher: moon\n", "line 6: launcher: must be one of local, none"),
    (stage("command: ls", "trials: 2") + "store: ftp://x\n", "line 6: store: a store's URL is"),
    (stage("run: file.py:score", "trials: 2", "select:", "  function: file.py:score3"), "line 7: stages[0].select.function: no such function"),
    (stage("run: file.py:score", "trials: 2", "select: {where: 'file.py:three'}"), "line 6: stages[0].select: where='file.py:three': must be a function of one argument, a trial"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), MISTAKES, ids=[told[:60] for _, told in MISTAKES])
def test_a_mistake_is_told_with_its_place(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/study.yaml")
    assert told in message


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(
            EXAMPLE.replace("k: 4", "k: four").replace("seed: 7", "sed: 7").replace("workers: 2", "workers: 0"),
            tmp_path,
        )
    lines = [line.partition("line ")[2].partition(":")[0] for line in str(caught.value).splitlines()]
    assert lines == sorted(lines, key=int)
    assert len(lines) == 3


def test_a_mistake_of_each_stage_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(stage("run: a.py:b", "trials: 2") + "  - {name: q, run: c.py:d}\n  - {name: r, command: ls}\n", tmp_path)
    assert [line.partition("study.yaml, ")[2][:22] for line in str(caught.value).splitlines()] == [
        "line 4: stages[0].run:",
        "line 6: stages[1].run:",
        "line 7: stages[2]: tri",
    ]


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_study(tmp_path / "none.yaml", load)
    (tmp_path / "bytes.yaml").write_bytes(b"study: one\n\n\xff")
    with pytest.raises(ConfigError, match=r"bytes\.yaml, line 3: the file must be text in UTF-8"):
        read_study(tmp_path / "bytes.yaml", load)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        read("study: !!python/object/apply:os.system ['touch here']\nstages: []", tmp_path)


def test_nesting_without_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        read("study: " + "[" * 100_000, tmp_path)


def test_the_schema_names_every_field_and_is_json() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == {field.alias or name for name, field in StudyFile.model_fields.items()}
    assert schema["additionalProperties"] is False
    assert "timeout" in json.dumps(schema["$defs"]["_Options"])
