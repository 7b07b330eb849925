"""What the system tells of a process that need not be a child of ours: when it was started, whether it is a worker."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from starburst_executor import config

__all__ = ["has_ended", "identity", "is_worker", "started_at"]


def identity() -> str:
    """This process, so that another one of the same machine can look it up: machine and boot, process id, start time."""
    pid = os.getpid()
    return f"{config.machine_boot()} {pid} {started_at(pid)}"


def has_ended(process: str) -> bool | None:
    """Whether the process with this `identity` has certainly ended; None if this machine cannot tell.

    Who can write the store can write any identity. So it decides about a worker's life alone: nothing is signalled by it.
    """
    machine, _, rest = process.partition(" ")
    pid, _, started = rest.partition(" ")
    if not started or not re.fullmatch(r"[0-9]{1,10}", pid) or machine != config.machine_boot():
        return None
    return started_at(int(pid)) != started


def started_at(pid: int) -> str:
    """When a process was started, in its system's own words; empty if there is none. Tells a reused pid apart."""
    try:
        # The name in field 2 may hold blanks and brackets: what follows the last one is regular. 3 is the state.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    found = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def is_worker(pid: int) -> bool:
    """Whether this process is a worker: a handle must not make us kill any other."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        if Path("/proc/self/cmdline").exists():
            return False
        command = subprocess.run(["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, check=False).stdout
    return b"starburst_executor.worker" in command
