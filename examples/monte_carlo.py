"""Estimate pi by throwing darts: equal tasks, each with its own random stream, whose results are used as they complete.

python examples/monte_carlo.py
"""

import math
import random
from concurrent.futures import as_completed

from starburst_executor import StarburstExecutor

TASKS = 40
DARTS = 100_000


def hits(seed: int, darts: int) -> int:
    """Return how many of `darts` hit the quarter circle; the same seed gives the same answer on any worker."""
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(darts))


with StarburstExecutor(workers=2) as ex:
    futures = [ex.submit(hits, seed, DARTS) for seed in range(TASKS)]
    total = 0
    for done, future in enumerate(as_completed(futures), 1):
        total += future.result()
        if done % 10 == 0:
            estimate = 4 * total / (done * DARTS)
            print(f"{done * DARTS:>9,} darts: pi = {estimate:.4f}, off by {abs(estimate - math.pi):.4f}")
