"""`python -m starburst_executor.testing.simulation FIRST [COUNT | --seconds S]`: run seeds and report on them.

Prints one line of JSON at the end, and before it the story of each seed that broke a promise; `--story` prints the story
of a single seed in any case. Exit status 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator

from starburst_executor.clock import SystemClock
from starburst_executor.testing.simulation.simulation import simulate
from starburst_executor.testing.simulation.world import Report

_MOST_STORIES = 3


class _Sum:
    """The totals of several seeds."""

    def __init__(self) -> None:
        self.n_seeds = 0
        self.n_steps = 0
        self.n_requests = 0
        self.seconds = 0.0
        self.troubles: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.broken: list[int] = []

    def add(self, report: Report) -> None:
        self.n_seeds += 1
        self.n_steps += report.n_steps
        self.n_requests += report.n_requests
        self.seconds += report.seconds
        self.troubles += report.troubles
        self.counts += report.counts
        if report.violations:
            self.broken.append(report.seed)


def main(arguments: list[str] | None = None) -> int:
    """Run seeds and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m starburst_executor.testing.simulation", description=__doc__)
    parser.add_argument("first", type=int, help="the first seed")
    parser.add_argument("count", type=int, nargs="?", default=1, help="how many seeds")
    parser.add_argument("--seconds", type=float, help="run as many seeds as fit in this time")
    parser.add_argument("--story", action="store_true", help="print what happened, request by request")
    options = parser.parse_args(arguments)
    # The product's warnings are expected here.
    logging.disable(logging.CRITICAL)
    total = _Sum()
    for seed in _seeds(options):
        report = simulate(seed)
        total.add(report)
        if options.story or (report.violations and len(total.broken) <= _MOST_STORIES):
            sys.stdout.write(f"{report.story()}\ndigest {report.digest}\n")
    sys.stdout.write(json.dumps(vars(total)) + "\n")
    return 1 if total.broken else 0


def _seeds(options: argparse.Namespace) -> Iterator[int]:
    if options.seconds is None:
        yield from range(options.first, options.first + options.count)
        return
    clock = SystemClock()
    until = clock.monotonic() + options.seconds
    for seed in itertools.count(options.first):
        if clock.monotonic() >= until:
            return
        yield seed


if __name__ == "__main__":
    sys.exit(main())
