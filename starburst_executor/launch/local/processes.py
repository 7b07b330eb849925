"""Looks up any process of this machine, child or not: when it was started, whether it is a worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from starburst_executor import config

__all__ = ["has_ended", "identity", "is_worker", "nudge", "started_at"]


def identity() -> str:
    """Return the identity of this process, by which others on this machine can look it up: machine and boot, pid, start time."""
    pid = os.getpid()
    return f"{config.machine_boot()} {pid} {started_at(pid)}"


def has_ended(process: str) -> bool | None:
    """Whether the process with this `identity` has certainly ended; None if this machine cannot tell.

    Anyone who can write to the store can write an identity. So it only decides whether a worker counts as alive; the only process
    that is signalled because of it is a worker, by a signal that makes it read an object (`nudge`).
    """
    found = _found(process)
    return None if found is None else started_at(found[0]) != found[1]


def nudge(process: str) -> None:
    """Have the worker with this `identity` look at the manifest, if it runs on this machine. No other process is signalled."""
    found = _found(process)
    if found is None:
        return
    pid, started = found
    with suppress(OSError):
        # By a descriptor where there are any: the pid cannot become another process's between the check and the signal.
        fd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
        try:
            if started_at(pid) != started or not is_worker(pid):
                return
            if fd >= 0:
                signal.pidfd_send_signal(fd, signal.SIGUSR1)
            else:
                os.kill(pid, signal.SIGUSR1)
        finally:
            if fd >= 0:
                os.close(fd)


def _found(process: str) -> tuple[int, str] | None:
    """Return pid and start time of an `identity` of this machine."""
    machine, _, rest = process.partition(" ")
    pid, _, started = rest.partition(" ")
    if not started or not re.fullmatch(r"[0-9]{1,10}", pid) or machine != config.machine_boot():
        return None
    return int(pid), started


def started_at(pid: int) -> str:
    """Return a process's start time in the system's format, empty if it does not exist. Distinguishes reused pids."""
    try:
        # The name in field 2 may contain blanks and parentheses; the fields after the last ")" are regular. 3 is the state.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    listed = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()


def is_worker(pid: int) -> bool:
    """Whether this process is a worker: a forged handle must not make this client kill any other process."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        if Path("/proc/self/cmdline").exists():
            return False
        command = subprocess.run(["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, check=False).stdout
    return b"starburst_executor.worker" in command
