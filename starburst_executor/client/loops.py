"""Whether a thread runs an event loop, which must not be blocked, and whether a person looks on in a notebook."""

from __future__ import annotations

import sys
import threading

__all__ = ["in_event_loop", "in_notebook"]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def in_event_loop() -> bool:
    """Whether an event loop of asyncio runs in this thread, so that code in it must not wait.

    The cells of a notebook do not count: they run in the event loop of its kernel, which waits for each cell in any case.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not (in_notebook() and threading.current_thread() is threading.main_thread())
