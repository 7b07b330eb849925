"""What this repository promises to stay fast: a trial measures one size, and returns the seconds that it took."""

import random

COST = 1.0  # of one unit of work; a change that makes it 1.03 is the regression that the check has to find


def measure(trial):
    # In a real repository: time.perf_counter() around the call. Here the noise of a machine, half a percent, is drawn, so that this
    # example behaves the same on a busy one.
    noise = random.SystemRandom().gauss(0, 0.005)
    seconds = COST * trial.params["size"] / 1000 * (1 + noise)
    return {"seconds": seconds}
