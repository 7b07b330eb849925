"""The tasks that every library runs. They return their argument, so that a lost or doubled task is noticed."""

from __future__ import annotations

import time

__all__ = ["TASKS", "no_op", "sleep_1_ms"]


def no_op(i: int) -> int:
    return i


def sleep_1_ms(i: int) -> int:
    # Sleeps instead of computing: eight workers on two cores show the cost of the library, not of the machine.
    time.sleep(0.001)
    return i


TASKS = {"no-op": no_op, "1 ms": sleep_1_ms}
