"""The session of a study in its driver, and the batches of its running stages: opened, submitted, carried into another session.

record.session ──open──► fleet ──submit──► a batch for each running stage
                           └── over ──► outcomes so far as tables ──► a new session, the next round of each running stage
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starburst_executor.clock import Clock
from starburst_executor.errors import SessionNotFound, StarburstError
from starburst_executor.protocol.seal import Sealer
from starburst_executor.study import transitions
from starburst_executor.study.asks import Asks, SearchFailed, SearchLog
from starburst_executor.study.batch import Batch
from starburst_executor.study.fleet import Fleet, Workers
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import RUNNING, StageRecord, StudyRecord
from starburst_executor.study.running import function_of
from starburst_executor.study.seals import Seals
from starburst_executor.study.spec import spec_of
from starburst_executor.study.tables import FAILED, TrialRow

__all__ = ["Rounds", "SessionEnded"]

_WATCHED = 32  # futures that are waited for at once
_WAIT_S = 0.25

Change = Callable[[Callable[[StudyRecord], StudyRecord]], StudyRecord]


class SessionEnded(StarburstError):
    """The session of this process is over, so it can drive no more. Another driver goes on."""


class Rounds:
    """The current rounds of all running stages. Not thread-safe.

    Args:
        change: Changes the record as its driver.
        say: Tells people one line.
        look_s: How long to wait for outcomes that are in the store already.
        sealer: Of the logs of searches.
        seals: Checks what the record hands on.
        may_renew: Whether this process may open another session when one is over.

    Attributes:
        batches: The batches of this process, by stage.
        to_give_up: Stages whose trials without an outcome are not run.
    """

    def __init__(
        self,
        objects: StudyObjects,
        plan: Plan,
        workers: Workers,
        clock: Clock,
        *,
        change: Change,
        say: Callable[[str], None],
        look_s: float,
        sealer: Sealer,
        seals: Seals,
        may_renew: bool,
    ) -> None:
        self.batches: dict[str, Batch] = {}
        self.to_give_up: set[str] = set()
        self._objects = objects
        self._plan = plan
        self._workers = workers
        self._clock = clock
        self._change = change
        self._say = say
        self._look_s = look_s
        self._sealer = sealer
        self._seals = seals
        self._may_renew = may_renew
        self._fleet: Fleet | None = None

    def begin(self) -> str:
        """Open the first session of a study; return its URL."""
        self._fleet = self._workers.open("")
        assert self._fleet is not None  # noqa: S101 - a new one
        return self._fleet.url

    def running(self, record: StudyRecord) -> list[str]:
        """Return the running stages: by priority, then as they were written."""
        running = [stage.name for stage in record.stages if stage.state == RUNNING]
        return sorted(running, key=lambda name: -self._plan[name].options.priority)

    def submit(self, record: StudyRecord) -> str | None:
        """Submit the trials of running stages that this process has not submitted yet.

        Returns: None if there was nothing to do; empty if something was done; else why the study cannot go on.
        """
        running = self.running(record)
        fresh = [name for name in running if name not in self.batches]
        for name in fresh:
            stage = record.stage(name)
            over = self._opened(record)
            fleet = self._fleet
            if fleet is None or over:
                return self.renew(record, over)
            if name in self.to_give_up:
                fleet.cancel()
                batch = self._found(fleet, record, name)
                batch.collect()
                batch.give_up("not run: unfinished=False")
            else:
                batch = self._batch(record, name, fleet)
            self.batches[name] = batch
            known = f", {batch.counts.ended:,} of them with an outcome" if batch.counts.ended else ""
            self._say(f"stage {name} runs: {stage.trials:,} trials{known}")
        has_submitted = False
        for name in running:
            try:
                has_submitted |= self._submit(record.stage(name), self.batches[name])
            except SearchFailed as error:
                return str(error)
        return "" if fresh or has_submitted else None

    def _submit(self, stage: StageRecord, batch: Batch) -> bool:
        """Submit the trials of a batch whose parameters are known. Raises: SearchFailed. Returns: whether there were any."""
        if stage.name in self.to_give_up or self._fleet is None:
            return False
        has_more = batch.asks is not None and batch.asks.advance(batch.rows)
        if batch.function is not None and not has_more:
            return False
        if batch.function is None:
            batch.function = function_of(batch.spec, stage.round)
        indexes = batch.to_submit
        if indexes:
            calls: list[Any] = [*indexes] if batch.asks is None else [(i, batch.asks.proposed[i]) for i in indexes]
            keys = [stage.key(index) for index in indexes]
            futures = self._fleet.submit(batch.function, calls, keys, batch.spec.options.task_timeout)
            batch.watch(dict(zip(indexes, futures, strict=True)))
        return bool(indexes)

    def rows(self, record: StudyRecord) -> list[tuple[StageRecord, Mapping[int, TrialRow]]]:
        """Return the outcomes that each running stage has so far."""
        return [(record.stage(name), batch.rows) for name, batch in self.batches.items()]

    def over(self) -> str:
        """Return why the session is over; empty if it is open, or not opened yet."""
        return "" if self._fleet is None else self._fleet.over()

    def renew(self, record: StudyRecord, over: str) -> str:
        """Carry the outcomes of a session that is over into a new one; return why that must not be, empty if it was done.

        Raises: SessionEnded: this process is a task of the session that is over.
        """
        if not self._may_renew:
            raise SessionEnded(f"the session is over, and run() goes on in a new one: {over}: study={record.name}")
        if over.startswith("broken"):
            return f"the session cannot go on: {over}"
        # A study that was deleted, whose session is over for that reason, gets neither tables nor a session.
        self._objects.read()
        old = self._fleet
        tables = self.gathered(record, self.running(record)) if record.session else {}
        if old is not None:
            old.leave()
            self._say(f"the session is over ({over}): a new one goes on with the trials that have no outcome")
        # Crash here: a session without tasks is left, for which no worker was started.
        self._fleet = fleet = self._workers.open("")
        if fleet is None:
            return "no session could be opened"
        self.batches.clear()
        self._change(lambda record: transitions.carried(record, tables, session=fleet.url))
        return ""

    def cancelled(self, record: StudyRecord, names: list[str], *, keeps_failed: bool) -> dict[str, str | None]:
        """Cancel what no worker has claimed; return the tables of these stages' outcomes so far."""
        self.cancel(record)
        return self.gathered(record, names, keeps_failed=keeps_failed)

    def gathered(self, record: StudyRecord, names: list[str], *, keeps_failed: bool = True) -> dict[str, str | None]:
        """Write a table of the outcomes that each of these running stages has so far; return their digests."""
        self._opened(record)
        tables: dict[str, str | None] = {}
        for name in names:
            if self._fleet is None:  # deleted: what is not in a table is lost
                tables[name] = record.stage(name).carried
                continue
            batch = self.batches.get(name) or self._found(self._fleet, record, name)
            batch.collect(is_over=True)
            if not keeps_failed:
                batch.forget([row.index for row in batch.rows.values() if row.state == FAILED])
            tables[name] = self.written(name, batch)
        return tables

    def written(self, name: str, batch: Batch) -> str | None:
        """Write the outcomes of a batch as a table; return its digest, None if there are none."""
        if not batch.rows:
            return None
        return self._objects.write_table(name, [batch.rows[index] for index in sorted(batch.rows)])

    def cancel(self, record: StudyRecord) -> None:
        """Cancel the trials that no worker has claimed, if there is a session. Harmless twice."""
        if not self._opened(record) and self._fleet is not None:
            self._fleet.cancel()

    def scale(self, record: StudyRecord, workers: int) -> None:
        """Change the number of workers of the recorded session, if it is open."""
        if not self._opened(record) and self._fleet is not None:
            self._fleet.scale(workers)

    def wait(self, timeout_s: float) -> bool:
        """Wait until a trial has ended, or the time has passed; return False at once if none is waited for."""
        waiting = [future for batch in self.batches.values() for future in batch.waiting(_WATCHED)]
        if not waiting or self._fleet is None:
            return False
        self._fleet.wait(waiting, timeout_s)
        return True

    def cost_usd(self) -> float:
        """Return the estimated cost of the session so far."""
        return 0.0 if self._fleet is None else self._fleet.cost_usd()

    def leave(self, *, ends: bool = False, deletes: bool = False) -> None:
        """Detach from the session, end it, or delete it. A second call is harmless."""
        if self._fleet is not None:
            self._fleet.leave(ends=ends, deletes=deletes)
            self._fleet = None

    def delete(self) -> None:
        """Delete the session of a study that was deleted, if this process has it. A second call is harmless."""
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            with suppress(SessionNotFound):  # it went with the study
                fleet.leave(deletes=True)

    def _opened(self, record: StudyRecord) -> str:
        """Open the recorded session, if it is not open here; return why it is over."""
        if self._fleet is None and record.session:
            self._fleet = self._workers.open(record.session)
            if self._fleet is None:
                self._say("the session of this study was deleted: trials without a recorded outcome run again")
        return self.over()

    def _batch(self, record: StudyRecord, name: str, fleet: Fleet) -> Batch:
        stage = record.stage(name)
        self._seals.check(record, (name, *self._plan.parents(name)))
        inputs = transitions.inputs_of(record, self._plan, name)
        spec = spec_of(self._plan[name], record, inputs, store=fleet.store_url)
        carried = [] if stage.carried is None else self._objects.read_table(stage.carried)
        if self._plan[name].search is None:
            return Batch(spec, stage.trials, carried)
        log = SearchLog(self._objects.store, self._objects.keys, self._sealer, name, stage.edition)
        log.load()
        asks = Asks(self._plan[name], spec.seed, log)
        return Batch(replace(spec, proposed=asks.by_index), stage.trials, carried, asks)

    def _found(self, fleet: Fleet, record: StudyRecord, name: str) -> Batch:
        """Return the batch of a stage with what the session has of it, without submitting anything."""
        stage = record.stage(name)
        batch = self._batch(record, name, fleet)
        missing = batch.missing
        keys: list[Any] = [stage.key(index) for index in missing]
        found = fleet.find(keys)
        futures = {index: found[key] for index, key in zip(missing, keys, strict=True) if key in found}
        # What has ended in the store is known here after one poll; what still runs has no outcome.
        deadline = self._clock.monotonic() + self._look_s
        while (left := [one for one in futures.values() if not one.done()]) and self._clock.monotonic() < deadline:
            fleet.wait(left[:_WATCHED], _WAIT_S)
        batch.watch(futures)
        return batch
