"""The workers of a session as one look finds them: which task each runs, by its claims and its newest beat."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from starburst_executor.client.report import TaskReport, WorkerReport
from starburst_executor.client.tally import Tally
from starburst_executor.protocol.records import WorkerBeat

__all__ = ["Crew"]


class Crew(NamedTuple):
    """The workers of a session, by their newest beats that were read.

    Attributes:
        n_unseen: Workers that have not left and of which no beat was read yet: the listing alone shows them.
    """

    beats: list[WorkerBeat]
    states: dict[str, str]
    dead: Collection[str]
    n_unseen: int

    def running(self, tally: Tally, now: float) -> list[tuple[str, str, float]]:
        """Return worker, task and seconds of what runs: of each worker's claims the oldest, one for each of its slots."""
        by_worker: dict[str, list[tuple[float, str]]] = {}
        for worker, task, since in tally.running:
            by_worker.setdefault(worker, []).append((since, task))
        beats = {beat.worker_id: beat for beat in self.beats}
        running = []
        for worker, claims in by_worker.items():
            beat = beats.get(worker)
            if self.states.get(worker) in ("left", "lost"):
                continue
            known = {task.task: task.since for task in beat.running} if beat is not None else {}
            n_slots = beat.slots if beat is not None else len(claims)
            # A task that a beat names runs for certain.
            claims.sort(key=lambda claim: (claim[1] not in known, claim[0]))
            running += [(worker, task, max(0.0, now - known.get(task, since))) for since, task in claims[:n_slots]]
        return running

    def reports(self, running: Iterable[tuple[str, str, float]], now: float, *, are_all: bool) -> list[WorkerReport]:
        """Return one report a worker, oldest first.

        Args:
            are_all: Whether every claim was read: a worker without one is then idle, whatever its last beat says.
        """
        beats = {beat.worker_id: {task.task: task for task in beat.running} for beat in self.beats}
        tasks: dict[str, list[TaskReport]] = {}
        for worker, task, seconds in running:
            known = beats.get(worker, {}).get(task)
            facts = () if known is None else known[2:]
            tasks.setdefault(worker, []).append(TaskReport(task, seconds, *facts))
        reports = []
        for beat in self.beats:
            state, own = self.states[beat.worker_id], tuple(tasks.get(beat.worker_id, ()))
            reports.append(
                WorkerReport(
                    id=beat.worker_id,
                    state=_state_now(state, has_tasks=bool(own), are_all=are_all),
                    host=beat.host or beat.where or "?",
                    slots=beat.slots,
                    tasks=own,
                    n_ended=beat.n_ended,
                    started_at=beat.started_at,
                    beat_at=beat.at,
                    age_s=max(0.0, now - beat.started_at),
                    words=beat.words,
                    launcher_id=beat.launcher_id,
                    trouble=beat.trouble,
                )
            )
        return reports


def _state_now(state: str, *, has_tasks: bool, are_all: bool) -> str:
    """Return the state of a worker whose beat may be older than its claims."""
    if state == "idle" and has_tasks:
        return "working"
    return "idle" if state == "working" and not has_tasks and are_all else state
