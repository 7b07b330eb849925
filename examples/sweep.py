"""Sweep two parameters of a model, and print the table of results with the best setting.

python examples/sweep.py
"""

from itertools import product

from starburst_executor import StarburstExecutor

GROWTH = (2.6, 3.2, 3.5, 3.9)
START = (0.1, 0.3, 0.5)


def spread(growth: float, start: float, steps: int = 20_000) -> float:
    """Return how widely the logistic map swings once it has settled."""
    x, low, high = start, 1.0, 0.0
    for step in range(steps):
        x = growth * x * (1 - x)
        if step > steps // 2:
            low, high = min(low, x), max(high, x)
    return high - low


settings = list(product(GROWTH, START))
with StarburstExecutor(workers=2) as ex:
    spreads = dict(zip(settings, ex.map(spread, *zip(*settings, strict=True)), strict=True))

print("growth " + "".join(f"{start:>8}" for start in START))
for growth in GROWTH:
    print(f"{growth:<7}" + "".join(f"{spreads[growth, start]:>8.3f}" for start in START))
widest = max(settings, key=spreads.__getitem__)
print("widest at growth", widest[0])
