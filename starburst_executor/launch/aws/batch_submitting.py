"""Submits one array job for each launch: its children are the workers; for one worker a plain job.

Batch has no token that makes a submission safe to repeat. So the job is named after the launch, and each step looks for
a job with that name before it submits one. Guarantee: after a lost answer the job is found, not submitted twice.

Source: https://docs.aws.amazon.com/batch/latest/userguide/array_jobs.html, job_retries.html
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Passing, is_throttled, is_unclear, meaning
from starburst_executor.errors import LaunchError
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.batch_definitions import JobDefinition
from starburst_executor.launch.aws.batch_handle import BatchHandle
from starburst_executor.launch.aws.batch_queue import JobQueues
from starburst_executor.launch.aws.options import own_share
from starburst_executor.launch.aws.remote import Account, with_advice
from starburst_executor.launch.aws.successor import retry_strategy
from starburst_executor.launch.base import Order, Started
from starburst_executor.store.url import split_url

__all__ = ["Submitting"]

_PAUSE_S = 5.0


class Submitting:
    """Takes the two steps of launches: a plan, which makes no request, then the job. Called by one thread at a time."""

    def __init__(self, account: Account, options: Batch, queues: JobQueues) -> None:
        self._account = account
        self._options = options
        self._queues = queues
        self._definition = JobDefinition(account, options)

    def plan(self, order: Order) -> Started:
        """Return the plan, which is in the manifest before any request creates a resource."""
        n_each = self._options.slots_each
        n_jobs = -(-order.n_slots // n_each)
        session_id = split_url(order.url)[1]
        plan = BatchHandle(session_id, order.launch_id, min(order.n_slots, n_each), n_jobs, order.detached)
        return Started(plan.dump(), 0, more_s=0.0)

    def step(self, order: Order, launch: BatchHandle) -> Started:
        """Submit the job, unless that was done. Batch: 2, and 1 to register the definition. Raises: LaunchError, ConfigError."""
        plan = launch.dump()
        try:
            self._account.put_key(order)
            launch = replace(launch, job_id=self._queues.find(launch) or self._submit(order, launch))
        except FOREIGN as error:
            failure = meaning(error, f"submitting workers to the Batch queue {self._queues.first}")
            if not is_unclear(error) and not is_throttled(error):
                raise with_advice(failure) from error
            # The job may exist: Batch lists it by the next step.
            return Started(plan, 0, more_s=_PAUSE_S, error=LaunchError(str(failure)))
        except Passing as error:
            return Started(plan, 0, more_s=_PAUSE_S, error=error)
        return Started(launch.dump(), launch.n_jobs * launch.n_slots_each)

    def _submit(self, order: Order, launch: BatchHandle) -> str:
        account, options = self._account, self._options
        request: dict[str, Any] = {
            "jobName": launch.name,
            "jobQueue": self._queues.first,
            "jobDefinition": self._definition.name,
            "retryStrategy": retry_strategy(),
            "propagateTags": True,
            # The stack's users may only end jobs with its tags.
            "tags": account.stack.all_tags,
            "containerOverrides": {
                # Arguments of the image's entry point, which Batch cannot override.
                "command": account.command(order.url, launch.n_slots_each, "batch"),
                "environment": account.environment(launch.session_id, launch.launch_id),
            },
        }
        if options.fallback:
            request["retryStrategy"] = retry_strategy(options.fallback_after)
            variables = config.fallback_environment(options.fallback_after, self._queues.on_demand)
            overrides: list[dict[str, str]] = request["containerOverrides"]["environment"]
            overrides += [{"name": name, "value": value} for name, value in variables.items()]
        if account.stack.batch_shares_fairly:
            # Batch refuses a job with these on a queue without fair share, and one without a share on a queue with it.
            request["shareIdentifier"] = options.share or own_share()
            request["schedulingPriorityOverride"] = options.priority
        if launch.n_jobs > 1:
            request["arrayProperties"] = {"size": launch.n_jobs}
        return str(account.once.get("batch").submit_job(**request)["jobId"])
