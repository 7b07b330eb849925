"""One array job of AWS Batch for each launch: its children are the workers; for one worker a plain job.

Batch has no token that makes a submission safe to repeat. So the job's name is the launch's, and it is looked for by
that name before it is submitted: after a lost answer it is found, not made twice.

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
from starburst_executor.launch.aws.remote import Account, batch_digits, with_advice
from starburst_executor.launch.aws.sizes import Size
from starburst_executor.launch.aws.successor import ATTEMPTS, RETRY, SUCCESSORS
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.launch.bootstrap import EXIT_DRAINED, SIGNALLED, worker_id_of
from starburst_executor.store.url import split_url

__all__ = ["BatchJobs"]

_log = logging.getLogger(__name__)

_CHILDREN_MOST = 10_000  # Batch's own limit of an array
_DESCRIBE_MOST = 100
_POLL_S = 15.0
_PAUSE_S = 5.0
_LOGS_MOST = 3
_ENDED = ("SUCCEEDED", "FAILED")
# What Batch says of an attempt whose machine was taken: on Fargate Spot, and on an EC2 instance of any kind.
# Source: https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html, "Host EC2*"
_INTERRUPTED = re.compile(r"Spot Task was interrupted|^Host EC2 .*terminated", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Handle:
    """One launch: the job, once it is submitted."""

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
        """Back from `dump`; None if it is no such handle: whoever can write the store can write one."""
        try:
            fields = msgpack.unpackb(bytes.fromhex(handle), use_list=False)
        except (ValueError, TypeError, msgpack.UnpackException):
            return None
        if not isinstance(fields, tuple) or tuple(map(type, fields)) != (str, str, int, int, bool, str):
            return None
        found = cls(*fields)
        return found if 0 < found.n_jobs <= _CHILDREN_MOST and found.n_slots_each > 0 else None

    @property
    def name(self) -> str:
        return f"starburst-{self.session_id}-{self.launch_id}"

    @property
    def children(self) -> list[str]:
        """The ids of its jobs: an array's children are numbered."""
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
        self._clock = clock or SystemClock()
        self._seen: dict[str, _Seen] = {}
        self._next_look: dict[str, float] = {}
        self._gone: set[str] = set()
        self._successors: dict[str, list[str]] = {}  # by launch: jobs that its workers have submitted

    def check(self, n_slots: int) -> None:
        """Refuse more workers than an array has children. Raises: ConfigError, LaunchError."""
        if -(-n_slots // self._n_slots_each) > _CHILDREN_MOST:
            raise ConfigError(
                f"workers={n_slots}: an array of AWS Batch has at most {_CHILDREN_MOST} jobs; give each slots"
            )
        _ = self._queue
        if self._on == "ec2":
            self._refuse_what_no_instance_runs()
        self._account.image_for(self._arch)

    def _refuse_what_no_instance_runs(self) -> None:
        """A job that fits on none of the stack's instances would wait for one. Raises: ConfigError, LaunchError. EC2: 1."""
        stack = self._account.stack
        types = ", ".join(stack.batch_instance_types)
        has = f"the stack {stack.name!r} has Batch start {types}"
        if stack.batch_arch not in (None, self._arch):
            example = "c7g" if self._arch == "arm64" else BATCH_CHOICE
            raise ConfigError(
                f"arch={self._arch!r} (an argument): {has}, which is {stack.batch_arch}; set up what runs it with `starburst "
                f"setup --batch-instance-type {example}`, or name another stack"
            )
        if self._gpus and stack.batch_arch and not stack.batch_has_gpus:
            raise ConfigError(
                f"gpus={self._gpus} (an argument): {has}, which has no GPUs; set up what has with `starburst setup "
                "--batch-instance-type g5`, or name another stack"
            )
        most = stack.batch_most_vcpus
        if most is not None and self._size.vcpu > most:
            raise ConfigError(
                f"cpu={self._size.vcpu:g} (an argument): the stack {stack.name!r} has Batch run {most} vCPUs at most; change "
                f"it with `starburst setup --batch-most-vcpus {self._size.vcpu:.0f}`"
            )
        chosen = [one for one in stack.batch_instance_types if one != BATCH_CHOICE]
        if not chosen or len(chosen) < len(stack.batch_instance_types):
            return
        machines = [Machine.of(one) for one in describe_types(self._account.clients, chosen)]
        if not any(
            one.vcpus >= self._size.vcpu and one.usable_mib >= self._size.mib and one.gpus >= self._gpus
            for one in machines
        ):
            most_of_each = Machine(*(max(one[i] for one in machines) for i in range(len(Machine._fields))))
            raise ConfigError(
                f"cpu={self._size.vcpu:g}, memory={self._size.mib} MiB, gpus={self._gpus} (arguments): {has}, none of which has "
                f"so much: at most {most_of_each.vcpus} vCPUs, {most_of_each.usable_mib} MiB for a job and "
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
        """One step of two: a plan, which makes nothing, then the job. Batch: 2, and 1 to register the definition."""
        if not handle:
            n_jobs = -(-order.n_slots // self._n_slots_each)
            session_id = split_url(order.url)[1]
            plan = _Handle(session_id, order.launch_id, min(order.n_slots, self._n_slots_each), n_jobs, order.detached)
            return Started(plan.dump(), 0, more_s=0.0)
        here = _Handle.load(handle)
        if here is None:
            raise LaunchError("the launch's handle is not one of AWS Batch")
        try:
            self._account.put_key(order)
            here = replace(here, job_id=self._find(here) or self._submit(order, here))
        except FOREIGN as error:
            found = meaning(error, f"submitting workers to the Batch queue {self._queue}")
            if not is_unclear(error) and not is_throttled(error):
                raise with_advice(found) from error
            # The job may be there: by then Batch lists it.
            return Started(handle, 0, more_s=_PAUSE_S, error=LaunchError(str(found)))
        except Passing as error:
            return Started(handle, 0, more_s=_PAUSE_S, error=error)
        self._next_look[here.launch_id] = self._clock.monotonic() + _POLL_S
        return Started(here.dump(), here.n_jobs * here.n_slots_each)

    def _find(self, here: _Handle) -> str:
        """The job of that launch, if it was submitted before."""
        return next(iter(self._named(here.name)), "")

    def _submit(self, order: Order, here: _Handle) -> str:
        account = self._account
        request: dict[str, Any] = {
            "jobName": here.name,
            "jobQueue": self._queue,
            "jobDefinition": self._definition,
            "retryStrategy": RETRY,
            "propagateTags": True,
            # Its users may end those jobs only that are the stack's.
            "tags": account.stack.all_tags,
            "containerOverrides": {
                # Arguments of the image's own entry point, which Batch leaves as it is.
                "command": account.command(order.url, here.n_slots_each, "batch"),
                "environment": account.environment(here.session_id, here.launch_id),
            },
        }
        if here.n_jobs > 1:
            request["arrayProperties"] = {"size": here.n_jobs}
        return str(account.once.get("batch").submit_job(**request)["jobId"])

    @cached_property
    def _definition(self) -> str:
        """The job definition's name, which is named after what is in it. Batch: 1, and 1 to register it."""
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
            found = batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")
            if not found.get("jobDefinitions"):
                batch.register_job_definition(jobDefinitionName=name, tags=stack.all_tags, **definition)
        except FOREIGN as error:
            raise meaning(error, f"registering the job definition {name}") from error
        return name

    # --- watching -----------------------------------------------------------------------------------------------------

    def deaths(self, handle: str) -> list[Death]:
        """The attempts that have ended: each was a worker. Batch: 1 DescribeJobs for 100 jobs, each 15 s at most."""
        return [death for _, seen in self._look(handle) for death in seen.deaths]

    def slots_alive(self, handle: str) -> int:
        """Slots of jobs that have not ended for good: what was taken down Batch starts again. Batch: as `deaths`."""
        here = _Handle.load(handle)
        n_each = 0 if here is None else here.n_slots_each
        return sum(n_each for _, seen in self._look(handle) if seen.status not in _ENDED)

    def interruptions(self, handle: str) -> int:
        """How many attempts have ended because their machine was taken. Batch: as `deaths`."""
        return sum(seen.n_interrupted for _, seen in self._look(handle))

    def log_streams(self, handle: str) -> Iterator[tuple[str, str]]:
        """The log stream and the worker's id of each attempt. Raises: LaunchError, ConfigError. Batch: 1 for 100 jobs."""
        here = _Handle.load(handle)
        children: list[str] = []
        if here is not None and here.job_id:
            try:
                children = [*here.children, *self._named(f"{here.name}{SUCCESSORS}*")]
            except FOREIGN as error:
                raise meaning(error, "asking Batch for a launch's jobs") from error
        for i in range(0, len(children), _DESCRIBE_MOST):
            try:
                answer = self._account.clients.get("batch").describe_jobs(jobs=children[i : i + _DESCRIBE_MOST])
            except FOREIGN as error:
                raise meaning(error, "asking Batch where its jobs log") from error
            for job in answer.get("jobs", []):
                attempts = [one.get("container", {}) for one in job.get("attempts", [])]
                named = [str(one["logStreamName"]) for one in attempts if one.get("logStreamName")]
                running = str(job.get("container", {}).get("logStreamName", ""))
                for number, stream in enumerate(dict.fromkeys([*named, *filter(None, [running])]), 1):
                    assert here is not None  # there are children  # noqa: S101
                    yield stream, worker_id_of(here.launch_id, batch_digits(str(job["jobId"]), number))

    def expected(self, handle: str) -> list[str]:
        """Those whose attempt has begun: what waits for a machine is Batch's to wait for. Batch: as `deaths`."""
        return list(self._begun(handle))

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        """End its job, which is not started again; not a child of an array, see `shed`. Batch: 1."""
        job_id = self._begun(handle).get(worker_id)
        return job_id is not None and self._terminate(job_id, words)

    def _begun(self, handle: str) -> dict[str, str]:
        """The jobs whose attempt has begun, by its worker's id."""
        here = _Handle.load(handle)
        return {
            worker_id_of(here.launch_id, batch_digits(job_id, len(seen.deaths) + 1)): job_id
            for job_id, seen in self._look(handle)
            if here is not None and seen.status == "RUNNING"
        }

    def describe(self, handle: str) -> str:
        """How many are in which state, and what Batch says of one."""
        found = [seen for _, seen in self._look(handle)]
        if not found:
            return ""
        counts = Counter(seen.status for seen in found)
        words = f"{len(found)} jobs: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())
        said = [seen.reason for seen in found if seen.reason] + [seen.deaths[-1].words for seen in found if seen.deaths]
        return "; ".join([words, *said[-1:]])

    def _look(self, handle: str) -> Iterator[tuple[str, _Seen]]:
        here = _Handle.load(handle)
        if here is None or not here.job_id:
            return
        now = self._clock.monotonic()
        if now >= self._next_look.get(here.launch_id, now):
            self._next_look[here.launch_id] = now + _POLL_S
            self._ask(here)
        for job_id in self._jobs_of(here):
            yield job_id, self._seen.get(job_id, _Seen("SUBMITTED"))

    def _jobs_of(self, here: _Handle) -> list[str]:
        return [*here.children, *self._successors.get(here.launch_id, ())]

    def _ask(self, here: _Handle) -> None:
        """Describe those that have not ended. What fails is logged: whoever cannot tell says that nobody died."""
        self._look_for_successors(here)
        open_ = [one for one in self._jobs_of(here) if one not in self._seen or self._seen[one].status not in _ENDED]
        n_logs = _LOGS_MOST
        for i in range(0, len(open_), _DESCRIBE_MOST):
            asked = open_[i : i + _DESCRIBE_MOST]
            try:
                answer = self._account.clients.get("batch").describe_jobs(jobs=asked)
            except (*FOREIGN, StarburstError) as error:
                _log.info("Batch does not say how its jobs are; asking again later: %s", error)
                return
            for job in answer.get("jobs", []):
                n_logs -= self._take_in(here, job, n_logs)

    def _look_for_successors(self, here: _Handle) -> None:
        """Jobs that workers have submitted which Batch would not have started again. Batch: 1, if there are such workers."""
        known = (self._seen[one] for one in self._jobs_of(here) if one in self._seen)
        if not any(len(seen.deaths) >= ATTEMPTS for seen in known):
            return
        try:
            self._successors[here.launch_id] = self._named(f"{here.name}{SUCCESSORS}*")
        except (*FOREIGN, StarburstError) as error:
            _log.info("Batch does not list the session's jobs; asking again later: %s", error)

    def _named(self, name: str) -> list[str]:
        """The jobs of that name, those of an array as one; with "*" at its end, those whose names begin so. Batch: 1 for 100.

        Batch compares names without regard to case.
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

    def _take_in(self, here: _Handle, job: dict[str, Any], n_logs: int) -> int:
        """What a description says; how many logs were read for it."""
        job_id = str(job["jobId"])
        before = self._seen.get(job_id, _Seen("SUBMITTED"))
        known, n_interrupted = before.deaths, before.n_interrupted
        attempts = job.get("attempts", [])
        fresh: list[Death] = []
        n_read = 0
        # Batch may list an attempt that still runs: a worker is dead once its attempt has stopped.
        # https://docs.aws.amazon.com/batch/latest/APIReference/API_AttemptDetail.html
        over = job.get("status") in _ENDED
        n_stopped = next((i for i, one in enumerate(attempts) if not (over or one.get("stoppedAt"))), len(attempts))
        for number in range(len(known) + 1, n_stopped + 1):
            container = attempts[number - 1].get("container", {})
            exit_code = container.get("exitCode")
            words = [str(attempts[number - 1].get("statusReason", "")), str(container.get("reason", ""))]
            words.append("" if exit_code is None else f"exit status {exit_code}")
            if exit_code not in (None, 0, EXIT_DRAINED) and container.get("logStreamName") and n_read < n_logs:
                n_read += 1
                words.append(last_lines(self._account.clients, self._account.stack, str(container["logStreamName"])))
            words.append(start_advice("; ".join(words)))
            told = "; ".join(dict.fromkeys(filter(None, words)))
            worker_id = worker_id_of(here.launch_id, batch_digits(job_id, number))
            told = f"{told}: job {job_id}, attempt {number}"
            # Batch starts it again by its own rules, so it is no sign that workers cannot start.
            was_killed = type(exit_code) is int and exit_code > SIGNALLED
            fresh.append(Death(worker_id, told, was_taken=not over, was_killed=was_killed))
            n_interrupted += _INTERRUPTED.search(words[0]) is not None
        reason = str(job.get("statusReason", ""))
        self._seen[job_id] = _Seen(str(job["status"]), reason, (*known, *fresh), n_interrupted)
        return n_read

    # --- stopping -----------------------------------------------------------------------------------------------------

    def shed(self, handle: str, n_slots: int) -> int:
        """End the last children, but no more slots than asked for; how many will go.

        Children have no tags, by which users' rights go: with those alone only a whole array can be ended, and children
        that are too many leave when there is nothing for them to do.
        Source: https://docs.aws.amazon.com/batch/latest/userguide/using-tags.html
        """
        here = _Handle.load(handle)
        if here is None:
            return 0
        open_ = [job_id for job_id, seen in self._look(handle) if seen.status not in _ENDED]
        n_chosen = min(len(open_), n_slots // here.n_slots_each)
        if n_chosen == len(open_) and here.job_id:
            return n_chosen * here.n_slots_each if self._terminate(here.job_id, "fewer workers are wanted") else 0
        n_ended = 0
        for job_id in reversed(open_):
            if n_ended == n_chosen or not self._terminate(job_id, "fewer workers are wanted"):
                break
            n_ended += 1
        return n_ended * here.n_slots_each

    def stop(self, handle: str, *, for_good: bool) -> None:
        """End the launch's jobs: SIGTERM, then SIGKILL. None of them is started again.

        Args:
            for_good: The session is over: its key is deleted too.
        """
        here = _Handle.load(handle)
        if here is None:
            return
        if for_good:
            self._account.delete_key(here.session_id)
        try:
            # A job that was submitted by a client that died before it could say so.
            jobs = [here.job_id or self._find(here), *self._named(f"{here.name}{SUCCESSORS}*")]
        except (*FOREIGN, StarburstError) as error:
            _log.warning("Batch does not list the session's jobs: %s", error)
            return
        for job_id in filter(None, jobs):
            if job_id in self._gone:
                continue
            self._gone.add(job_id)
            self._terminate(job_id, "the session has ended" if for_good else "the session stops its workers")

    def let_go(self, handle: str) -> None:
        """The client of an attached session ends: its workers with it."""
        here = _Handle.load(handle)
        if here is not None and not here.detached:
            self.stop(handle, for_good=True)

    def _terminate(self, job_id: str, reason: str) -> bool:
        """Of an array's id all its children; whether it was done. What fails is logged: such a worker leaves by itself."""
        try:
            self._account.clients.get("batch").terminate_job(jobId=job_id, reason=reason)
        except FOREIGN as error:
            if error_code(error) == "ClientException":
                return True  # it has ended
            level = logging.INFO if ":" in job_id and is_denied(error) else logging.WARNING
            _log.log(level, "a job was not ended, and its worker will leave by itself: %s: %s", job_id, error)
            return False
        return True
