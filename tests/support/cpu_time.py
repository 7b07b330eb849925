"""Bounds on what a test costs that hold on a busy machine: CPU time, not the clock's."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["within_cpu_s"]

P = ParamSpec("P")
T = TypeVar("T")


def within_cpu_s(seconds: float) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator of functions that fail when one call takes its thread more CPU time than this."""

    def bounded(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            begun = time.thread_time()
            returned = function(*args, **kwargs)
            took_s = time.thread_time() - begun
            assert took_s <= seconds, f"took {took_s:.2f} s of CPU time, at most {seconds:g} s is allowed"
            return returned

        return run

    return bounded
