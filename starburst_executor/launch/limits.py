"""The limits of what launchers start."""

from __future__ import annotations

__all__ = ["MOST_ARRAY_JOBS", "MOST_SLOTS"]

# Of one array job of AWS Batch. Source: https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html
MOST_ARRAY_JOBS = 10_000
# The slots of one agent, each with a process: more than one machine runs well.
MOST_SLOTS = 1024
