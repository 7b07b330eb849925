"""Families of processes: all that belong to one session of the system, in whatever process groups they are.

A runner and what its tasks start are a family, whose number is the runner's pid. Shells with job control, `timeout` and others put their children into
groups of their own, so the group alone is too little. A process that calls `setsid` has left its family on purpose.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection, Container
from contextlib import suppress

__all__ = ["groups_of", "kill_family"]

_MORE_PIDS = 256  # begun between the question how many there are and the answer which


def groups_of(session: int) -> set[int]:
    """Return the process groups of a session; empty where the system does not list processes."""
    return set(_members(session).values())


def kill_family(session: int, *, spare: Container[int] = (), ended: Collection[int] = ()) -> None:
    """Kill all processes of a session, also those that it starts meanwhile.

    Assumes: a session's number is not given to another process while the session has members, or its leader is not reaped.

    Args:
        spare: Process groups that live on.
        ended: Pids that are not reaped, and need not be killed: without others, this looks once.
    """
    killed = set(ended)
    # Linux: a process that has been sent SIGKILL cannot fork any more. So the loop ends.
    while found := [pid for pid, group in _members(session).items() if group not in spare and pid not in killed]:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)


def _members(session: int) -> dict[int, int]:
    """Return the process group of each process of a session, by pid; with those that have ended and are not reaped."""
    members: dict[int, int] = {}
    for pid in _pids():
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if os.getsid(pid) == session:
                members[pid] = os.getpgid(pid)
    return members


def _pids() -> list[int]:
    if sys.platform == "darwin":
        # <libproc.h>: int proc_listallpids(void *buffer, int buffersize); the number of pids.
        library = ctypes.CDLL(None)
        room = (ctypes.c_int * (library.proc_listallpids(None, 0) + _MORE_PIDS))()
        return list(room[: max(0, library.proc_listallpids(room, ctypes.sizeof(room)))])
    with suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - a Path for each costs more than the listing
    return []
