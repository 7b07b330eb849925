"""SIGTERM and SIGHUP, as of a machine that shuts down or a terminal that closes: a command that watches leaves its session as after ^C.

A signal is noted, and the command looks for it where it can stop. An exception that was raised wherever the signal arrives, such as within a lock, could
leave the lock held, and the command would wait for it for ever.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "check_terminated", "terminations_noted"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_EXIT_BASE = 128  # of the exit status, as shells show a program that a signal ended

_noted: list[int] = []  # signals of this process


class Terminated(KeyboardInterrupt):
    """The command is to end at once, without a question.

    Attributes:
        exit_code: The exit status, as if the signal had ended the process.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = _EXIT_BASE + number


@contextmanager
def terminations_noted() -> Iterator[None]:
    """Note these signals during the block, for `check_terminated`. A second one ends the process; those that are ignored, as after `nohup`, stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _note)
    try:
        yield
    finally:
        _noted.clear()
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def check_terminated() -> None:
    """Raise `Terminated` if a signal was noted."""
    if _noted:
        raise Terminated(_noted[0])


def _note(number: int, _: FrameType | None) -> None:
    _noted.append(number)
    for each in _SIGNALS:
        if signal.getsignal(each) is _note:
            signal.signal(each, signal.SIG_DFL)
