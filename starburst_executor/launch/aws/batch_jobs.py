"""One array job of AWS Batch for each launch: its children are the workers; for one worker a plain job.

Batch has no token that makes a submission safe to repeat. So the job is named after the launch, and each step looks for
a job with that name before it submits one. Guarantee: after a lost answer the job is found, not submitted twice.

Source: https://docs.aws.amazon.com/batch/latest/userguide/array_jobs.html, job_retries.html
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgpack

from starburst_executor.aws.clients import FOREIGN, Passing, error_code, is_denied, is_throttled, is_unclear, meaning
from starburst_executor.aws.logs import last_lines
from starburst_executor.aws.machines import BATCH_CHOICE, describe_types
from starburst_executor.aws.stack.causes import start_advice
from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ConfigError, LaunchError, StarburstError
from starburst_executor.launch.aws.ec2_hosts import Machine
from starburst_executor.launch.aws.ecs import EPHEMERAL_GB_LEAST
from starburst_executor.launch.aws.options import own_share
from starburst_executor.launch.aws.remote import Account, batch_digits, with_advice
from starburst_executor.launch.aws.sizes import Size
from starburst_executor.launch.aws.successor import ATTEMPTS, RETRY, SUCCESSORS
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.launch.bootstrap import EXIT_DRAINED, SIGNALLED, worker_id_of
from starburst_executor.store.url import split_url

__all__ = ["BatchJobs"]

_log = logging.getLogger(__name__)

_CHILDREN_MOST = 10_000  # Batch's limit for an array
_DESCRIBE_MOST = 100
_POLL_S = 15.0
_PAUSE_S = 5.0
_LOGS_MOST = 3
_ENDED = ("SUCCEEDED", "FAILED")
# Batch's reason for an attempt whose machine was reclaimed: on Fargate Spot, and on an EC2 instance of any kind.
# Source: https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html, "Host EC2*"
_INTERRUPTED = re.compile(r"Spot Task was interrupted|^Host EC2 .*terminated", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Handle:
    """A launch, and its job once that is submitted."""

    session_id: str
    launch_id: str
    n_slots_each: int
    n_jobs: int
    detached: bool
    job_id: str = ""

    def dump(self) -> str:
        fields = (self.session_id, self.launch_id, self.n_slots_each, self.n_jobs, self.detached, self.job_id)
        packed: bytes = msgpack.packb(fields)
        return packed.hex()

    @classmethod
    def load(cls, handle: str) -> _Handle | None:
        """Parse the result of `dump`; None if it is malformed: anyone who can write to the store can write a handle."""
        try:
            fields = msgpack.unpackb(bytes.fromhex(handle), use_list=False)
        except (ValueError, TypeError, msgpack.UnpackException):
            return None
        if not isinstance(fields, tuple) or tuple(map(type, fields)) != (str, str, int, int, bool, str):
            return None
        launch = cls(*fields)
        return launch if 0 < launch.n_jobs <= _CHILDREN_MOST and launch.n_slots_each > 0 else None

    @property
    def name(self) -> str:
        return f"starburst-{self.session_id}-{self.launch_id}"

    @property
    def children(self) -> list[str]:
        """The ids of its jobs; the children of an array are numbered."""
        return [self.job_id] if self.n_jobs == 1 else [f"{self.job_id}:{i}" for i in range(self.n_jobs)]


@dataclass(slots=True)
class _Seen:
    """A job as last described."""

    status: str
    reason: str = ""
    deaths: tuple[Death, ...] = ()
    n_interrupted: int = 0


class BatchJobs:
    """Submits and watches jobs. Called by one thread at a time."""

    def __init__(
        self,
        account: Account,
        *,
        size: Size,
        on: str,
        spot: bool,
        gpus: int,
        arch: str,
        n_slots_each: int,
        ephemeral_gb: int = EPHEMERAL_GB_LEAST,
        share: str | None = None,
        priority: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._account = account
        self._size = size
        self._on = on
        self._spot = spot
        self._gpus = gpus
        self._arch = arch
        self._n_slots_each = n_slots_each
        self._ephemeral_gb = ephemeral_gb
        self._share = share
        self._priority = priority
        self._clock = clock or SystemClock()
        self._seen: dict[str, _Seen] = {}
        self._next_look: dict[str, float] = {}
        self._gone: set[str] = set()
        self._successors: dict[str, list[str]] = {}  # by launch: jobs that its workers submitted

    def check(self, n_slots: int) -> None:
        """Refuse more workers than an array has children. Raises: ConfigError, LaunchError."""
        if -(-n_slots // self._n_slots_each) > _CHILDREN_MOST:
            raise ConfigError(
                f"workers={n_slots}: an array of AWS Batch has at most {_CHILDREN_MOST} jobs; give each worker more slots"
            )
        _ = self._queue
        if (self._share or self._priority) and not self._account.stack.batch_shares_fairly:
            option = f"share={self._share!r}" if self._share else f"priority={self._priority}"
            raise ConfigError(
                f"{option} (an argument): the Batch queues of the stack {self._account.stack.name!r} have no fair share: leave it "
                "out, or set up queues that have it with `starburst setup --fair-share`"
            )
        if self._on == "ec2":
            self._refuse_what_no_instance_runs()
        self._account.image_for(self._arch)

    def _refuse_what_no_instance_runs(self) -> None:
        """Refuse a job that fits on none of the stack's instances and would wait forever. Raises: ConfigError, LaunchError. EC2: 1."""
        stack = self._account.stack
        types = ", ".join(stack.batch_instance_types)
        has = f"in the stack {stack.name!r} Batch starts {types}"
        if stack.batch_arch not in (None, self._arch):
            example = "c7g" if self._arch == "arm64" else BATCH_CHOICE
            raise ConfigError(
                f"arch={self._arch!r} (an argument): {has}, which is {stack.batch_arch}; add instances for it with `starburst "
                f"setup --batch-instance-type {example}`, or name another stack"
            )
        if self._gpus and stack.batch_arch and not stack.batch_has_gpus:
            raise ConfigError(
                f"gpus={self._gpus} (an argument): {has}, which has no GPUs; add instances with GPUs with `starburst setup "
                "--batch-instance-type g5`, or name another stack"
            )
        most = stack.batch_most_vcpus
        if most is not None and self._size.vcpu > most:
            raise ConfigError(
                f"cpu={self._size.vcpu:g} (an argument): in the stack {stack.name!r} Batch runs at most {most} vCPUs; change "
                f"it with `starburst setup --batch-most-vcpus {self._size.vcpu:.0f}`"
            )
        chosen = [name for name in stack.batch_instance_types if name != BATCH_CHOICE]
        if not chosen or len(chosen) < len(stack.batch_instance_types):
            return
        machines = [Machine.of(record) for record in describe_types(self._account.clients, chosen)]
        if not any(
            machine.vcpus >= self._size.vcpu and machine.usable_mib >= self._size.mib and machine.gpus >= self._gpus
            for machine in machines
        ):
            most_of_each = Machine(*(max(machine[i] for machine in machines) for i in range(len(Machine._fields))))
            raise ConfigError(
                f"cpu={self._size.vcpu:g}, memory={self._size.mib} MiB, gpus={self._gpus} (arguments): {has}, none of which is "
                f"large enough: at most {most_of_each.vcpus} vCPUs, {most_of_each.usable_mib} MiB for a job and "
                f"{most_of_each.gpus} GPUs; set up larger ones with `starburst setup --batch-instance-type TYPE`"
            )

    @cached_property
    def _queue(self) -> str:
        stack = self._account.stack
        queue = {
            ("fargate", False): stack.batch_fargate_queue,
            ("fargate", True): stack.batch_fargate_spot_queue,
            ("ec2", False): stack.batch_ec2_queue,
            ("ec2", True): stack.batch_ec2_spot_queue,
        }[self._on, self._spot]
        if queue is None:
            raise ConfigError(
                f"the stack {stack.name!r} has no Batch queue for on={self._on!r}, spot={self._spot}: run `starburst "
                "setup --batch`, or use Fargate(...)"
            )
        return queue

    # --- starting -----------------------------------------------------------------------------------------------------

    def start(self, order: Order, handle: str) -> Started:
        """Take one of two steps: first a plan, which makes no request, then the job. Batch: 2, and 1 to register the definition."""
        if not handle:
            n_jobs = -(-order.n_slots // self._n_slots_each)
            session_id = split_url(order.url)[1]
            plan = _Handle(session_id, order.launch_id, min(order.n_slots, self._n_slots_each), n_jobs, order.detached)
            return Started(plan.dump(), 0, more_s=0.0)
        launch = _Handle.load(handle)
        if launch is None:
            raise LaunchError("the launch's handle is not one of AWS Batch")
        try:
            self._account.put_key(order)
            launch = replace(launch, job_id=self._find(launch) or self._submit(order, launch))
        except FOREIGN as error:
            failure = meaning(error, f"submitting workers to the Batch queue {self._queue}")
            if not is_unclear(error) and not is_throttled(error):
                raise with_advice(failure) from error
            # The job may exist: Batch lists it by the next step.
            return Started(handle, 0, more_s=_PAUSE_S, error=LaunchError(str(failure)))
        except Passing as error:
            return Started(handle, 0, more_s=_PAUSE_S, error=error)
        self._next_look[launch.launch_id] = self._clock.monotonic() + _POLL_S
        return Started(launch.dump(), launch.n_jobs * launch.n_slots_each)

    def _find(self, launch: _Handle) -> str:
        """Return the id of the launch's job; empty if it was not submitted yet."""
        return next(iter(self._named(launch.name)), "")

    def _submit(self, order: Order, launch: _Handle) -> str:
        account = self._account
        request: dict[str, Any] = {
            "jobName": launch.name,
            "jobQueue": self._queue,
            "jobDefinition": self._definition,
            "retryStrategy": RETRY,
            "propagateTags": True,
            # The stack's users may only end jobs with its tags.
            "tags": account.stack.all_tags,
            "containerOverrides": {
                # Arguments of the image's entry point, which Batch cannot override.
                "command": account.command(order.url, launch.n_slots_each, "batch"),
                "environment": account.environment(launch.session_id, launch.launch_id),
            },
        }
        if account.stack.batch_shares_fairly:
            # Batch refuses a job with these on a queue without fair share, and one without a share on a queue with it.
            request["shareIdentifier"] = self._share or own_share()
            request["schedulingPriorityOverride"] = self._priority
        if launch.n_jobs > 1:
            request["arrayProperties"] = {"size": launch.n_jobs}
        return str(account.once.get("batch").submit_job(**request)["jobId"])

    @cached_property
    def _definition(self) -> str:
        """Register the job definition if necessary; return its name, a digest of its contents. Batch: 1, and 1 to register it."""
        stack, batch = self._account.stack, self._account.clients.get("batch")
        needs = [("VCPU", f"{self._size.vcpu:g}"), ("MEMORY", str(self._size.mib))]
        needs += [("GPU", str(self._gpus))] if self._gpus else []
        container: dict[str, Any] = {
            "image": self._account.image_for(self._arch),
            "executionRoleArn": stack.execution_role_arn,
            "jobRoleArn": self._account.worker_role_arn,
            "resourceRequirements": [{"type": kind, "value": value} for kind, value in needs],
            "logConfiguration": self._account.log_configuration(),
            "linuxParameters": {"initProcessEnabled": True},
            **self._account.given(self._size, self._gpus),
            **self._account.volumes(),
        }
        if self._ephemeral_gb != EPHEMERAL_GB_LEAST:
            container["ephemeralStorage"] = {"sizeInGiB": self._ephemeral_gb}
        if self._on == "fargate":
            container["networkConfiguration"] = {"assignPublicIp": stack.public_addresses}
            container["runtimePlatform"] = {"operatingSystemFamily": "LINUX", "cpuArchitecture": self._arch.upper()}
        definition = {
            "type": "container",
            "platformCapabilities": [self._on.upper()],
            "containerProperties": container,
        }
        digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:20]
        name = f"{stack.task_family_prefix}{digest}"
        try:
            active = batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")
            if not active.get("jobDefinitions"):
                batch.register_job_definition(jobDefinitionName=name, tags=stack.all_tags, **definition)
        except FOREIGN as error:
            raise meaning(error, f"registering the job definition {name}") from error
        return name

    # --- watching -----------------------------------------------------------------------------------------------------

    def deaths(self, handle: str) -> list[Death]:
        """Return the attempts that have ended: each was a worker. Batch: 1 DescribeJobs per 100 jobs, at most every 15 s."""
        return [death for _, state in self._look(handle) for death in state.deaths]

    def slots_alive(self, handle: str) -> int:
        """Return the slots of all jobs that have not ended; Batch restarts those that were reclaimed. Batch: as `deaths`."""
        launch = _Handle.load(handle)
        n_each = 0 if launch is None else launch.n_slots_each
        return sum(n_each for _, state in self._look(handle) if state.status not in _ENDED)

    def interruptions(self, handle: str) -> int:
        """Return how many attempts ended because their machine was reclaimed. Batch: as `deaths`."""
        return sum(state.n_interrupted for _, state in self._look(handle))

    def log_streams(self, handle: str) -> Iterator[tuple[str, str]]:
        """Yield the log stream and the worker's id of each attempt. Raises: LaunchError, ConfigError. Batch: 1 per 100 jobs."""
        launch = _Handle.load(handle)
        children: list[str] = []
        if launch is not None and launch.job_id:
            try:
                children = [*launch.children, *self._named(f"{launch.name}{SUCCESSORS}*")]
            except FOREIGN as error:
                raise meaning(error, "listing a launch's Batch jobs") from error
        for i in range(0, len(children), _DESCRIBE_MOST):
            try:
                answer = self._account.clients.get("batch").describe_jobs(jobs=children[i : i + _DESCRIBE_MOST])
            except FOREIGN as error:
                raise meaning(error, "reading the log streams of Batch jobs") from error
            for job in answer.get("jobs", []):
                containers = [attempt.get("container", {}) for attempt in job.get("attempts", [])]
                ended = [str(container["logStreamName"]) for container in containers if container.get("logStreamName")]
                running = str(job.get("container", {}).get("logStreamName", ""))
                for number, stream in enumerate(dict.fromkeys([*ended, *filter(None, [running])]), 1):
                    assert launch is not None  # only a launch has children  # noqa: S101
                    yield stream, worker_id_of(launch.launch_id, batch_digits(str(job["jobId"]), number))

    def expected(self, handle: str) -> list[str]:
        """Return the workers whose attempt has begun; the others still wait in the queue. Batch: as `deaths`."""
        return list(self._begun(handle))

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        """End its job, which Batch does not restart; fails for a child of an array, see `shed`. Batch: 1."""
        job_id = self._begun(handle).get(worker_id)
        return job_id is not None and self._terminate(job_id, words)

    def _begun(self, handle: str) -> dict[str, str]:
        """Return the jobs whose attempt has begun, by worker id."""
        launch = _Handle.load(handle)
        return {
            worker_id_of(launch.launch_id, batch_digits(job_id, len(state.deaths) + 1)): job_id
            for job_id, state in self._look(handle)
            if launch is not None and state.status == "RUNNING"
        }

    def describe(self, handle: str) -> str:
        """Return the number of jobs in each state, and Batch's reason for one of them."""
        states = [state for _, state in self._look(handle)]
        if not states:
            return ""
        counts = Counter(state.status for state in states)
        words = f"{len(states)} jobs: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())
        reasons = [state.reason for state in states if state.reason]
        reasons += [state.deaths[-1].words for state in states if state.deaths]
        return "; ".join([words, *reasons[-1:]])

    def _look(self, handle: str) -> Iterator[tuple[str, _Seen]]:
        launch = _Handle.load(handle)
        if launch is None or not launch.job_id:
            return
        now = self._clock.monotonic()
        if now >= self._next_look.get(launch.launch_id, now):
            self._next_look[launch.launch_id] = now + _POLL_S
            self._ask(launch)
        for job_id in self._jobs_of(launch):
            yield job_id, self._seen.get(job_id, _Seen("SUBMITTED"))

    def _jobs_of(self, launch: _Handle) -> list[str]:
        return [*launch.children, *self._successors.get(launch.launch_id, ())]

    def _ask(self, launch: _Handle) -> None:
        """Describe the jobs that have not ended. Errors are logged: without an answer, no worker counts as dead."""
        self._look_for_successors(launch)
        open_ = [
            job_id
            for job_id in self._jobs_of(launch)
            if job_id not in self._seen or self._seen[job_id].status not in _ENDED
        ]
        n_logs = _LOGS_MOST
        for i in range(0, len(open_), _DESCRIBE_MOST):
            batch_ids = open_[i : i + _DESCRIBE_MOST]
            try:
                answer = self._account.clients.get("batch").describe_jobs(jobs=batch_ids)
            except (*FOREIGN, StarburstError) as error:
                _log.info("the Batch jobs could not be described; retrying later: %s", error)
                return
            for job in answer.get("jobs", []):
                n_logs -= self._take_in(launch, job, n_logs)

    def _look_for_successors(self, launch: _Handle) -> None:
        """Find the jobs that workers submitted after their last allowed attempt. Batch: 1, if a worker is on its last attempt."""
        known = (self._seen[job_id] for job_id in self._jobs_of(launch) if job_id in self._seen)
        if not any(len(state.deaths) >= ATTEMPTS for state in known):
            return
        try:
            self._successors[launch.launch_id] = self._named(f"{launch.name}{SUCCESSORS}*")
        except (*FOREIGN, StarburstError) as error:
            _log.info("the session's Batch jobs could not be listed; retrying later: %s", error)

    def _named(self, name: str) -> list[str]:
        """Return the ids of the jobs with that name, an array as one; with a final "*", of those with that prefix. Batch: 1 per 100.

        Batch compares names case-insensitively; this method does not.
        """
        pages = self._account.clients.get("batch").get_paginator("list_jobs")
        listed = pages.paginate(jobQueue=self._queue, filters=[{"name": "JOB_NAME", "values": [name]}])
        begins, is_whole = name.removesuffix("*"), not name.endswith("*")
        return [
            str(job["jobId"])
            for page in listed
            for job in page.get("jobSummaryList", [])
            if (job["jobName"] == name if is_whole else str(job["jobName"]).startswith(begins))
        ]

    def _take_in(self, launch: _Handle, job: dict[str, Any], n_logs: int) -> int:
        """Update a job's state from its description; return how many logs were read."""
        job_id = str(job["jobId"])
        before = self._seen.get(job_id, _Seen("SUBMITTED"))
        known, n_interrupted = before.deaths, before.n_interrupted
        attempts = job.get("attempts", [])
        fresh: list[Death] = []
        n_read = 0
        # Batch may list an attempt that is still running; the worker is dead once the attempt has stopped.
        # https://docs.aws.amazon.com/batch/latest/APIReference/API_AttemptDetail.html
        over = job.get("status") in _ENDED
        running = (i for i, attempt in enumerate(attempts) if not (over or attempt.get("stoppedAt")))
        n_stopped = next(running, len(attempts))
        for number in range(len(known) + 1, n_stopped + 1):
            container = attempts[number - 1].get("container", {})
            exit_code = container.get("exitCode")
            words = [str(attempts[number - 1].get("statusReason", "")), str(container.get("reason", ""))]
            words.append("" if exit_code is None else f"exit status {exit_code}")
            if exit_code not in (None, 0, EXIT_DRAINED) and container.get("logStreamName") and n_read < n_logs:
                n_read += 1
                words.append(last_lines(self._account.clients, self._account.stack, str(container["logStreamName"])))
            words.append(start_advice("; ".join(words)))
            reason = "; ".join(dict.fromkeys(filter(None, words)))
            worker_id = worker_id_of(launch.launch_id, batch_digits(job_id, number))
            reason = f"{reason}: job {job_id}, attempt {number}"
            # Unless the job is over, Batch restarts it by its own rules: no sign that workers cannot start.
            was_killed = type(exit_code) is int and exit_code > SIGNALLED
            fresh.append(Death(worker_id, reason, was_taken=not over, was_killed=was_killed))
            n_interrupted += _INTERRUPTED.search(words[0]) is not None
        status_reason = str(job.get("statusReason", ""))
        self._seen[job_id] = _Seen(str(job["status"]), status_reason, (*known, *fresh), n_interrupted)
        return n_read

    # --- stopping -----------------------------------------------------------------------------------------------------

    def shed(self, handle: str, n_slots: int) -> int:
        """End the last children, with at most `n_slots` slots; return the number of slots that will end.

        Children have no tags, and users' rights depend on tags: with those rights only a whole array can be ended.
        Surplus children then leave when they have no tasks.
        Source: https://docs.aws.amazon.com/batch/latest/userguide/using-tags.html
        """
        launch = _Handle.load(handle)
        if launch is None:
            return 0
        open_ = [job_id for job_id, state in self._look(handle) if state.status not in _ENDED]
        n_chosen = min(len(open_), n_slots // launch.n_slots_each)
        if n_chosen == len(open_) and launch.job_id:
            return n_chosen * launch.n_slots_each if self._terminate(launch.job_id, "fewer workers are needed") else 0
        n_ended = 0
        for job_id in reversed(open_):
            if n_ended == n_chosen or not self._terminate(job_id, "fewer workers are needed"):
                break
            n_ended += 1
        return n_ended * launch.n_slots_each

    def stop(self, handle: str, *, for_good: bool) -> None:
        """End the launch's jobs: SIGTERM, then SIGKILL. Batch restarts none of them.

        Args:
            for_good: Whether the session is over: then its key is deleted too.
        """
        launch = _Handle.load(handle)
        if launch is None:
            return
        if for_good:
            self._account.delete_key(launch.session_id)
        try:
            # The handle lacks the job's id if the client died after it submitted the job.
            jobs = [launch.job_id or self._find(launch), *self._named(f"{launch.name}{SUCCESSORS}*")]
        except (*FOREIGN, StarburstError) as error:
            _log.warning("the session's Batch jobs could not be listed: %s", error)
            return
        for job_id in filter(None, jobs):
            if job_id in self._gone:
                continue
            self._gone.add(job_id)
            self._terminate(job_id, "the session has ended" if for_good else "the session stops its workers")

    def let_go(self, handle: str) -> None:
        """End the workers of an attached session with its client."""
        launch = _Handle.load(handle)
        if launch is not None and not launch.detached:
            self.stop(handle, for_good=True)

    def _terminate(self, job_id: str, reason: str) -> bool:
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
