"""The driver of a study: starts, collects and decides its stages, and stops at whatever ends the study.

    take the wheel ──► put its id into the record ──► begin ──► loop: submit, collect, abort?, decide, gates ──► leave
          │                                                       │
          └── another process drives: look, and take over         └── every write is the decision; acting follows it

Guarantee: a kill between any two store requests is repaired by the next driver from the record alone. Every change of the record is
refused once another driver's id is in it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from starburst_executor.clock import Clock
from starburst_executor.errors import StarburstError
from starburst_executor.study import transitions
from starburst_executor.study.aborting import reason_to_abort
from starburst_executor.study.batch import Batch
from starburst_executor.study.curves import Curves
from starburst_executor.study.events import Event, StageProgress, Tell
from starburst_executor.study.fleet import Workers
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import (
    ABORTED,
    COMPLETE,
    OPEN,
    RUNNING,
    WAITING,
    Approval,
    StageRecord,
    StudyRecord,
)
from starburst_executor.study.rounds import Rounds
from starburst_executor.study.stage import AbortRules
from starburst_executor.study.tables import FAILED, TrialRow
from starburst_executor.study.transitions import Unfit
from starburst_executor.study.wheel import Beating, Wheel

__all__ = ["Driver", "Pace", "RunOptions"]

_log = logging.getLogger(__name__)

_WAIT_FIRST_S, _WAIT_MOST_S = 0.02, 0.25
_GROWTH = 1.5
_PROGRESS_S = 1.0


class _NotDriver(StarburstError):
    """Another driver's id is in the record, or the wheel is gone."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a study is to go on, as `Study.run` takes it; applied once, by the process that drives.

    Attributes:
        is_changed: Whether the stages differ from the recorded ones, and that was accepted or needs no acceptance.
    """

    unfinished: bool = True
    failed: bool = False
    restart: tuple[str, ...] = ()
    continue_aborted: bool = False
    is_changed: bool = False
    wait: bool = True

    @property
    def changes_anything(self) -> bool:
        return bool(self.restart) or self.is_changed or self.continue_aborted


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two beats, and between two looks of those who watch."""

    beat_s: float
    look_s: float


