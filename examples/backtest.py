"""Backtest a trading rule over many settings; a setting that makes no sense fails alone, and the others are ranked.

python examples/backtest.py
"""

import random
from collections.abc import Sequence
from concurrent.futures import as_completed
from itertools import accumulate, product
from statistics import fmean

from starburst_executor import StarburstExecutor

DAYS = 1_000
FAST, SLOW = (5, 10, 20), (10, 50, 100)


def prices(seed: int) -> list[float]:
    """Return invented prices: a random walk that drifts upwards."""
    draw = random.Random(seed)
    return list(
        accumulate(
            (draw.gauss(0.0004, 0.01) for _ in range(DAYS)), lambda price, change: price * (1 + change), initial=100.0
        )
    )


def gain(series: Sequence[float], fast: int, slow: int) -> float:
    """Return what one unit becomes if it is invested whenever the fast average is above the slow one."""
    if fast >= slow:
        raise ValueError(f"fast={fast} must be less than slow={slow}")
    money = 1.0
    for day in range(slow, len(series) - 1):
        if fmean(series[day - fast : day]) > fmean(series[day - slow : day]):
            money *= series[day + 1] / series[day]
    return money


series = prices(7)
with StarburstExecutor(workers=2) as ex:
    futures = {ex.submit(gain, series, fast, slow): (fast, slow) for fast, slow in product(FAST, SLOW)}
    gains = {}
    for future in as_completed(futures):
        if error := future.exception():
            print("left out:", error)
        else:
            gains[futures[future]] = future.result()

for setting in sorted(gains, key=gains.__getitem__, reverse=True)[:3]:
    print("fast {:>2}, slow {:>3}: ".format(*setting) + f"{gains[setting]:.2f}")
print(len(gains), "settings of", len(futures))
