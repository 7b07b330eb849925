"""Kill the client half-way; another process then gets every result.

    python examples/survive.py

Three processes take part: one submits the census of `stdlib_census.py` to a `DetachedExecutor` and is killed with
SIGKILL, a second reattaches by the session's id, and this one starts both. The workers belong to none of them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import as_completed

from stdlib_census import WORKERS, Census, analyse, sources

from starburst_executor import DetachedExecutor


def submit() -> None:
    """The first process: start the session, print its id, and count the completed tasks until SIGKILL."""
    with DetachedExecutor(workers=WORKERS) as ex:
        futures = [ex.submit(analyse, path) for path in sources()]
        ex.flush()  # from here on every task is in the store
        print(ex.id, flush=True)
        for done, _ in enumerate(as_completed(futures), 1):
            print(done, flush=True)


def reattach(session_id: str) -> None:
    """The second process, which has only the session's id."""
    started = time.perf_counter()
    ex = DetachedExecutor.reattach(session_id)
    n_tasks = len(ex.futures)
    answers: dict[int, Census] = {}
    for future in ex.as_completed():
        assert future.index not in answers, "a future was returned twice"
        answers[future.index] = future.result()
        if len(answers) % 200 == 0 or len(answers) == n_tasks:
            print(
                f"  {time.perf_counter() - started:5.1f} s  {len(answers):>5,} of {n_tasks:,} futures, #{future.index} last"
            )
    total = sum(answers.values(), Census())
    assert total.files == len(sources()), "a task was lost"
    print(f"  {total.lines:,} lines, {total.functions:,} functions, {total.branches:,} branches")
    ex.cleanup(force=True)


def main() -> None:
    command = [sys.executable, __file__]
    half = len(sources()) // 2
    with subprocess.Popen([*command, "submit"], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        session_id = first.stdout.readline().strip()
        print(f"process {first.pid} submits {2 * half:,} tasks to session {session_id}")
        done = next(done for done in map(int, first.stdout) if done >= half)
        first.kill()
    print(f"process {first.pid} is killed with SIGKILL after it has seen {done:,} futures complete")
    print(f"another process reattaches with the id, {session_id}:")
    subprocess.run([*command, "reattach", session_id], check=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["submit"]:
        submit()
    elif sys.argv[1:2] == ["reattach"]:
        reattach(sys.argv[2])
    else:
        main()
