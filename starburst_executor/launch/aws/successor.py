"""A worker of AWS Batch that is taken down for the tenth time submits its own successor: Batch starts a job ten times at most.

    attempt 1 ─taken─► 2 ─► … ─► 10 ─taken─► successor: a job of its own, attempt 1 ─► … ─► 10 ─► its successor

It is asked by the worker, since there may be no client. Its name is the launch's, then the digits of whom it follows: so a
client finds all of them by the launch's name, and a submission whose answer was lost is found before it is made again.
A worker that was killed without a notice submits nothing: the others do its work, and a client that attaches replaces it.

Source: https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html
"""

from __future__ import annotations

import logging
from typing import Any

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Clients
from starburst_executor.config import AwsSettings
from starburst_executor.errors import StarburstError
from starburst_executor.launch.aws.remote import batch_digits, worker_command
from starburst_executor.launch.bootstrap import EXIT_DRAINED

__all__ = ["ATTEMPTS", "RETRY", "SUCCESSORS", "submit_successor"]

_log = logging.getLogger(__name__)

ATTEMPTS = 10  # Batch's own limit of a retry strategy
# What follows a launch's name in those of its successors; no id has it.
SUCCESSORS = "-next-"
# In order; what matches none is retried: an image that could not be pulled too, since most of that passes ("context
# canceled", timeouts, a full disk). A worker that a host's end drained says so by its exit status, and goes again.
# https://github.com/nextflow-io/nextflow/issues/5099, https://github.com/dagster-io/dagster/pull/17168
RETRY: dict[str, Any] = {
    "attempts": ATTEMPTS,
    "evaluateOnExit": [
        {"onExitCode": "0", "action": "EXIT"},
        {"onExitCode": "3", "action": "EXIT"},
        {"onExitCode": str(EXIT_DRAINED), "action": "RETRY"},
    ],
}


def submit_successor(url: str, n_slots: int) -> str:
    """In a worker of Batch that was told to stop: submit its successor if Batch will not start it again; its job's id.

    Empty if none is needed: there are attempts left, or the job was ended by a client. What fails is logged.

    Args:
        url: The session's, as the worker was given it.
        n_slots: Of the worker.
    Batch: 2 and 1 to submit.
    """
    told = config.engine_start()
    if told.attempt < ATTEMPTS:
        return ""
    batch = Clients(AwsSettings(), tries=3).get("batch")
    try:
        job: dict[str, Any] = batch.describe_jobs(jobs=[told.job_id])["jobs"][0]
        if job.get("isTerminated") or job.get("isCancelled"):
            return ""
        name = f"{str(job['jobName']).partition(SUCCESSORS)[0]}{SUCCESSORS}{batch_digits(told.job_id, 0)}"
        known = batch.list_jobs(jobQueue=job["jobQueue"], filters=[{"name": "JOB_NAME", "values": [name]}])
        if known.get("jobSummaryList"):
            return str(known["jobSummaryList"][0]["jobId"])
        rights = config.worker_rights()
        environment = config.inherited_environment()
        submitted = batch.submit_job(
            jobName=name,
            jobQueue=job["jobQueue"],
            jobDefinition=job["jobDefinition"],
            retryStrategy=RETRY,
            propagateTags=True,
            tags=job.get("tags") or {"starburst:stack": "" if rights is None else rights.stack},
            containerOverrides={
                "command": worker_command(url, n_slots, "batch"),
                "environment": [{"name": name, "value": value} for name, value in environment.items()],
            },
        )
    except (*FOREIGN, StarburstError, LookupError) as error:
        _log.warning("this worker's successor was not submitted; the others do its work: %s", error)
        return ""
    _log.info("started ten times, submitted a successor: job=%s", submitted["jobId"])
    return str(submitted["jobId"])
