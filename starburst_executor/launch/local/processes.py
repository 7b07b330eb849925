"""What the system tells of a process that need not be a child of ours: when it was started, whether it is a worker."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["is_worker", "started_at"]


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
