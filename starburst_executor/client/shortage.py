"""Tasks whose resources no worker has: they fail after the time within which a worker must report, instead of waiting for ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from starburst_executor.errors import RecordInvalid, ResourcesUnavailable, VersionMismatch
from starburst_executor.protocol.records import WorkerBeat
from starburst_executor.protocol.resources import amounts_of, are_met
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import Status
from starburst_executor.session.beats import Beats
from starburst_executor.session.repair import sealed_reason
from starburst_executor.session.store import SessionStore

__all__ = ["Shortage"]


class Shortage:
    """Fails tasks that no worker can run. One thread calls `look`, about once a beat interval.

    Args:
        needs: Returns, by resources as keys have them, the watched objects that no worker had claimed from when they were last read.
        living: Returns the workers that are not lost.
    """

    def __init__(
        self,
        session: SessionStore,
        needs: Callable[[], Mapping[str, Sequence[str]]],
        living: Callable[[], set[str]],
    ) -> None:
        self._session = session
        self._needs = needs
        self._living = living
        self._beats = Beats(session)
        self._since: dict[str, float] = {}  # by resources, since when tasks wait for them

    def look(self) -> int:
        """Fail the tasks that have waited for too long for what no worker has; return their number.

        Store: nothing while no task waits for resources for longer than `launch_s`; otherwise 1 LIST, 1 GET for each worker that has beaten since;
        1 GET, 1 swap for each object that fails.
        """
        session, now = self._session, self._session.clock.monotonic()
        needs = self._needs()
        self._since = {text: self._since.get(text, now) for text in needs}
        launch_s = session.manifest.current.timings.launch_s
        due = [text for text, since in self._since.items() if now - since > launch_s]
        if not due:
            return 0
        living = self._living()
        beats = self._beats.read(lambda worker_id: worker_id in living)
        if not beats:
            return 0  # that no worker comes at all is an error of its own
        return sum(
            self._fail(key, text, beats)
            for text in due
            if not any(are_met(text, beat.resources) for beat in beats)
            for key in needs[text]
        )

    def _fail(self, key: str, text: str, beats: Sequence[WorkerBeat]) -> int:
        session = self._session
        wanted = ", ".join(f"{name}={amount:,}" for name, amount in amounts_of(text))
        most = ", ".join(
            f"{name}={max(beat.resources.get(name, 0) for beat in beats):,}" for name, _ in amounts_of(text)
        )
        error = ResourcesUnavailable(
            f"no worker has what the task needs: {wanted}; the most that one of {len(beats):,} workers has: {most}; request less, or start "
            f"workers that have it: session={session.session_id}"
        )
        failed: list[int] = []

        def step(current: Status) -> Status:
            outcome = partial(sealed_reason, session, error=error)
            changed = transitions.end_rest(current, session.clock.now(), outcome, pending_only=True)
            failed[:] = [len(changed.failed()) - len(current.failed())]
            return changed

        try:
            session.statuses.update(key, step)
        except (RecordInvalid, VersionMismatch):
            return 0
        return sum(failed)
