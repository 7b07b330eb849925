"""One job queue of AWS Batch: finds jobs by their names, and ends jobs."""

from __future__ import annotations

import logging
from functools import cached_property

from starburst_executor.aws.clients import FOREIGN, error_code, is_denied
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.batch_fit import queue_of
from starburst_executor.launch.aws.remote import Account

__all__ = ["JobQueue"]

_log = logging.getLogger(__name__)


class JobQueue:
    """The queue of one launcher."""

    def __init__(self, account: Account, options: Batch) -> None:
        self._account = account
        self._options = options

    @cached_property
    def name(self) -> str:
        """The queue. Raises: ConfigError if the stack has none; LaunchError."""
        return queue_of(self._options, self._account)

    def named(self, name: str) -> list[str]:
        """Return the ids of the jobs with that name, an array as one; with a final "*", of those with that prefix. Batch: 1 per 100.

        Batch compares names case-insensitively; this method does not. Raises: FOREIGN errors, LaunchError, ConfigError.
        """
        pages = self._account.clients.get("batch").get_paginator("list_jobs")
        listed = pages.paginate(jobQueue=self.name, filters=[{"name": "JOB_NAME", "values": [name]}])
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
