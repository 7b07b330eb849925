"""A fake of AWS Batch: one compute environment that always has room, arrays of jobs, attempts by the retry strategy.

Source: https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html, …/array_jobs.html
"""

from __future__ import annotations

import fnmatch
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.aws_fakes.containers import ENTRY_POINT, Container, environment_of, refused_secret
from tests.support.aws_fakes.refusal import LostAnswer, Refusal

TAKEN = "Your Spot Task was interrupted."
_ENDED = ("SUCCEEDED", "FAILED")


class FakeBatch:
    """One account's jobs.

    Attributes:
        shows_running: An attempt that still runs is among a job's attempts, without a time at which it stopped.
        stuck: Why jobs stay RUNNABLE, as Batch says it; None if they do not.
        secrets: What AWS may fetch for containers, by reference.
        n_attempts_before: So many attempts of each job are over before its first one here.
        lose_next: The next submission's answer is lost.
        shares_fairly: Its queues have a fair-share policy.
    """

    def __init__(
        self, folder: Path, platform: Callable[[str], dict[str, str]], queues: set[str], images: set[str]
    ) -> None:
        self._folder, self._platform, self._queues, self._images = folder, platform, queues, images
        self.lock = threading.RLock()
        self.definitions: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, Container] = {}
        self.streams: dict[str, Container] = {}
        self.threads: list[threading.Thread] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.shows_running = False
        self.stuck: str | None = None
        self.lose_next = False
        self.shares_fairly = False
        self.n_attempts_before = 0
        self.secrets: dict[str, str] = {}
        self.kill_after_s = 20.0

    def ask(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.calls.append((operation, request))
            answer: dict[str, Any] = getattr(self, f"_{operation}")(request)
            return json.loads(json.dumps(answer))  # type: ignore[no-any-return]

    def n_calls(self, operation: str) -> int:
        with self.lock:  # a call counts once it has been carried out
            return sum(name == operation for name, _ in self.calls)

    def _registerjobdefinition(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["jobDefinitionName"]
        self.definitions[name] = {
            **request,
            "revision": 1,
            "status": "ACTIVE",
            "jobDefinitionArn": f"{_arn('job-definition')}/{name}:1",
        }
        return {
            "jobDefinitionName": name,
            "jobDefinitionArn": self.definitions[name]["jobDefinitionArn"],
            "revision": 1,
        }

    def _describejobdefinitions(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("jobDefinitionName")
        return {
            "jobDefinitions": [definition for known, definition in self.definitions.items() if name in (None, known)]
        }

    def _deregisterjobdefinition(self, request: dict[str, Any]) -> dict[str, Any]:
        del self.definitions[request["jobDefinition"].rpartition("/")[2].partition(":")[0]]
        return {}

    def _submitjob(self, request: dict[str, Any]) -> dict[str, Any]:
        size = request.get("arrayProperties", {}).get("size", 1)
        if request["jobQueue"] not in self._queues:
            raise Refusal("ClientException", f"JobQueue {request['jobQueue']} not found.")
        if request["jobDefinition"] not in self.definitions:
            raise Refusal("ClientException", "JobDefinition not found.")
        # API_SubmitJob.html, shareIdentifier: needed there, and there alone.
        if ("shareIdentifier" in request) is not self.shares_fairly:
            needed = "must be specified" if self.shares_fairly else "can't be specified"
            raise Refusal("ClientException", f"shareIdentifier {needed} for this job queue.")
        if "schedulingPriorityOverride" in request and not self.shares_fairly:
            raise Refusal("ClientException", "schedulingPriority can't be specified for this job queue.")
        if "arrayProperties" in request and not 2 <= size <= 10_000:
            raise Refusal("ClientException", "Array size must be between 2 and 10000.")
        if not 1 <= request["retryStrategy"]["attempts"] <= 10 or len(request["retryStrategy"]["evaluateOnExit"]) > 5:
            raise Refusal("ClientException", "Invalid retry strategy.")
        job_id = Path("/proc/sys/kernel/random/uuid").read_text(encoding="ascii").strip()
        children = [job_id] if "arrayProperties" not in request else [f"{job_id}:{i}" for i in range(size)]
        for member in dict.fromkeys([job_id, *children]):
            self.jobs[member] = {
                "jobId": member,
                "jobName": request["jobName"],
                "jobQueue": request["jobQueue"],
                "status": "SUBMITTED",
                "statusReason": "",
                "attempts": [],
                "createdAt": int(time.time() * 1000),
                "jobDefinition": request["jobDefinition"],
            }
            if self.shares_fairly:
                self.jobs[member]["shareIdentifier"] = request["shareIdentifier"]
                self.jobs[member]["schedulingPriority"] = request["schedulingPriorityOverride"]
        if len(children) > 1:
            self.jobs[job_id]["arrayProperties"] = {"size": size}
        self.requests[job_id] = request
        for member in children:
            thread = threading.Thread(
                target=self._live, args=(member, request), name=f"batch-{member[:8]}", daemon=True
            )
            self.threads.append(thread)
            thread.start()
        if self.lose_next:
            self.lose_next = False
            raise LostAnswer
        return {"jobId": job_id, "jobName": request["jobName"], "jobArn": f"{_arn('job')}/{job_id}"}

    def _live(self, job_id: str, request: dict[str, Any]) -> None:
        job = self.jobs[job_id]
        properties = self.definitions[request["jobDefinition"]]["containerProperties"]
        job["attempts"] = [
            {"container": {"exitCode": 143}, "statusReason": TAKEN, "stoppedAt": 1}
        ] * self.n_attempts_before
        for attempt in range(1 + self.n_attempts_before, request["retryStrategy"]["attempts"] + 1):
            while self.stuck is not None and not job.get("isTerminated"):
                with self.lock:
                    job.update(status="RUNNABLE", statusReason=self.stuck)
                time.sleep(0.02)
            with self.lock:
                if job.get("isTerminated"):
                    return job.update(status="FAILED")
                job.update(status="STARTING", statusReason="")
                ecs_task = os.urandom(16).hex()
                stream = f"worker/default/{ecs_task}"
                image = properties["image"]
                running = None
                denied = refused_secret(properties, self.secrets)
                if image in self._images and denied is None:
                    overrides = request["containerOverrides"]
                    environment = environment_of(properties, overrides, self.secrets)
                    given = {"AWS_BATCH_JOB_ID": job_id, "AWS_BATCH_JOB_ATTEMPT": str(attempt)}
                    if ":" in job_id:
                        given["AWS_BATCH_JOB_ARRAY_INDEX"] = job_id.partition(":")[2]
                    platform = {**self._platform(ecs_task), **given}
                    # Batch has no say in a container's entry point: a job's command is what Docker calls CMD.
                    command = [*ENTRY_POINT, *overrides["command"]]
                    running = Container(command, environment, platform, self._folder)
                    self.containers[job_id] = self.streams[stream] = running
                    job["status"] = "RUNNING"
            status = None if running is None else running.wait()
            with self.lock:
                self.containers.pop(job_id, None)
                reason = f"CannotPullContainerError: pull image manifest has been retried 1 time(s): {image}: not found"
                why = job.pop("why", "Essential container in task exited" if running else "Task failed to start")
                container: dict[str, Any] = {"taskArn": f"{_arn('task')}/{ecs_task}", "logStreamName": stream}
                container.update({"reason": denied or reason} if status is None else {"exitCode": status})
                job["attempts"].append(
                    {"container": container, "statusReason": why, "stoppedAt": int(time.time() * 1000)}
                )
                if job.get("isTerminated"):
                    return job.update(status="FAILED", statusReason=why)
                if status == 0:
                    return job.update(status="SUCCEEDED", statusReason=why)
                if self._action(request["retryStrategy"], why, container) == "EXIT":
                    return job.update(status="FAILED", statusReason=why)
        return job.update(status="FAILED")

    def _action(self, strategy: dict[str, Any], why: str, container: dict[str, Any]) -> str:
        """The first rule that matches decides; where none does the job is retried."""
        for rule in strategy["evaluateOnExit"]:
            given = {
                "onExitCode": str(container.get("exitCode", "")),
                "onReason": container.get("reason", ""),
                "onStatusReason": why,
            }
            if all(fnmatch.fnmatchcase(given[name], pattern) for name, pattern in rule.items() if name != "action"):
                return str(rule["action"]).upper()
        return "RETRY"

    def _describejobs(self, request: dict[str, Any]) -> dict[str, Any]:
        if len(request["jobs"]) > 100:
            raise Refusal("ClientException", "jobs cannot have more than 100 elements.")
        return {"jobs": [self._shown(asked_id) for asked_id in request["jobs"] if asked_id in self.jobs]}

    def _shown(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        shown = {name: value for name, value in job.items() if name != "why"}
        if self.shows_running and job["status"] == "RUNNING":
            now = {"startedAt": int(time.time() * 1000), "container": {}, "statusReason": ""}
            shown["attempts"] = [*job["attempts"], now]
        return shown

    def _listjobs(self, request: dict[str, Any]) -> dict[str, Any]:
        jobs = [job for job in self.jobs.values() if ":" not in job["jobId"] and job["jobQueue"] == request["jobQueue"]]
        if "filters" in request:
            # With filters the status is of no account.
            names = [value.lower() for rule in request["filters"] for value in rule["values"]]
            jobs = [job for job in jobs if any(fnmatch.fnmatchcase(job["jobName"].lower(), name) for name in names)]
        else:
            jobs = [job for job in jobs if self._status(job) == request.get("jobStatus", "RUNNING")]
        return {"jobSummaryList": [{"jobId": job["jobId"], "jobName": job["jobName"]} for job in jobs]}

    def _status(self, job: dict[str, Any]) -> str:
        """Of an array: PENDING until all of its children have ended."""
        children = [child["status"] for known, child in self.jobs.items() if known.startswith(f"{job['jobId']}:")]
        if not children:
            return str(job["status"])
        if not all(status in _ENDED for status in children):
            return "PENDING"
        return "FAILED" if "FAILED" in children else "SUCCEEDED"

    def _terminatejob(self, request: dict[str, Any]) -> dict[str, Any]:
        asked = request["jobId"]
        # Children have no tags: https://docs.aws.amazon.com/batch/latest/userguide/using-tags.html
        if ":" in asked or self.requests[asked].get("tags") != {"starburst:stack": "starburst"}:
            raise Refusal("AccessDeniedException", "not authorized to perform: batch:TerminateJob", 403)
        for known_id, job in self.jobs.items():
            if (known_id == asked or known_id.partition(":")[0] == asked) and job["status"] not in _ENDED:
                job.update(isTerminated=True, why=request["reason"])
                if known_id in self.containers:
                    self.containers[known_id].stop(self.kill_after_s)
        return {}

    # --- for tests ----------------------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        with self.lock:
            return [job_id for job_id in self.containers if self.jobs[job_id]["status"] == "RUNNING"]

    def interrupt(self, job_id: str, *, notice: bool = True) -> None:
        """AWS wants the machine back."""
        with self.lock:
            self.jobs[job_id]["why"] = TAKEN
            if notice:
                self.containers[job_id].stop(self.kill_after_s)
            else:
                self.containers[job_id].kill()

    def close(self) -> None:
        self.stuck = None
        with self.lock:
            for job in self.jobs.values():
                job["isTerminated"] = True
            for container in self.containers.values():
                container.kill()
        for thread in self.threads:
            thread.join()


def _arn(kind: str) -> str:
    return f"arn:aws:batch:us-east-1:123456789012:{kind}"
