"""This client's beat in the store, which shows workers and other clients that it is attached."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from starburst_executor.errors import ObjectNotFound
from starburst_executor.launch.local.processes import identity
from starburst_executor.protocol.records import ClientBeat
from starburst_executor.session.own import OwnObject
from starburst_executor.session.store import SessionStore

__all__ = ["Presence"]


class Presence:
    """Writes one client's beat. Not thread-safe."""

    def __init__(self, session: SessionStore, client_id: str) -> None:
        self._clock = session.clock
        self._beat_s = session.manifest.current.timings.beat_s
        self._beat = ClientBeat(client_id, 0, self._clock.now(), process=identity())
        self._own = OwnObject(session.store, session.keys.client(client_id), session.clock)
        self._next_at = float("-inf")

    @property
    def is_shown(self) -> bool:
        """Whether this client has ever beaten."""
        return self._own.is_written

    def due_in_s(self) -> float:
        """Return the seconds until the next beat is due; negative if it is late."""
        return self._next_at - self._clock.monotonic()

    def postpone(self) -> None:
        """Let the next beat be due one interval from now, whether or not the current one reaches the store."""
        self._next_at = self._clock.monotonic() + self._beat_s

    def beat(self) -> None:
        """Write a beat. Store: 1 create or 1 swap."""
        self._write(left=False)

    def introduce(self) -> None:
        """Write a first beat before an intent names this client, so that others can judge whether it is alive."""
        if not self.is_shown:
            self.beat()

    def leave(self) -> None:
        """Write the last beat. Store: 1 swap."""
        with suppress(ObjectNotFound):
            # Another client may have deleted the session: then no last beat is needed.
            self._write(left=True)

    def _write(self, *, left: bool) -> None:
        self._beat = replace(self._beat, number=self._beat.number + 1, at=self._clock.now(), left=left)
        self._own.write(self._beat)
