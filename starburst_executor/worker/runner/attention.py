"""Decides after which tasks a runner asks the system what they have left: text, another working directory, closed streams, a forked child.

The questions cost some two microseconds, more than a small task. So they are asked after each task of a function, until several have
left nothing; from then on after a task that took long or that has used a stream, changed its directory or forked, and once a millisecond.

What Python code does in these ways is noticed as it happens, so it belongs to its own task. C code that does so in a task of microseconds may
be noticed after a later task, within a millisecond; its function is then looked at after each task, as long as the runner lives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["LOOK_S", "QUICK_S", "Attention"]

# A shorter task is quick. A process with an interpreter in it takes longer to fork, so one that C code forks is noticed at once, too.
QUICK_S = 50e-6
# The system is asked at least this often while tasks run.
LOOK_S = 1e-3
# How many tasks of a function must have left nothing before it is trusted.
_ENOUGH = 8


class Attention:
    """What a runner knows of its tasks' habits.

    Attributes:
        is_calm: Whether a quick task, the one that runs or the next one, need not be looked at.
    """

    def __init__(self) -> None:
        self.is_calm = False
        self._n_calm = 0
        self._is_disturbed = False
        self._digest = ""
        self._restless: set[str] = set()  # functions that have left something unnoticed

    def install(self) -> None:
        """Notice changes of the working directory."""
        for name in ("chdir", "fchdir"):
            change = getattr(os, name)
            noticed = self._noticed(change)
            for functions in (
                os.supports_fd,
                os.supports_follow_symlinks,
                os.supports_dir_fd,
                os.supports_effective_ids,
            ):
                if change in functions:
                    functions.add(noticed)
            # A pickle names the module that `os` has it from.
            for module in (os, sys.modules[change.__module__]):
                setattr(module, name, noticed)

    def function(self, digest: str) -> None:
        """Take note that tasks of this function follow."""
        if digest != self._digest:
            self._digest = digest
            self._n_calm, self.is_calm = 0, False

    def disturb(self) -> None:
        """Take note that something is used that tasks have in common. Any thread may call this."""
        self._is_disturbed = True
        self.is_calm = False

    def looked(self, *, has_found: bool) -> None:
        """Take note of what the system has answered after a task."""
        was_noticed, self._is_disturbed = self._is_disturbed, False
        if has_found and not was_noticed:
            self._restless.add(self._digest)
        self._n_calm = 0 if has_found or was_noticed else self._n_calm + 1
        self.is_calm = self._n_calm >= _ENOUGH and self._digest not in self._restless

    def _noticed(self, change: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(change)
        def noticed(*args: Any, **kwargs: Any) -> Any:
            self.disturb()
            return change(*args, **kwargs)

        return noticed
