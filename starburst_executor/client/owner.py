"""Records which process made a session, and decides whether that process is certainly gone.

A client that is suspended, stopped or idle may write nothing for weeks, and clocks jump. So the age of a session proves
nothing; only the end of its client's process does. This module judges only processes that this machine can see: a process
of another machine, user or container counts as alive.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from starburst_executor import config
from starburst_executor.launch.local.processes import started_at

__all__ = ["is_gone", "this_process"]

_N_FIELDS = 6


def this_process() -> str:
    """Describe this process: machine and boot, user, namespace of process ids, process id, start time."""
    return "/".join((config.machine_boot(), str(os.getuid()), _namespace(), str(os.getpid()), started_at(os.getpid())))


def is_gone(owner: str) -> bool:
    """Whether the process that `this_process` described has certainly ended. No two processes have the same description."""
    fields, own = owner.split("/"), this_process().split("/")
    if len(fields) != _N_FIELDS or not fields[4].isdecimal():
        return False
    machine, boot, user, namespace, pid, started = fields
    if [machine, user, namespace] != [own[0], own[2], own[3]]:
        return False
    if boot != own[1]:
        # The machine has been restarted since, which ended every process. Without a boot id this is unknown.
        return bool(boot and own[1])
    return started_at(int(pid)) != started


def _namespace() -> str:
    """Return the namespace of process ids: containers of one machine may share its name and boot, but not process ids."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - the target is not a path
    return sys.platform
