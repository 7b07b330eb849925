"""Which process made a session, and whether it is surely gone.

A client that is suspended, stopped or has nothing to submit writes nothing for weeks, and clocks jump. So that a session is
old proves nothing; that its client's process is gone does. Only what this machine can see itself is judged here: a process
of another machine, user or container may live whatever is seen of it.
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
    """This process: machine and boot, user, namespace of process ids, process id, time of its start."""
    return "/".join((config.machine_boot(), str(os.getuid()), _namespace(), str(os.getpid()), started_at(os.getpid())))


def is_gone(owner: str) -> bool:
    """Whether the process that `this_process` told has ended for certain. A second process never has the same words."""
    fields, here = owner.split("/"), this_process().split("/")
    if len(fields) != _N_FIELDS or not fields[4].isdecimal():
        return False
    machine, boot, user, namespace, pid, started = fields
    if [machine, user, namespace] != [here[0], here[2], here[3]]:
        return False
    if boot != here[1]:
        # The machine has been started again since, and with it every process. Without a boot id nothing is known.
        return bool(boot and here[1])
    return started_at(int(pid)) != started


def _namespace() -> str:
    """Containers of one machine may share its name and its boot; a process id means something within one of these only."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is no path
    return sys.platform
