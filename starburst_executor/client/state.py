"""Where a client is in its life, and what keeps it from going on.

    OPEN ──begin_end──► ENDING ──end──► ENDED
      │                   ▲
      └──fail──► FAILED ──┘        (one that fails while it ends goes on ending, and knows its error)

Each step is taken once, whichever thread comes first.
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
    """A step of a client's life."""

    OPEN = "takes submits"
    FAILED = "cannot go on"
    ENDING = "takes no more submits"
    ENDED = "has let go of everything"


class ClientState:
    """One client's life. Thread-safe.

    Attributes:
        ended: Set once the phase is ENDED.
        lock: Guards `phase` and `error`. Held by whoever must not be overtaken by a step; nothing waits under it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.phase = Phase.OPEN
        self.error: Exception | None = None
        self.ended = threading.Event()

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun: nothing is submitted any more."""
        return self.phase in (Phase.ENDING, Phase.ENDED)

    def begin_end(self) -> None:
        """Take no more submits."""
        with self.lock:
            if self.phase != Phase.ENDED:
                self.phase = Phase.ENDING

    def fail(self, error: Exception) -> None:
        """It cannot go on. The first error is the one that is told from then on."""
        with self.lock:
            self.error = self.error or error
            if self.phase == Phase.OPEN:
                self.phase = Phase.FAILED

    def end(self) -> None:
        """Everything has been let go of."""
        with self.lock:
            self.phase = Phase.ENDED
        self.ended.set()

    def check_open(self, manifest: Manifest) -> None:
        """Raises what keeps this client, or its session, from taking more work."""
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
