"""The plan of a study: its stages as a directed graph, and the order in which they can run. Pure."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

from starburst_executor.errors import ConfigError
from starburst_executor.study.fingerprints import codes_of, config_of
from starburst_executor.study.stage import Stage

__all__ = ["Plan"]


class Plan:
    """The stages of a study and what each depends on. Immutable.

    Raises: ConfigError: it names every fault: a name used twice, an unknown or a circular dependency, no stage at all.
    """

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages: tuple[Stage, ...] = tuple(stages)
        self._by_name = {stage.name: stage for stage in self.stages}
        self._parents = {
            stage.name: _parents(stage, self.stages[number - 1] if number else None)
            for number, stage in enumerate(self.stages)
        }
        faults = list(self._faults())
        if faults:
            raise ConfigError("; ".join(faults))

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

    def config(self, name: str, seed: int) -> str:
        """Return the fingerprint of a stage's configuration, in a study with this seed."""
        return config_of(self[name], self._parents[name], seed)

    def code(self, name: str) -> str:
        """Return the fingerprint of a stage's functions, as they were at the first question."""
        return self._codes[name]

    @functools.cached_property
    def _codes(self) -> dict[str, str]:
        return codes_of(self.stages)

    def _faults(self) -> Iterable[str]:
        import difflib
        from graphlib import CycleError, TopologicalSorter

        names = self.names
        if not names:
            yield "a study has at least one stage"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two stages have the name {name!r}"
        for name, parents in self._parents.items():
            for parent in parents:
                if parent not in self._by_name:
                    near = difflib.get_close_matches(parent, names, 1)
                    hint = f", did you mean {near[0]!r}?" if near else ""
                    yield f"stage {name!r} depends on {parent!r}, which is no stage{hint}"
            if parents and not all(isinstance(case, Mapping) for case in self._by_name[name].cases):
                yield f"stage {name!r} takes survivors as its cases, so its own cases must be mappings of parameters"
            if len(set(parents)) < len(parents):
                yield f"stage {name!r} depends on one stage twice"
        try:
            TopologicalSorter(self._parents).prepare()
        except CycleError as error:
            circle: Sequence[str] = error.args[1]
            yield f"the stages depend on each other in a circle: {' -> '.join(reversed(circle))}"


def _parents(stage: Stage, previous: Stage | None) -> tuple[str, ...]:
    if stage.depends_on is not None:
        return stage.depends_on
    return () if previous is None else (previous.name,)
