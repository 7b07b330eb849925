"""The state of a client, and the error that stopped it.

    OPEN ──begin_end──► ENDING ──end──► ENDED
      │                   ▲
      └──fail──► FAILED ──┘        (a failure while it ends is recorded, and the end continues)

Each step is taken once, by the first thread that reaches it.
"""

from __future__ import annotations

import enum
import threading

from starburst_executor.errors import SessionExpired
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.records import Manifest, SessionState

__all__ = ["ENDED_WORDS", "ClientState", "Phase"]

ENDED_WORDS = "cannot schedule new futures after shutdown"


class Phase(enum.Enum):
    """A state of a client."""

    OPEN = "accepts submits"
    FAILED = "cannot continue"
    ENDING = "accepts no more submits"
    ENDED = "has released everything"


class ClientState:
    """The state of one client. Thread-safe.

    Attributes:
        ended: Set once the phase is ENDED.
        lock: Guards `phase` and `error`. A caller holds it while it depends on the phase; nothing waits under it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.phase = Phase.OPEN
        self.error: Exception | None = None
        self.ended = threading.Event()

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun, so that the client accepts no more submits."""
        return self.phase in (Phase.ENDING, Phase.ENDED)

    def begin_end(self) -> None:
        """Accept no more submits."""
        with self.lock:
            if self.phase != Phase.ENDED:
                self.phase = Phase.ENDING

    def fail(self, error: Exception) -> None:
        """Record that the client cannot continue. Later calls keep the first error."""
        with self.lock:
            self.error = self.error or error
            if self.phase == Phase.OPEN:
                self.phase = Phase.FAILED

    def end(self) -> None:
        """Record that the client has released everything."""
        with self.lock:
            self.phase = Phase.ENDED
        self.ended.set()

    def check_open(self, manifest: Manifest) -> None:
        """Raise the error that keeps this client, or its session, from accepting more work."""
        if self.is_ending:
            raise RuntimeError(ENDED_WORDS)
        if self.error is not None:
            raise self.error
        if manifest.state == SessionState.EXPIRED:
            raise SessionExpired(
                f"the session's absolute_timeout has passed: session={manifest.session_id}; its outcomes can be read, start a "
                "new session to submit more"
            )
        if (error := ended_by(manifest)) is not None:
            raise error
        if manifest.state != SessionState.OPEN:
            raise RuntimeError(f"{ENDED_WORDS}: session={manifest.session_id}, state={manifest.state.value}")
