"""SIGTERM and SIGHUP, as of a machine that shuts down or a terminal that closes: a command that watches leaves its session as after ^C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Terminated", "terminations_raised"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_EXIT_BASE = 128  # of the exit status, as shells show a program that a signal ended


class Terminated(KeyboardInterrupt):
    """The command is to end at once, without a question.

    Attributes:
        exit_code: The exit status, as if the signal had ended the process.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = _EXIT_BASE + number


@contextmanager
def terminations_raised() -> Iterator[None]:
    """Raise `Terminated` at these signals during the block; those that are ignored, as after `nohup`, stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    raise Terminated(number)
