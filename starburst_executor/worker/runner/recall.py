"""Takes back jobs that a runner has tokens of and has not started. The runner may hang: it is not asked.

    agent:   writes "recalled up to n" ─► waits ─► reads which job started last ─► rules: the runner keeps the jobs up to that one
    runner:  writes which job starts ─► reads what is recalled ─► is it recalled? then it waits for the ruling

Guarantee: of the agent, which takes a job back, and the runner, which starts it, exactly one does so. Each writes first and reads then, so at
least one of them sees what the other has written. If the runner sees it, the ruling counts, whatever the agent saw. If it does not, its own write
was made before the agent's wait, and the agent sees the job as started.

Assumes: what a processor has written is seen by the others within the wait. They see it after nanoseconds; neither side can
do better, because Python has no fences.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from starburst_executor.clock import SystemClock
from starburst_executor.worker.runner.ledger import Ledger
from starburst_executor.worker.runner.tokens import Tokens

__all__ = ["recall"]

_SEEN_S = 1e-3
_CLOCK = SystemClock()


def recall(held: Sequence[int], ended: int, ledger: Ledger, tokens: Tokens) -> list[int]:
    """Take back the jobs that have not started, and return them; they will never start. Takes a millisecond.

    Args:
        held: The jobs whose tokens the runner has read and that have no outcome yet, in order: the first is the one that runs or runs next.
        ended: The last job that has an outcome; 0 if there is none.
    """
    ledger.recall(held[-1])
    _CLOCK.wait(threading.Event(), _SEEN_S)
    started, _ = ledger.started()
    # User code can write to this memory: what makes no sense is taken for "all of them have started".
    last = started if ended <= started <= held[-1] else held[-1]
    tokens.rule(last)
    return [number for number in held if number > last]
