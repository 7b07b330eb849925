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
from collections.abc import Callable, Mapping
from typing import Any

from starburst_executor.clock import Clock
from starburst_executor.errors import StarburstError, StudyNotFound
from starburst_executor.protocol.seal import Sealer
from starburst_executor.study import transitions, wording
from starburst_executor.study.aborting import NO_RULES, progress_of, reason_to_abort
from starburst_executor.study.batch import Batch
from starburst_executor.study.beginning import Beginning, skipped_stages
from starburst_executor.study.curves import Curves
from starburst_executor.study.events import Event, Tell
from starburst_executor.study.fetching import clean
from starburst_executor.study.fleet import Workers
from starburst_executor.study.gates import Gates, are_all_that_is_left
from starburst_executor.study.live import Live
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.options import Pace, RunOptions
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import (
    ABORTED,
    COMPLETE,
    OPEN,
    RUNNING,
    WAITING,
    Approval,
    StudyRecord,
)
from starburst_executor.study.rounds import Rounds, SessionEnded
from starburst_executor.study.seals import Seals
from starburst_executor.study.tables import FAILED, TrialRow
from starburst_executor.study.transitions import Unfit
from starburst_executor.study.wheel import Beating, Wheel

__all__ = ["Driver"]

_log = logging.getLogger(__name__)

_WAIT_FIRST_S, _WAIT_MOST_S = 0.02, 0.25
_GROWTH = 1.5
_PROGRESS_S = 1.0


class _NotDriver(StarburstError):
    """Another driver's id is in the record, or the wheel is gone."""


