"""A study for tests with real processes: five stages of 30, 25, 20, 15 and 10 trials, with 10, 8, 5, 3 and 1 survivors."""

TRIALS, SURVIVORS = (30, 25, 20, 15, 10), (10, 8, 5, 3, 1)
