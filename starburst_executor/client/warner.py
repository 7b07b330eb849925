"""Logs warnings about a session's workers, each message once: the conditions behind them last for many turns."""

from __future__ import annotations

import logging

__all__ = ["Warner"]

_log = logging.getLogger(__name__)

# The number of messages that are remembered. Some contain the id of a request, and so never repeat.
_KEPT = 100


class Warner:
    """Warns once for each message. Not thread-safe."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._warned: set[str] = set()

    def warn(self, words: str) -> None:
        """Log a warning, unless it was logged before."""
        if words in self._warned:
            return
        if len(self._warned) >= _KEPT:
            self._warned.clear()
        self._warned.add(words)
        _log.warning("%s: session=%s", words, self._session_id)
