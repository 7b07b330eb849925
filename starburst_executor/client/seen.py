"""What one client has read of the outcomes of tasks: how many ended and failed. A session that ends after too many failures ends at once
when its client has read them, instead of after a look at the workers' beats.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from starburst_executor.client.completing import FoundBlock
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.session.failures import Seen
from starburst_executor.session.store import SessionStore

__all__ = ["SeenOutcomes"]


class SeenOutcomes:
    """Counts the outcomes that a client's collector reads. Thread-safe.

    Args:
        n_waiting: Returns the number of tasks that the client waits for.
        wake: Called after failures of a session with a limit.
    """

    def __init__(self, session: SessionStore, n_waiting: Callable[[], int], wake: Callable[[], None]) -> None:
        self._session = session
        self._n_waiting = n_waiting
        self._wake = wake
        self._lock = threading.Lock()  # guards: _n_ended, _n_failed
        self._n_ended = 0
        self._n_failed = 0

    def ended(self, _: StatusRef, found: Sequence[FoundBlock]) -> None:
        """Take account of outcomes that were found. No store request."""
        if not self._session.manifest.current.max_failures:
            return
        positions = [frozenset(of_block.positions()) for of_block in found]
        n_failed = sum(
            of_block.block.first + i in waited
            for of_block, waited in zip(found, positions, strict=True)
            for i in of_block.block.failed
        )
        with self._lock:
            self._n_ended += sum(map(len, positions))
            self._n_failed += n_failed
        if n_failed:
            self._wake()

    def seen(self) -> Seen:
        """Return how many tasks this client has seen, and how many of them have ended and failed."""
        with self._lock:
            return Seen(self._n_ended + self._n_waiting(), self._n_ended, self._n_failed)
