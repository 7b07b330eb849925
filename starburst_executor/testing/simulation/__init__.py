"""A deterministic simulation of clients, workers and their failures, in one thread and virtual time.

    report = simulate(seed)             the real executors, agents and repair over a simulated store
    report.violations                   promises that were broken; empty
    print(report.story())               what happened, request by request

Needs the package `greenlet`, which is part of the extra `test`.
"""

from starburst_executor.testing.simulation.simulation import simulate
from starburst_executor.testing.simulation.world import Report

__all__ = ["Report", "simulate"]
