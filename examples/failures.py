"""What goes wrong in a task stays in its future: an exception, a killed process, a time limit.

python examples/failures.py
"""

import os
import time

from starburst_executor import StarburstExecutor, TaskCrashed, TaskTimeout


def parse(text: str) -> int:
    return int(text)


with StarburstExecutor(workers=2, task_timeout=2) as ex:
    # A user's exception comes back as itself; the traceback of where it ran is its cause.
    error = ex.submit(parse, "seven").exception()
    print(f"exception: {type(error).__name__}: {error}")
    where = [line for line in str(error.__cause__).splitlines() if line.startswith("  File")][-1]
    print(f"           raised at {where.strip()}")

    # A task that takes its process down costs itself alone; ProcessPoolExecutor would be broken now.
    crash = ex.submit(os._exit, 1)
    assert isinstance(crash.exception(), TaskCrashed)
    print(f"crash:     {crash.exception()}")

    # A task over its time is stopped.
    endless = ex.submit(time.sleep, 3600)
    assert isinstance(endless.exception(), TaskTimeout)
    print(f"timeout:   {endless.exception()}")

    print("and still:", ex.submit(parse, "7").result())
