"""The signal by which a client on this machine has a worker look at the manifest before its next beat."""

from __future__ import annotations

__all__ = ["Nudge"]


class Nudge:
    """Whether a client has sent the signal. The finder, which wakes every `commit_s` at the latest, asks for it."""

    def __init__(self) -> None:
        self._is_set = False

    def on_signal(self, *_: object) -> None:
        """Signal handler. Only sets a flag, since it must not take a lock."""
        self._is_set = True

    def take(self) -> bool:
        """Return whether there was a signal since the last call."""
        was_set, self._is_set = self._is_set, False
        return was_set
