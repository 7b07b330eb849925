"""The digits of workers' ids on AWS: client and worker derive the same ones from what AWS calls the worker."""

from __future__ import annotations

__all__ = ["batch_digits", "digits_of"]

# The digits of an ECS task's id in a worker's id: 64 bits, as in all ids of this library.
_DIGITS = 16


def digits_of(task_id: str) -> str:
    """Return the digits of an ECS task's id for a worker's id. The id is opaque: in older accounts it has hyphens.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-account-settings.html#ecs-resource-ids
    """
    return "".join(filter(str.isalnum, task_id))[:_DIGITS]


def batch_digits(job_id: str, attempt: int) -> str:
    """Return the digits of a Batch job for a worker's id: eight of the job's id, the child's index, the attempt."""
    job, _, index = job_id.partition(":")
    return f"{job[:8]}{int(index or 0):04x}{attempt:02x}"
