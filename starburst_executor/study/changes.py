"""What differs between a study as it is recorded and as it is written now, setting by setting. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starburst_executor.study.plan import Plan
from starburst_executor.study.record import StudyRecord

__all__ = ["Changed", "changes_of", "code_changes", "config_changes"]

_NONE = "not given"


@dataclass(frozen=True, slots=True)
class Changed:
    """A difference of one stage: in a setting, in which of its functions, or in their code."""

    stage: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"stage {self.stage}: {self.what} was {self.before}, is {self.after}"


def changes_of(record: StudyRecord, plan: Plan) -> list[Changed]:
    """Return what differs in stages that have started; stages that have not may change freely."""
    found: list[Changed] = []
    for stage in record.stages:
        if not stage.has_started:
            continue
        if stage.name not in plan:
            found.append(Changed(stage.name, "the stage", "there", "gone"))
            continue
        found += config_changes(stage.name, stage.config, plan.config(stage.name, record.seed))
        found += code_changes(stage.name, stage.code, plan.code(stage.name))
    return found


def config_changes(stage: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Changed]:
    """Return the settings that differ."""
    return [
        Changed(stage, what, before.get(what, _NONE), after.get(what, _NONE))
        for what in dict.fromkeys([*before, *after])
        if before.get(what) != after.get(what)
    ]


def code_changes(stage: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Changed]:
    """Return the functions and values that differ; those that are new or gone only if nothing else does."""
    found = config_changes(stage, before, after)
    return [change for change in found if change.what in before and change.what in after] or found
