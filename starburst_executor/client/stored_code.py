"""Names code that is stored already: that of the task in which a client runs."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["StoredCode"]


class StoredCode:
    """The code of functions that a task submits: its workers have got it for the task itself.

    Args:
        name: Returns the name of that code now; empty if none is needed.
    """

    def __init__(self, name: Callable[[], str]) -> None:
        self.name = name

    def store_waiting(self, _: Callable[[], BaseException | None] = lambda: None) -> None:
        """Do nothing: it is stored."""
