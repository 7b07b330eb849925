"""The two kinds of processes: those of users, and workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starburst_executor.testing.simulation.scheduler import Process

__all__ = ["ClientProcess", "WorkerProcess"]


class ClientProcess(Process):
    """A process of a user.

    Attributes:
        executor: Its executor while it is attached; otherwise None.
    """

    executor: Any = None


class WorkerProcess(Process):
    """A process that runs an agent.

    Attributes:
        agent: Its agent, once it was made.
        held: The claims that its agent holds or writes, with their keys.
        is_idle: Whether it can accept work.
        goes_on: Whether its agent continues, that is, has no reason to stop.
        is_drained: Whether it was sent SIGTERM by its launcher.
        sigterm: The handler of SIGTERM.
        poisoned_by: The task that killed it.
    """

    worker_id: str = ""
    n_slots: int = 1
    is_drained: bool = False
    agent: Any = None
    poisoned_by: str | None = None
    held: Callable[[], dict[str, str]] = staticmethod(dict)
    is_idle: Callable[[], bool] = staticmethod(lambda: False)
    goes_on: Callable[[], bool] = staticmethod(lambda: False)
    sigterm: Callable[[], None] = staticmethod(lambda: None)
