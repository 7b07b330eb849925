"""Prints what happens in a study: a line for each event on standard error; progress in place on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from starburst_executor.study.events import Event, Tell

__all__ = ["Teller"]

_PROGRESS_S = 10.0  # between two lines of progress where there is no terminal


class Teller:
    """Tells people, or a function, what happens. Use it in a `with` block: its value is the function to call with each event.

    Args:
        progress: A function to call instead; False for nothing; otherwise lines on standard error.
    """

    def __init__(self, progress: bool | Tell | None) -> None:
        self._progress = progress
        self._in_place = 0
        self._said_at: float | None = None

    def __enter__(self) -> Tell:
        if callable(self._progress):
            return self._progress
        return self._silent if self._progress is False else self._print

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._in_place:
            sys.stderr.write("\n")

    def _silent(self, event: Event) -> None:
        """Say nothing."""

    def _print(self, event: Event) -> None:
        if event.kind == "progress":
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{event.text:<{self._in_place}}")
                self._in_place = len(event.text)
                sys.stderr.flush()
            elif self._said_at is None:
                self._said_at = event.at
            elif event.at - self._said_at >= _PROGRESS_S:
                self._said_at = event.at
                sys.stderr.write(f"{event.text}\n")
            return
        start = "\r" + " " * self._in_place + "\r" if self._in_place else ""
        self._in_place = 0
        sys.stderr.write(f"{start}{event.text}\n")
