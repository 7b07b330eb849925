"""A worker of AWS Batch submits its own successor when it is reclaimed for the last time: Batch starts a job at most ten times.

    attempt 1 ─taken─► 2 ─► … ─► 10 ─taken─► successor: a job of its own, attempt 1 ─► … ─► 10 ─► its successor

With `fallback`, Batch starts a job on Spot only `fallback_after` times, and its successor is a job of the On-Demand queue.

The worker submits it, since there may be no client. Its name is the launch's name, then digits of its predecessor: so a
client finds all successors by the launch's name, and a submission whose answer was lost is found, not repeated. A worker
that is killed without notice submits no successor: the others do its work, and a client that attaches replaces it.

Source: https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html
"""

from __future__ import annotations

import logging
from typing import Any

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Clients
from starburst_executor.config import AwsSettings
from starburst_executor.errors import StarburstError
from starburst_executor.launch.aws.options import BATCH_STARTS_MOST
from starburst_executor.launch.aws.remote import worker_command
from starburst_executor.launch.aws.worker_ids import batch_digits
from starburst_executor.launch.bootstrap import EXIT_DRAINED

__all__ = ["SUCCESSORS", "retry_strategy", "submit_successor"]

_log = logging.getLogger(__name__)

# Separates the launch's name from the digits in a successor's name; no id contains it.
SUCCESSORS = "-next-"
# In order; an attempt that matches no rule is retried, also after an image could not be pulled, which is usually
# temporary ("context canceled", timeouts, a full disk). A worker that was drained exits with a status that is retried.
# https://github.com/nextflow-io/nextflow/issues/5099, https://github.com/dagster-io/dagster/pull/17168
_RULES = [
    {"onExitCode": "0", "action": "EXIT"},
    {"onExitCode": "3", "action": "EXIT"},
    {"onExitCode": str(EXIT_DRAINED), "action": "RETRY"},
]


def retry_strategy(starts: int = BATCH_STARTS_MOST) -> dict[str, Any]:
    """Return the retry strategy of a job that Batch starts at most this number of times."""
    return {"attempts": starts, "evaluateOnExit": _RULES}


def submit_successor(url: str, n_slots: int) -> str:
    """Submit a successor for this Batch worker, which received SIGTERM, if Batch will not restart it; return the job's id.

    Return an empty string if none is needed: attempts are left, or a client ended the job. Errors are logged.

    Args:
        url: The session's URL, as the worker received it.
        n_slots: The worker's slots.
    Batch: 2 and 1 to submit.
    """
    start = config.container_start()
    if start.attempt < (start.fallback_after or BATCH_STARTS_MOST):
        return ""
    batch = Clients(AwsSettings(), tries=3).get("batch")
    try:
        job: dict[str, Any] = batch.describe_jobs(jobs=[start.job_id])["jobs"][0]
        if job.get("isTerminated") or job.get("isCancelled"):
            return ""
        name = f"{str(job['jobName']).partition(SUCCESSORS)[0]}{SUCCESSORS}{batch_digits(start.job_id, 0)}"
        queue = start.fallback_queue or str(job["jobQueue"])
        known = batch.list_jobs(jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [name]}])
        if known.get("jobSummaryList"):
            return str(known["jobSummaryList"][0]["jobId"])
        rights = config.worker_rights()
        environment = config.inherited_environment()
        submitted = batch.submit_job(
            jobName=name,
            jobQueue=queue,
            jobDefinition=job["jobDefinition"],
            **_share_of(job),
            retryStrategy=retry_strategy(),
            propagateTags=True,
            tags=job.get("tags") or {"starburst:stack": "" if rights is None else rights.stack},
            containerOverrides={
                "command": worker_command(url, n_slots, "batch"),
                "environment": [{"name": name, "value": value} for name, value in environment.items()],
            },
        )
    except (*FOREIGN, StarburstError, LookupError) as error:
        _log.warning("this worker's successor could not be submitted; other workers do its work: %s", error)
        return ""
    _log.info("submitted a successor after %d starts: job=%s, queue=%s", start.attempt, submitted["jobId"], queue)
    return str(submitted["jobId"])


def _share_of(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job's share and its priority in the form of a submission; nothing on a queue without fair share."""
    if not job.get("shareIdentifier"):
        return {}
    return {
        "shareIdentifier": job["shareIdentifier"],
        "schedulingPriorityOverride": int(job.get("schedulingPriority", 0)),
    }
