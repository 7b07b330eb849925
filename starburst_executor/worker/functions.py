"""The session's functions as a worker has them: read and checked once, handed to each runner once."""

from __future__ import annotations

from starburst_executor.store.session import SessionStore

__all__ = ["Functions"]


class Functions:
    """Pickles of the session's functions, read once each. Thread-safe."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._known: dict[str, bytes] = {}

    def get(self, digest: str) -> bytes:
        """Raises: PayloadError, RecordInvalid. Store: 1 GET the first time."""
        if digest not in self._known:
            self._known[digest] = self._session.function(digest)
        return self._known[digest]
