"""A program as others have it: it gets options, prints its progress and writes a file. It knows nothing of studies.

python heat.py --conductivity 0.2 --cells 50
"""

import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--conductivity", type=float, required=True)
parser.add_argument("--cells", type=int, default=50)
parser.add_argument("--steps", type=int, default=400)
options = parser.parse_args()
if not 0 < options.conductivity <= 0.5:
    raise SystemExit("the conductivity must be above 0 and at most 0.5, or the solution is not stable")

rod = [0.0] * options.cells
rod[0] = 100.0
for step in range(options.steps):
    inner = [
        here + options.conductivity * (left - 2 * here + right)
        for left, here, right in zip(rod, rod[1:], rod[2:], strict=False)
    ]
    rod = [100.0, *inner, rod[-2]]
    if step % 100 == 0:
        print(f"step {step}: middle {rod[options.cells // 2]:.3f}")
print(f"end: middle {rod[options.cells // 2]:.3f}")
with Path("result.json").open("w", encoding="utf-8") as file:
    json.dump({"end": rod[-1], "mean": sum(rod) / len(rod)}, file)