class Driver:
    """One process's part in a study: it drives, or watches another one that does. Not thread-safe.

    Args:
        definition: The digest of the stored stages as this process knows them.
        settings: Of the sessions, likewise.
        beats: Whether a thread beats for the wheel; a simulation beats at each turn of the loop instead.
        sealer: Of the logs of searches.
        seals: Of the record's stages; those of `sealer` if not given.
        ends_session: Whether a complete study ends its session, and one whose session ends goes on in another; not for a driver that is
            a task of it.
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
        settings: Mapping[str, Any],
        pace: Pace,
        tell: Tell,
        stop: threading.Event,
        beats: bool = True,
        ends_session: bool = True,
        sealer: Sealer,
        seals: Seals | None = None,
    ) -> None:
        self._objects = objects
        self._plan = plan
        self._wheel = wheel
        self._workers = workers
        self._clock = clock
        self._beginning = Beginning(objects, plan, clock, driver=wheel.driver, definition=definition, settings=settings)
        self._options = RunOptions()
        self._pace = pace
        self._tell = tell
        self._stop = stop
        self._beats = beats
        self._ends_session = ends_session
        self._sealer = sealer
        self._seals = seals or Seals(sealer)
        self._turn = _Turn(plan, clock.monotonic())
        self._rounds = self._new_rounds()

    def create(self, fresh: StudyRecord) -> StudyRecord | None:
        """Begin a study that was never driven, with the wheel and a session: its record is created with all that can start.

        Returns: None if there may be one already: `StudyObjects.create` tells. Store: 1 create; of a new study 1 more and a session's start.
        """
        if not self._wheel.create():
            return None
        # Crash here: the wheel is there without a record. The next driver finds that, and waits until this one counts as lost.
        try:
            url = self._rounds.begin()
            # Crash here: a session without tasks is left, for which no worker was started.
            if self._beginning.create(fresh, url):
                return self._objects.known
            # It was imported, forked, or left to its workers: no process has driven it yet.
            self._rounds.leave(deletes=True)
        except BaseException:
            self._wheel.leave()
            raise
        self._wheel.leave()
        return None

    def run(self, options: RunOptions) -> StudyRecord:
        """Drive or watch until the study is complete or aborted, waits for approval that is not waited for, or `stop` is set."""
        self._options, has_said = options, False
        record = self._objects.known
        while True:
            if record.state == COMPLETE and not options.changes_anything:
                if not has_said:
                    self._say_skipped(options)
                return record
            if self._wheel.take():
                try:
                    return self._drive(options)
                except SessionEnded:
                    return self._objects.known
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
            record = self._objects.read()

    # --- driving ------------------------------------------------------------------------------------------------------

    def _drive(self, options: RunOptions) -> StudyRecord:
        beating = Beating(self._wheel, self._clock, beat_s=self._pace.beat_s) if self._beats else None
        self._turn = _Turn(self._plan, self._clock.monotonic())
        is_complete = False
        try:
            self._say_skipped(options)
            self._turn.to_retry = self._beginning.take_over(options, self._rounds, self._change)
            record = self._loop()
            is_complete = record.state == COMPLETE
            return record
        except StudyNotFound:
            # It was deleted with the session that its record named; the one that this driver has may be newer.
            self._rounds.delete()
            raise
        finally:
            if beating is not None:
                beating.end()
            # The tables have all outcomes: the workers of a complete study need not wait until they are idle for long.
            self._rounds.leave(ends=is_complete and self._ends_session)
            self._rounds = self._new_rounds()
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
            sealer=self._sealer,
            seals=self._seals,
            may_renew=self._ends_session,
        )

    def _say_skipped(self, options: RunOptions) -> None:
        for name, line in skipped_stages(self._objects.known, self._plan, options).items():
            self._say("stage", line, stage=name)

    def _change(self, step: Callable[[StudyRecord], StudyRecord]) -> StudyRecord:
        """Change the record as its driver, which seals what it decides. Raises: _NotDriver; Unfit: the record does not allow it."""

        def guarded(record: StudyRecord) -> StudyRecord:
            if record.driver != self._wheel.driver:
                raise _NotDriver(f"another driver decides: study={record.name}, driver={record.driver}")
            return self._seals.sealed(step(record), record)

        return self._objects.change(guarded)

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
            if record.needs_cleanup:
                self._clean(record)
                continue
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

    def _clean(self, record: StudyRecord) -> None:
        """Remove what the stages' policies do not keep, now that no trial runs; the study is complete after that."""
        done = clean(self._objects, record)
        # Crash here: the record still says that a cleanup is missing, and the next driver removes the rest.
        self._change(transitions.cleaned)
        self._say("study", wording.cleaned(done))

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
            reason = self._reason_to_abort(record, name, batch)
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
        self._say("stage", wording.decided(decided), stage=name)
        if decided.state == WAITING:
            self._say("gate", f"stage {name} waits: starburst study approve {changed.name} {name}", stage=name)

    def _reason_to_abort(self, record: StudyRecord, name: str, batch: Batch) -> str:
        rules = self._plan[name].abort_if
        if rules == NO_RULES:
            return ""
        now = self._clock.monotonic()
        idle_s = now - self._turn.moved_at.setdefault(name, now)
        progress = progress_of(
            name, batch, record, self._plan[name].directions, idle_s=idle_s, cost_usd=self._turn.cost_usd
        )
        return reason_to_abort(rules, progress)

    # --- ends, gates, pauses ------------------------------------------------------------------------------------------

    def _abort(self, reason: str) -> None:
        self._change(lambda record: transitions.aborted(record, reason) if record.state == OPEN else record)
        self._say("study", f"aborted: {reason}")

    def _gates(self, record: StudyRecord) -> bool:
        """Let a gate through whose time has passed; return whether nothing but gates is left to wait for."""
        name = self._turn.gates.due(record, self._clock.monotonic())
        gate = None if name is None else self._plan[name].gate
        if name is None or gate is None:
            return are_all_that_is_left(record)
        if gate.then == "abort":
            self._abort(f"stage {name} was not approved within {gate.timeout:g} s")
            return False
        approval = Approval("timeout", "", self._clock.now())
        try:
            self._change(lambda record: transitions.approved(record, self._plan, name, approval))
        except Unfit:
            _log.debug("a gate was let through meanwhile: stage=%s", name)
        return False

    def _keep_up(self) -> None:
        """At each beat, learn what people have changed; once a second, report progress."""
        turn, now = self._turn, self._clock.monotonic()
        if now - turn.read_at >= self._pace.beat_s:
            turn.read_at = now
            record = self._objects.read()
            turn.live.publish(self._objects, self._rounds.rows(record))
            if any(self._plan[name].abort_if.needs_cost for name in self._rounds.batches):
                turn.cost_usd = self._rounds.cost_usd()
        if now - turn.told_at >= _PROGRESS_S:
            turn.told_at = now
            for name, batch in self._rounds.batches.items():
                text = wording.progress(name, batch.counts, batch.trials)
                self._say("progress", text, stage=name, **batch.counts._asdict(), trials=batch.trials)
            turn.curves.publish(self._objects)

    def _pause(self) -> None:
        turn = self._turn
        turn.wait_s = min(turn.wait_s * _GROWTH, _WAIT_MOST_S)
        if not self._rounds.wait(turn.wait_s):
            self._clock.wait(self._stop, min(self._pace.look_s, turn.wait_s))

    def _say(self, kind: str, text: str, **data: Any) -> None:
        self._tell(Event(kind, text, self._clock.now(), data))


class _Turn:
    """What a driver knows while it drives, besides its rounds; another turn begins with nothing."""

    def __init__(self, plan: Plan, now: float) -> None:
        self.to_retry: set[str] = set()
        self.moved_at: dict[str, float] = {}
        self.gates = Gates(plan)
        self.curves = Curves()
        self.live = Live()
        self.cost_usd = 0.0
        self.read_at = now
        self.told_at = now
        self.wait_s = _WAIT_FIRST_S
