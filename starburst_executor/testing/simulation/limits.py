"""What the oracle demands of limits: who writes their permits, and that a task of a limit runs only under one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starburst_executor.protocol import records
from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.records import LimitRecord
from starburst_executor.testing.simulation.processes import WorkerProcess
from starburst_executor.testing.simulation.scheduler import Process
from starburst_executor.testing.simulation.store import Kept

__all__ = ["LimitChecks"]


class LimitChecks:
    """The limits of one session, as the store has them.

    Args:
        fail: Called with each violation.
        wrongly_lost: Returns what is wrong with calling a worker lost in this process; empty if nothing is.
    """

    def __init__(
        self,
        workers: Mapping[str, WorkerProcess],
        *,
        fail: Callable[[str], None],
        wrongly_lost: Callable[[str, Process], str],
    ) -> None:
        self._workers = workers
        self._fail = fail
        self._wrongly_lost = wrongly_lost
        self.found: dict[str, LimitRecord] = {}
        self._taken_away: dict[
            str, set[str]
        ] = {}  # by limit, permits that another process removed; until they are taken again

    def wrote(self, name: str, after: Kept | None, process: Process) -> None:
        """Record that a limit changed."""
        if after is None:
            self.found.pop(name, None)
            return
        old, new = self.found.get(name), records.decode_limit(after.body)
        self.found[name] = new
        before = frozenset() if old is None else frozenset(old.holders)
        if len(new.holders) > max(new.most, len(before)) or len(set(new.holders)) != len(new.holders):
            self._fail(f"more permits are held than the limit allows: {name}, {new}")
        away = self._taken_away.setdefault(name, set())
        for permit in set(new.holders) - before:
            away.discard(permit)
            if not isinstance(process, WorkerProcess) or worker_of(permit) != process.worker_id:
                self._fail(f"a process took a permit for another worker: {permit}, by {process}")
        for permit in before - set(new.holders):
            owner = self._workers.get(worker_of(permit))
            if owner is not process:
                away.add(permit)
                if words := self._wrongly_lost(worker_of(permit), process):
                    self._fail(f"{words}: {permit}")

    def started(self, name: str, worker: WorkerProcess, n_running: int) -> None:
        """Record that a worker has started a task of a limit; `n_running` of them run on it now."""
        found = self.found.get(name)
        holders = frozenset() if found is None else frozenset(found.holders)
        held = [
            permit for permit in holders | self._taken_away.get(name, set()) if worker_of(permit) == worker.worker_id
        ]
        if n_running > len(held):
            self._fail(
                f"tasks of a limit run without a permit: {name}, running={n_running}, permits={held}, on {worker}"
            )

    def is_full(self, name: str) -> bool:
        """Return whether no permit of this limit is free."""
        found = self.found.get(name)
        return found is None or len(found.holders) >= found.most
