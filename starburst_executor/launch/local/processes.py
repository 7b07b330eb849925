"""Looks up any process of this machine, child or not: when it was started, whether it is a worker."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from starburst_executor import config

__all__ = ["has_ended", "identity", "is_worker", "started_at"]


def identity() -> str:
    """Return the identity of this process, by which others on this machine can look it up: machine and boot, pid, start time."""
    pid = os.getpid()
    return f"{config.machine_boot()} {pid} {started_at(pid)}"


def has_ended(process: str) -> bool | None:
    """Whether the process with this `identity` has certainly ended; None if this machine cannot tell.

    Anyone who can write to the store can write an identity. So it only decides whether a worker counts as alive; no process
    is signalled because of it.
    """
    machine, _, rest = process.partition(" ")
    pid, _, started = rest.partition(" ")
    if not started or not re.fullmatch(r"[0-9]{1,10}", pid) or machine != config.machine_boot():
        return None
    return started_at(int(pid)) != started


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
