"""The plan of a study: its stages as a directed graph, and the order in which they can run. Pure."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from starburst_executor.errors import ConfigError
from starburst_executor.study.fingerprints import codes_of, config_of
from starburst_executor.study.stage import Stage

__all__ = ["Plan", "PlanFault", "Seen", "faults_of"]

Seen: TypeAlias = Mapping[str, tuple[dict[str, str], dict[str, str]]]


class PlanFault(NamedTuple):
    """What does not fit in a plan: the number of the stage, None for all of them, the argument of that stage, and what is wrong."""

    number: int | None
    field: str
    text: str


class Plan:
    """The stages of a study and what each depends on. Immutable.

    Args:
        seen: The settings and the code of each stage as another process has seen them: what this one would see of the same
            stages, such as the modules that are the user's own, may differ.

    Raises: ConfigError: it names every fault: a name used twice, an unknown or a circular dependency, no stage at all.
    """

    def __init__(self, stages: Iterable[Stage], *, seen: Seen | None = None) -> None:
        self.stages: tuple[Stage, ...] = tuple(stages)
        self._seen = seen
        self._by_name = {stage.name: stage for stage in self.stages}
        faults = [fault.text for fault in faults_of(self.stages)]
        if faults:
            raise ConfigError("; ".join(faults))
        self._parents = dict(zip(self._by_name, _parents_of(self.stages), strict=True))

    def __getitem__(self, name: str) -> Stage:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> list[str]:
        """The stages' names, in the order in which they were written."""
        return [stage.name for stage in self.stages]

    def parents(self, name: str) -> tuple[str, ...]:
        """Return the stages whose survivors are the input of this one."""
        return self._parents[name]

    def ready(self, pending: Collection[str], done: Collection[str]) -> list[str]:
        """Return the pending stages whose parents are all done: by priority, then as they were written."""
        ready = [name for name in self.names if name in pending and all(one in done for one in self._parents[name])]
        return sorted(ready, key=lambda name: -self._by_name[name].options.priority)

    def below(self, name: str) -> list[str]:
        """Return the stages that depend on this one, directly or not, as they were written."""
        from graphlib import TopologicalSorter

        found = {name}
        for other in TopologicalSorter(self._parents).static_order():
            if any(parent in found for parent in self._parents[other]):
                found.add(other)
        return [other for other in self.names if other in found and other != name]

    def before(self, name: str) -> list[str]:
        """Return the stages that a fork at this one keeps: all but this one and those below it."""
        below = {name, *self.below(name)}
        return [other for other in self.names if other not in below]

    def config(self, name: str, seed: int) -> dict[str, str]:
        """Return a stage's settings as short texts, in a study with this seed."""
        return config_of(self[name], self._parents[name], seed) if self._seen is None else self._seen[name][0]

    def code(self, name: str) -> dict[str, str]:
        """Return what a stage's functions are, with the digests of their code, as they were at the first question."""
        return self._codes[name] if self._seen is None else self._seen[name][1]

    def seen(self, seed: int) -> Seen:
        """Return the settings and the code of each stage as this process sees them."""
        return {name: (self.config(name, seed), self.code(name)) for name in self.names}

    @functools.cached_property
    def _codes(self) -> dict[str, dict[str, str]]:
        return codes_of(self.stages)


def faults_of(stages: Sequence[Stage]) -> Iterator[PlanFault]:
    """Yield every fault by which these stages are no plan."""
    import difflib
    from graphlib import CycleError, TopologicalSorter

    names = [stage.name for stage in stages]
    if not names:
        yield PlanFault(None, "", "a study has at least one stage")
    twice = [number for number, name in enumerate(names) if name in names[:number]]
    for number in twice:
        yield PlanFault(number, "name", f"two stages have the name {names[number]!r}")
    every_parents = _parents_of(stages)
    for number, (stage, parents) in enumerate(zip(stages, every_parents, strict=True)):
        for parent in parents:
            if parent not in names:
                near = difflib.get_close_matches(parent, names, 1)
                hint = f", did you mean {near[0]!r}?" if near else f": there are {', '.join(names)}"
                yield PlanFault(
                    number, "depends_on", f"stage {stage.name!r} depends on {parent!r}, which is no stage{hint}"
                )
        if parents and not all(isinstance(case, Mapping) for case in stage.cases):
            text = f"stage {stage.name!r} takes survivors as its cases, so its own cases must be mappings of parameters"
            yield PlanFault(number, "cases", text)
        if len(set(parents)) < len(parents):
            yield PlanFault(number, "depends_on", f"stage {stage.name!r} depends on one stage twice")
    if twice:
        return  # a name then does not say which stage is meant
    try:
        TopologicalSorter(dict(zip(names, every_parents, strict=True))).prepare()
    except CycleError as error:
        circle: Sequence[str] = error.args[1]
        text = f"the stages depend on each other in a circle: {' -> '.join(reversed(circle))}"
        yield PlanFault(names.index(circle[0]), "depends_on", text)


def _parents_of(stages: Sequence[Stage]) -> list[tuple[str, ...]]:
    """Return the names of the stages on which each depends: the one before it unless it says otherwise."""
    before: list[tuple[str, ...]] = [(), *((stage.name,) for stage in stages)]
    return [before[number] if stage.depends_on is None else stage.depends_on for number, stage in enumerate(stages)]
