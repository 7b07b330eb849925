"""Runs one trial in this process, for debuggers and tests: it stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from starburst_executor.errors import ObjectNotFound, PreconditionFailed
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.study import transitions
from starburst_executor.study.asks import SearchLog
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import StudyRecord
from starburst_executor.study.running import run_trial
from starburst_executor.study.seals import Seals
from starburst_executor.study.spec import TrialSpec, spec_of
from starburst_executor.study.stage import TrialOptions
from starburst_executor.study.trial import Trial

__all__ = ["Overlay", "local_trial", "replayed"]


class Overlay:
    """A store whose writes stay in memory; what was not written is read from the store below it, if there is one."""

    def __init__(self, below: ObjectStore | None = None) -> None:
        self._below = below
        self._objects: dict[str, Stored] = {}

    @property
    def url(self) -> str:
        return "overlay" if self._below is None else self._below.url

    @property
    def limiter(self) -> None:
        return None

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        found = self._objects.get(key)
        if found is not None:
            return Stored(found.body[start : None if length is None else start + length], found.etag)
        if self._below is None:
            raise ObjectNotFound(f"no such object: {key}")
        return self._below.get(key, start=start, length=length)

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        found = self.get(key, start=start, length=length)
        return None if found.etag == etag else found

    def create(self, key: str, body: Body) -> str:
        if key in self._objects:
            raise PreconditionFailed(f"the object already exists: {key}")
        return self.put(key, body)

    def swap(self, key: str, body: Body, expected: str) -> str:
        if self.get(key).etag != expected:
            raise PreconditionFailed(f"another writer was first: {key}")
        return self.put(key, body)

    def put(self, key: str, body: Body) -> str:
        etag = f"overlay-{len(self._objects)}-{len(bytes(body))}-{id(body)}"
        self._objects[key] = Stored(bytes(body), etag)
        return etag

    def list_folders(self, prefix: str) -> list[str]:
        return [] if self._below is None else self._below.list_folders(prefix)

    def list(self, prefix: str) -> list[Listed]:
        return [] if self._below is None else self._below.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    def close(self) -> None:
        """Do nothing: the store below belongs to its opener."""


def local_trial(stage: str, index: int, case: Any, *, seed: int) -> Trial:
    """Return a trial that keeps what it saves in memory. `Trial.here` is its public name."""
    spec = TrialSpec(
        stage=stage, edition=1, seed=seed, cases=() if case is None else (case,), inputs=(), run=None, command=None, here="",
        metrics={}, options=TrialOptions(), prune=None, store="", study="here",
    )  # fmt: skip
    return Trial(spec, index, store=Overlay())


def replayed(
    name: str,
    record: StudyRecord,
    plan: Plan,
    store: ObjectStore,
    sealer: Callable[[], Sealer],
    seals: Callable[[], Seals],
) -> dict[str, float]:
    """Run one trial of a study here, without its timeout and retries; return its metrics. `Study.replay` says the rest."""
    stage_name, slash, index = name.rpartition("/")
    if not slash:
        raise LookupError(
            f"no such trial: {name!r}: a trial is named by its stage and index, as in {record.names[0]}/0"
        )
    stage = record.stage(stage_name)
    if not index.isdecimal() or int(index) >= stage.trials:
        raise LookupError(
            f"no such trial: {name!r}: stage {stage_name} has {stage_name}/0 to {stage_name}/{stage.trials - 1}"
        )
    inputs = transitions.inputs_of(record, plan, stage_name)
    if inputs:
        seals().check(record, plan.parents(stage_name))
    spec = replace(spec_of(plan[stage_name], record, inputs, store=store.url), options=TrialOptions())
    if plan[stage_name].search is not None:
        log = SearchLog(store, StudyKeys(record.name), sealer(), stage_name, stage.edition)
        log.load()
        if int(index) >= len(log.proposed):
            raise LookupError(f"no such trial yet: {name!r}: the search of its stage has proposed {len(log.proposed)}")
        spec = replace(spec, proposed={int(index): log.proposed[int(index)]})
    return dict(run_trial(spec, int(index), store=Overlay(store))["metrics"])