class Driver:
    """One process's part in a study: it drives, or watches another one that does. Not thread-safe.

    Args:
        definition: The digest of the stored stages as this process knows them.
        beats: Whether a thread beats for the wheel; a simulation beats at each turn of the loop instead.
        ends_session: Whether a complete study ends its session; not for a driver that is a task of it.
    """

    def __init__(
        self,
        objects: StudyObjects,
        plan: Plan,
        wheel: Wheel,
        workers: Workers,
        clock: Clock,
        *,
        definition: str,
        options: RunOptions,
        pace: Pace,
        tell: Tell,
        stop: threading.Event,
        beats: bool = True,
        ends_session: bool = True,
    ) -> None:
        self._objects = objects
        self._plan = plan
        self._wheel = wheel
        self._workers = workers
        self._clock = clock
        self._definition = definition
        self._options = options
        self._pace = pace
        self._tell = tell
        self._stop = stop
        self._beats = beats
        self._ends_session = ends_session
        self._turn = _Turn(clock.monotonic())
        self._rounds = self._new_rounds()

    def run(self) -> StudyRecord:
        """Drive or watch until the study is complete or aborted, waits for approval that is not waited for, or `stop` is set."""
        options, has_said = self._options, False
        while True:
            record = self._objects.read()
            if record.state == COMPLETE and not options.changes_anything:
                return record
            if self._wheel.take():
                try:
                    return self._drive(options)
                except _NotDriver:
                    # What the user asked for was applied, or is up to the other driver now.
                    options = RunOptions(wait=options.wait)
            elif record.state == ABORTED and not options.changes_anything:
                return record
            elif not has_said:
                has_said = True
                self._say(
                    "driver", "another process drives this study; this one watches, and takes over if that one dies"
                )
            if self._clock.wait(self._stop, self._pace.look_s):
                return record

    # --- driving ------------------------------------------------------------------------------------------------------

    def _drive(self, options: RunOptions) -> StudyRecord:
        beating = Beating(self._wheel, self._clock, beat_s=self._pace.beat_s) if self._beats else None
        self._turn = _Turn(self._clock.monotonic())
        self._rounds = self._new_rounds()
        is_complete = False
        try:
            self._begin(options)
            record = self._loop()
            is_complete = record.state == COMPLETE
            return record
        finally:
            if beating is not None:
                beating.end()
            # The tables have all outcomes: the workers of a complete study need not wait until they are idle for long.
            self._rounds.leave(ends=is_complete and self._ends_session)
            self._wheel.leave()

    def _new_rounds(self) -> Rounds:
        return Rounds(
            self._objects,
            self._plan,
            self._workers,
            self._clock,
            change=self._change,
            say=lambda text: self._say("stage", text),
            look_s=self._pace.look_s,
        )

    def _change(self, step: Callable[[StudyRecord], StudyRecord]) -> StudyRecord:
        """Change the record as its driver. Raises: _NotDriver; Unfit: the record does not allow it."""

        def guarded(record: StudyRecord) -> StudyRecord:
            if record.driver != self._wheel.driver:
                raise _NotDriver(f"another driver decides: study={record.name}, driver={record.driver}")
            return step(record)

        return self._objects.change(guarded)

    def _begin(self, options: RunOptions) -> None:
        """Become the driver, apply what the user asked for, and start what can start: in one swap, if no outcomes are carried."""
        record = self._objects.known
        for stage in record.stages:
            if stage.is_decided and stage.name not in options.restart:
                self._say("stage", _skipped(stage), stage=stage.name)
        changed = {change.stage for change in transitions.changes_of(record, self._plan)}
        running = [stage.name for stage in record.stages if stage.state == RUNNING]
        is_reopened = record.state == ABORTED and options.continue_aborted
        renewed = [name for name in running if name in changed or is_reopened]
        if renewed:
            # Before outcomes are read, no other driver may change the record any more.
            self._objects.change(self._driven)
        # Crash here: the cancelled trials have no outcome, and the next driver submits them in a further round.
        tables: dict[str, str | None] = {}
        if renewed and record.session:
            tables = self._rounds.cancelled(record, renewed, keeps_failed=not options.failed)
        # An aborted study goes on in another session, if its own is over: perhaps that was the reason.
        is_over = bool(renewed and self._rounds.over())
        if is_over:
            self._rounds.leave()
        self._turn.to_retry = set(running) - set(renewed) if options.failed else set()
        self._rounds.to_give_up = set() if options.unfinished else set(running)
        at = self._clock.now()

        def step(record: StudyRecord) -> StudyRecord:
            record = self._driven(record)
            if record.state == ABORTED and not options.changes_anything:
                return record
            if is_reopened and record.state == ABORTED:
                record = transitions.reopened(record)
            # Without changes this only takes over what has not started yet.
            record = replace(transitions.accepted(record, self._plan, at), definition=self._definition)
            if options.restart:
                record = transitions.restarted(record, self._plan, options.restart, at)
            if record.state != OPEN:
                return record
            still = {name: table for name, table in tables.items() if record.stage(name).state == RUNNING}
            session = "" if is_over else record.session
            return transitions.started(transitions.carried(record, still, session=session), self._plan, at)

        # From here on no other driver can change the record.
        if renewed:
            self._change(step)
        else:
            self._objects.change(step)

    def _driven(self, record: StudyRecord) -> StudyRecord:
        return transitions.driven_by(record, self._wheel.driver)

    def _loop(self) -> StudyRecord:
        while True:
            record = self._objects.known
            if not self._beats:
                self._wheel.beat()
            if not self._wheel.is_mine:
                raise _NotDriver(f"the wheel was taken by another driver: study={record.name}")
            if record.state != OPEN:
                if record.state == ABORTED:
                    # Every driver repeats it: a crash may have come between the record and this.
                    self._rounds.cancel(record)
                return record
            if self._stop.is_set():
                return record
            if transitions.ready(record, self._plan):
                self._start()
                continue
            if self._gates(record) and not self._options.wait:
                return record
            said = self._rounds.submit(record)
            if said:
                self._abort(said)
            has_moved = said is not None or self._collect(record)
            self._keep_up()
            if has_moved:
                self._turn.wait_s = _WAIT_FIRST_S
            else:
                self._pause()

    def _start(self) -> None:
        at = self._clock.now()
        self._change(lambda record: transitions.started(record, self._plan, at))

    # --- collecting ---------------------------------------------------------------------------------------------------

    def _collect(self, record: StudyRecord) -> bool:
        """Take new outcomes; decide, abort or renew if they say so; return whether anything happened."""
        has_moved = False
        for name, batch in list(self._rounds.batches.items()):
            if record.stage(name).state != RUNNING:
                del self._rounds.batches[name]
                continue
            fresh = batch.collect()
            if fresh:
                has_moved = True
                self._turn.moved_at[name] = self._clock.monotonic()
                self._turn.curves.take(self._plan[name], record.stage(name).edition, fresh)
            self._wheel.progress[name] = (batch.counts.completed, batch.counts.failed, batch.counts.cancelled)
            has_ended = batch.ending is not None or any(row.kind == "cancelled" for row in fresh)
            if has_ended and self._is_over(record, batch, fresh):
                return True
            reason = self._reason_to_abort(name, batch)
            if reason:
                self._abort(reason)
                return True
            if batch.is_done:
                self._finish(record, name, batch)
                return True
        return has_moved

    def _is_over(self, record: StudyRecord, batch: Batch, fresh: list[TrialRow]) -> bool:
        """Whether the session is over, so that its cancelled trials have no outcome; the study then goes on in a new one."""
        over = self._rounds.over()
        if over:
            batch.forget([row.index for row in fresh if row.kind == "cancelled"])
            reason = self._rounds.renew(record, over)
        elif batch.ending is not None:
            reason = f"trials ended with an error of the session: {batch.ending}"
        else:
            return False
        if reason:
            self._abort(reason)
        return True

    def _finish(self, record: StudyRecord, name: str, batch: Batch) -> None:
        failed = [row.index for row in batch.rows.values() if row.state == FAILED]
        if name in self._turn.to_retry and failed:
            batch.forget(failed)
            table = self._rounds.written(name, batch)
            del self._rounds.batches[name]
            self._change(lambda record: transitions.carried(record, {name: table}, session=record.session))
            self._say("stage", f"stage {name}: {len(failed):,} failed trials run again", stage=name)
        else:
            self._decide(record, name, batch)
        self._turn.to_retry.discard(name)

    def _decide(self, record: StudyRecord, name: str, batch: Batch) -> None:
        stage = self._plan[name]
        rows = [batch.rows[index] for index in range(batch.trials)]
        policy = transitions.policy_of(record, self._plan, name)
        try:
            choice = stage.selection.choose(rows, stage.directions, policy)
            reason = transitions.without_result(self._plan, name, rows, choice)
        except Exception as error:  # user code
            _log.warning("the selection of a stage raised: stage=%s", name, exc_info=True)
            self._abort(f"the selection of stage {name} raised {type(error).__name__}: {error}")
            return
        if reason:
            self._abort(reason)
            return
        table = self._objects.write_table(name, rows)
        # Crash here: the table is there and nothing names it. The next driver writes the same one.
        at = self._clock.now()
        changed = self._change(
            lambda record: transitions.decided(record, self._plan, name, rows, choice, table=table, at=at)
        )
        del self._rounds.batches[name]
        self._wheel.progress.pop(name, None)
        decided = changed.stage(name)
        self._say("stage", _decided(decided), stage=name)
        if decided.state == WAITING:
            self._say("gate", f"stage {name} waits: starburst study approve {changed.name} {name}", stage=name)

    def _reason_to_abort(self, name: str, batch: Batch) -> str:
        rules = self._plan[name].abort_if
        if rules == _NO_RULES:
            return ""
        counts, now = batch.counts, self._clock.monotonic()
        idle_s = now - self._turn.moved_at.setdefault(name, now)
        failed = Counter(row.kind for row in batch.rows.values() if row.state == FAILED) if counts.failed else {}
        progress = StageProgress(
            name, batch.trials, *counts, idle_s=idle_s, cost_usd=self._turn.cost_usd, kinds=dict(failed)
        )
        try:
            return reason_to_abort(rules, progress)
        except Exception as error:  # user code
            return f"abort_if of stage {name} raised {type(error).__name__}: {error}"

    # --- ends, gates, pauses ------------------------------------------------------------------------------------------

    def _abort(self, reason: str) -> None:
        self._change(lambda record: transitions.aborted(record, reason) if record.state == OPEN else record)
        self._say("study", f"aborted: {reason}")

    def _gates(self, record: StudyRecord) -> bool:
        """Let gates through whose time has passed; return whether nothing but gates is left to wait for."""
        now = self._clock.monotonic()
        for stage in record.stages:
            gate = self._plan[stage.name].gate
            if stage.state != WAITING or gate is None or gate.timeout is None:
                continue
            since = self._turn.waiting_since.setdefault(stage.name, now)
            if now - since < gate.timeout:
                continue
            if gate.then == "abort":
                self._abort(f"stage {stage.name} was not approved within {gate.timeout:g} s")
            else:
                self._approve(stage.name)
            return False
        states = {stage.state for stage in record.stages}
        return WAITING in states and RUNNING not in states

    def _approve(self, name: str) -> None:
        approval = Approval("timeout", "", self._clock.now())
        try:
            self._change(lambda record: transitions.approved(record, self._plan, name, approval))
        except Unfit:
            _log.debug("a gate was let through meanwhile: stage=%s", name)

    def _keep_up(self) -> None:
        """At each beat, learn what people have changed; once a second, report progress."""
        turn, now = self._turn, self._clock.monotonic()
        if now - turn.read_at >= self._pace.beat_s:
            turn.read_at = now
            self._objects.read()
            if any(self._plan[name].abort_if.budget_usd is not None for name in self._rounds.batches):
                turn.cost_usd = self._rounds.cost_usd()
        if now - turn.told_at >= _PROGRESS_S:
            turn.told_at = now
            for name, batch in self._rounds.batches.items():
                self._say("progress", _progress(name, batch), stage=name, **batch.counts._asdict(), trials=batch.trials)
            turn.curves.publish(self._objects)

    def _pause(self) -> None:
        turn = self._turn
        turn.wait_s = min(turn.wait_s * _GROWTH, _WAIT_MOST_S)
        if not self._rounds.wait(turn.wait_s):
            self._clock.wait(self._stop, min(self._pace.look_s, turn.wait_s))

    def _say(self, kind: str, text: str, **data: Any) -> None:
        self._tell(Event(kind, text, self._clock.now(), data))


