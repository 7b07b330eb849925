"""The tasks that every library is given. They return their argument, so that a lost or doubled one is noticed."""

from __future__ import annotations

import time

__all__ = ["TASKS", "no_op", "sleep_1_ms"]


def no_op(i: int) -> int:
    return i


def sleep_1_ms(i: int) -> int:
    # Sleeps rather than computes: eight workers on two cores are to show what the library costs, not the machine.
    time.sleep(0.001)
    return i


TASKS = {"no-op": no_op, "1 ms": sleep_1_ms}
