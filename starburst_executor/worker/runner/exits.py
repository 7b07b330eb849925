"""What the end of a runner means, in words for the user."""

from __future__ import annotations

import signal

from starburst_executor.worker.runner import process as child

__all__ = ["DEAF_WORDS", "OVERWRITTEN_WORDS", "SIGTERM_WORDS", "exit_words"]

DEAF_WORDS = "the task closed file descriptors that were not its own, the connection to its worker among them"
OVERWRITTEN_WORDS = (
    "it or an earlier task of its process wrote over memory that was not its own, where its worker looks for outcomes"
)
SIGTERM_WORDS = "killed by SIGTERM"
_SIGNAL_WORDS = {
    signal.SIGKILL: "killed by SIGKILL, possibly out of memory",
    signal.SIGSEGV: "segmentation fault (SIGSEGV)",
    signal.SIGBUS: "bus error (SIGBUS)",
    signal.SIGABRT: "aborted (SIGABRT)",
    signal.SIGILL: "illegal instruction (SIGILL)",
    signal.SIGFPE: "arithmetic error (SIGFPE)",
}


def exit_words(code: int, killed_why: str | None) -> str:
    """Return the meaning of an exit code as text for the user."""
    if code == child.EXIT_DEAF:
        return DEAF_WORDS
    if code >= 0:
        return f"exited with status {code}"
    if code == -signal.SIGKILL and killed_why is not None:
        return killed_why
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"killed by signal {-code}"
    return _SIGNAL_WORDS.get(number, f"killed by {number.name}")