_NO_RULES = AbortRules()


class _Turn:
    """What a driver knows while it drives, besides its rounds; another turn begins with nothing."""

    def __init__(self, now: float) -> None:
        self.to_retry: set[str] = set()
        self.moved_at: dict[str, float] = {}
        self.waiting_since: dict[str, float] = {}
        self.curves = Curves()
        self.cost_usd = 0.0
        self.read_at = now
        self.told_at = now
        self.wait_s = _WAIT_FIRST_S


def _skipped(stage: StageRecord) -> str:
    at = datetime.fromtimestamp(stage.completed_at or 0.0, timezone.utc)
    return f"stage {stage.name} is skipped: decided at {at:%Y-%m-%d %H:%M:%S} UTC, {len(stage.survivors):,} survive"


def _decided(stage: StageRecord) -> str:
    return (
        f"stage {stage.name}: {stage.completed:,} completed, {stage.failed:,} failed, {stage.cancelled:,} cancelled; "
        f"{len(stage.survivors):,} survive: {stage.reason}"
    )


def _progress(name: str, batch: Batch) -> str:
    parts = ", ".join(f"{n:,} {state}" for state, n in batch.counts._asdict().items() if n)
    return f"stage {name}: {batch.counts.ended:,} of {batch.trials:,} trials ended{f' ({parts})' if parts else ''}"
