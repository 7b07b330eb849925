"""What this machine has for tasks: processors, memory, NVIDIA GPUs, as far as this process may use them."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from starburst_executor import config

__all__ = ["Machine", "this_machine"]

_LIST_S = 10.0
# The memory limit of a container, in two versions of Linux. "max", or a number above the machine's memory, is no limit.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Machine(NamedTuple):
    """Processors, bytes of memory, and the GPUs by the ids that `CUDA_VISIBLE_DEVICES` takes."""

    cpus: int
    memory_bytes: int
    gpus: tuple[str, ...]


def this_machine() -> Machine:
    """Look for what this process may use. Runs `nvidia-smi` if there is a driver of NVIDIA."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpus, _memory_bytes(), _gpus())


def _memory_bytes() -> int:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _LIMITS:
        with suppress(OSError, ValueError):
            return min(memory, int(Path(path).read_text(encoding="ascii")))
    return memory


def _gpus() -> tuple[str, ...]:
    visible = config.visible_gpus()
    if visible is not None:
        return visible
    if not Path("/proc/driver/nvidia/gpus").is_dir():
        return ()
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=_LIST_S, check=True).stdout
        return tuple(line.strip() for line in listed.splitlines() if line.strip().isdecimal())
    return tuple(str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir()))
