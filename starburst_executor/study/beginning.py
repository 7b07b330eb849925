"""What a driver does first: it puts its id into the record, applies what the user asked for, and starts what can start.

changed or reopened stages that run ──► this driver's id ──► cancel, gather outcomes as tables ──┐
nothing of the kind ─────────────────────────────────────────────────────────────────────────────┴──► one swap: driver, changes,
                                                                                             restarts, further rounds, started stages
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from starburst_executor.clock import Clock
from starburst_executor.study import transitions, wording
from starburst_executor.study.changes import changes_of
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.options import RunOptions
from starburst_executor.study.plain import plain_copy
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import ABORTED, OPEN, RUNNING, StudyRecord
from starburst_executor.study.rounds import Rounds

__all__ = ["Beginning", "skipped_stages"]


class Beginning:
    """How one driver begins, with the stages and settings as its process has them. Not thread-safe.

    Args:
        driver: Its id.
        definition: The digest of the stored stages as this process knows them.
        settings: Of the sessions, likewise.
    """

    def __init__(
        self,
        objects: StudyObjects,
        plan: Plan,
        clock: Clock,
        *,
        driver: str,
        definition: str,
        settings: Mapping[str, Any],
    ) -> None:
        self._objects = objects
        self._plan = plan
        self._clock = clock
        self._driver = driver
        self._definition = definition
        self._settings = plain_copy(settings)

    def create(self, fresh: StudyRecord, session: str) -> bool:
        """Create the record of a new study with its driver, its session, and all stages that can start.

        Returns: Whether there was none. Store: 1 create; 1 GET if there was one.
        """
        record = replace(fresh, driver=self._driver, session=session)
        return self._objects.create(transitions.started(record, self._plan, fresh.created_at)).session == session

    def take_over(self, options: RunOptions, rounds: Rounds, change: Callable[..., StudyRecord]) -> set[str]:
        """Take over a study that exists; return the running stages whose failed trials are to run again.

        Args:
            change: Changes the record as its driver.
        """
        record = self._objects.known
        if record.generation == 1 and record.driver == self._driver:
            return set()  # this process has just created it
        changed = {one.stage for one in changes_of(record, self._plan)}
        running = [stage.name for stage in record.stages if stage.state == RUNNING]
        is_reopened = record.state == ABORTED and options.continue_aborted
        renewed = [name for name in running if name in changed or is_reopened]
        if renewed:
            # Before outcomes are read, no other driver may change the record any more.
            self._objects.change(self._driven)
        # Crash here: the cancelled trials have no outcome, and the next driver submits them in a further round.
        tables: dict[str, str | None] = {}
        if renewed and record.session:
            tables = rounds.cancelled(record, renewed, keeps_failed=not options.failed)
        # An aborted study goes on in another session, if its own is over: perhaps that was the reason.
        is_over = bool(renewed and rounds.over())
        if is_over:
            rounds.leave()
        rounds.to_give_up = set() if options.unfinished else set(running)
        at = self._clock.now()

        def step(record: StudyRecord) -> StudyRecord:
            record = self._driven(record)
            if record.state == ABORTED and not options.changes_anything:
                return record
            if is_reopened and record.state == ABORTED:
                record = transitions.reopened(record)
            # Without changes this only takes over what has not started yet.
            record = transitions.accepted(record, self._plan, at)
            record = replace(record, definition=self._definition, settings=self._settings)
            if options.restart:
                record = transitions.restarted(record, self._plan, options.restart, at)
            if record.state != OPEN:
                return record
            still = {name: table for name, table in tables.items() if record.stage(name).state == RUNNING}
            session = "" if is_over else record.session
            return transitions.started(transitions.carried(record, still, session=session), self._plan, at)

        # From here on no other driver can change the record.
        begun = change(step) if renewed else self._objects.change(step)
        workers = self._settings.get("workers")
        if begun.state == OPEN and begun.session and workers != record.settings.get("workers") and workers is not None:
            rounds.scale(begun, workers)
        return set(running) - set(renewed) if options.failed else set()

    def _driven(self, record: StudyRecord) -> StudyRecord:
        return transitions.driven_by(record, self._driver)


def skipped_stages(record: StudyRecord, plan: Plan, options: RunOptions) -> dict[str, str]:
    """Return the decided stages that are not started over, each with a line that says so."""
    again = {other for name in options.restart if name in record.names for other in [name, *plan.below(name)]}
    return {
        stage.name: wording.skipped(stage, failed=options.failed)
        for stage in record.stages
        if stage.is_decided and stage.name not in again
    }
