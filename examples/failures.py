"""A failure of a task is only in its future: an exception, a killed process, a time limit.

python examples/failures.py
"""

import os
import time

from starburst_executor import StarburstExecutor, TaskCrashed, TaskTimeout


def parse(text: str) -> int:
    return int(text)


with StarburstExecutor(workers=2, task_timeout=2) as ex:
    # The future raises the task's own exception; its cause is the traceback in the worker.
    error = ex.submit(parse, "seven").exception()
    print(f"exception: {type(error).__name__}: {error}")
    where = [line for line in str(error.__cause__).splitlines() if line.startswith("  File")][-1]
    print(f"           raised at {where.strip()}")

    # A task that kills its process fails alone; ProcessPoolExecutor would be broken now.
    crash = ex.submit(os._exit, 1)
    assert isinstance(crash.exception(), TaskCrashed)
    print(f"crash:     {crash.exception()}")

    # A task that exceeds its time limit is stopped.
    endless = ex.submit(time.sleep, 3600)
    assert isinstance(endless.exception(), TaskTimeout)
    print(f"timeout:   {endless.exception()}")

    print("and still:", ex.submit(parse, "7").result())
