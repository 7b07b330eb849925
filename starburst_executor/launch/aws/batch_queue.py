"""The job queues of one launcher on AWS Batch: finds jobs by their names, and ends jobs."""

from __future__ import annotations

import logging
from functools import cached_property

from starburst_executor.aws.clients import FOREIGN, error_code, is_denied
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.batch_fit import queue_of
from starburst_executor.launch.aws.batch_handle import BatchHandle
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.aws.successor import SUCCESSORS

__all__ = ["JobQueues"]

_log = logging.getLogger(__name__)


class JobQueues:
    """The queue of a launcher, and the one in which its workers' successors may be."""

    def __init__(self, account: Account, options: Batch) -> None:
        self._account = account
        self._options = options

    @cached_property
    def first(self) -> str:
        """The queue for launches. Raises: ConfigError if the stack has none; LaunchError."""
        return queue_of(self._options, self._account, spot=self._options.spot)

    @cached_property
    def on_demand(self) -> str:
        """The queue for successors with `fallback`. Raises: as `first`."""
        return queue_of(self._options, self._account, spot=False)

    def find(self, launch: BatchHandle) -> str:
        """Return the id of a launch's job, an array as one; empty if it was not submitted. Batch: 1. Raises: as `_named`."""
        return next(iter(self._named(launch.name, self.first)), "")

    def successors(self, launch: BatchHandle) -> list[str]:
        """Return the ids of the jobs that a launch's workers submitted, in either queue. Batch: 1 or 2. Raises: as `_named`."""
        queues = dict.fromkeys([self.first, self.on_demand] if self._options.spot else [self.first])
        return [job_id for queue in queues for job_id in self._named(f"{launch.name}{SUCCESSORS}*", queue)]

    def _named(self, name: str, queue: str) -> list[str]:
        """Return the ids of the jobs with that name; with a final "*", of those with that prefix. Batch: 1 per 100.

        Batch compares names case-insensitively; this method does not. Raises: FOREIGN errors, LaunchError, ConfigError.
        """
        pages = self._account.clients.get("batch").get_paginator("list_jobs")
        listed = pages.paginate(jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [name]}])
        begins, is_whole = name.removesuffix("*"), not name.endswith("*")
        return [
            str(job["jobId"])
            for page in listed
            for job in page.get("jobSummaryList", [])
            if (job["jobName"] == name if is_whole else str(job["jobName"]).startswith(begins))
        ]

    def terminate(self, job_id: str, reason: str) -> bool:
        """End a job, or all children of an array; return whether it was ended. Errors are logged: the worker leaves by itself."""
        try:
            self._account.clients.get("batch").terminate_job(jobId=job_id, reason=reason)
        except FOREIGN as error:
            if error_code(error) == "ClientException":
                return True  # it has ended
            level = logging.INFO if ":" in job_id and is_denied(error) else logging.WARNING
            _log.log(level, "a job could not be ended; its worker will leave by itself: %s: %s", job_id, error)
            return False
        return True
