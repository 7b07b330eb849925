"""A confidence interval by bootstrap: resamples with a seed each, so that every run and every worker gives the same interval.

python examples/bootstrap.py
"""

import random
from statistics import fmean

from starburst_executor import StarburstExecutor

RESAMPLES = 2_000
EACH = 100
SAMPLE = [random.Random(seed).lognormvariate(0, 0.5) for seed in range(200)]


def resampled_means(seed: int) -> list[float]:
    """Return the means of EACH resamples. With a string as the seed, neighbouring tasks draw unrelated numbers."""
    draw = random.Random(f"bootstrap {seed}")
    return [fmean(draw.choices(SAMPLE, k=len(SAMPLE))) for _ in range(EACH)]


with StarburstExecutor(workers=2) as ex:
    means = sorted(mean for part in ex.map(resampled_means, range(RESAMPLES // EACH)) for mean in part)

low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]
print(f"mean {fmean(SAMPLE):.3f}, 95 % of {RESAMPLES:,} resampled means between {low:.3f} and {high:.3f}")
