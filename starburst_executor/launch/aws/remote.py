"""What launchers on AWS have in common: the account they work in, and what they tell a container.

    client   Account: stack, clients, quotas, the key's parameter        container()  command, environment, log, roles
    worker   engine_bootstrap(): the same from the other side: its id, and the key, read with its role

Loaded only where workers are on AWS: it loads boto3.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from starburst_executor import config
from starburst_executor.aws.billing.pricing import Pricing
from starburst_executor.aws.billing.quotas import KINDS, read_quota
from starburst_executor.aws.clients import Clients, Passing
from starburst_executor.aws.image.environment import find_environment
from starburst_executor.aws.image.images import image_uri
from starburst_executor.aws.logs import CONTAINER, STREAM_PREFIX
from starburst_executor.aws.metadata import ecs_task_id
from starburst_executor.aws.parameter import delete_key, parameter_name, put_key, read_key
from starburst_executor.aws.stack.causes import start_advice
from starburst_executor.aws.stack.outputs import Stack, read_stack
from starburst_executor.clock import Backoff, Clock
from starburst_executor.config import AwsSettings
from starburst_executor.errors import ConfigError, LaunchError, QuotaExceeded, StarburstError
from starburst_executor.launch.aws.options import volumes
from starburst_executor.launch.aws.sizes import Size
from starburst_executor.launch.base import Order
from starburst_executor.launch.bootstrap import Bootstrap, worker_id_of
from starburst_executor.store.url import split_url

__all__ = ["Account", "batch_digits", "digits_of", "engine_bootstrap", "with_advice", "worker_command", "worker_url"]

_log = logging.getLogger(__name__)

_ENTRY_POINT = ["python", "-m", "starburst_executor.worker"]
# How long a worker waits at its start for an AWS that is too busy, or away.
_PATIENCE_S, _PAUSES_S = 300.0, (0.5, 20.0)
# So many of an ECS task's digits tell it apart: 64 bits, as many as all our ids have.
DIGITS = 16
# What AWS gives between SIGTERM and SIGKILL at most; a worker's `grace_s` and its last commits fit in.
STOP_TIMEOUT_S = 120


@dataclass(frozen=True)
class Account:
    """An AWS account with a stack in it, as its launchers need it. Thread-safe but for what is cached twice.

    Attributes:
        settings: Which stack, region, profile.
        image: What workers run; None for the one that was built for this program's environment.
        role: Workers' role; None for the stack's.
        env: Workers' environment variables, in clear.
        secrets: The same by reference: AWS fetches the values as a worker starts.
        mounts: File systems of EFS, by the paths that workers see them at.
    """

    settings: AwsSettings
    image: str | None = None
    role: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    _found: dict[str, str] = field(default_factory=dict)

    @cached_property
    def clients(self) -> Clients:
        """For what may as well be tried a few times: a client's beats wait meanwhile."""
        return Clients(self.settings, tries=3)

    @cached_property
    def once(self) -> Clients:
        """For what is to be tried once: what an unclear answer means is decided here."""
        return Clients(self.settings, tries=1)

    @cached_property
    def pricing(self) -> Pricing:
        """What its machines cost."""
        return Pricing(self.once)

    @cached_property
    def stack(self) -> Stack:
        """Raises: LaunchError, ConfigError. CloudFormation: 1 DescribeStacks, once."""
        return read_stack(self.clients)

    @property
    def worker_role_arn(self) -> str:
        """What workers may do, and the tasks in them. Raises: LaunchError, ConfigError."""
        return self.role or self.stack.worker_role_arn

    def image_for(self, arch: str) -> str:
        """The image of workers: the one that is named, else the one that was built for this program.

        Raises: LaunchError: it was not built; ConfigError. ECR: 1 DescribeImages, once, if it is not named.
        """
        if self.image is None and arch not in self._found:
            self._found[arch] = image_uri(self.clients, self.stack, find_environment(), arch)
        return self.image or self._found[arch]

    def put_key(self, order: Order) -> str:
        """Store the session's key for workers; the parameter's name. Harmless if it is there. Raises: LaunchError."""
        name = self.parameter(split_url(order.url)[1])
        put_key(self.clients, name, order.key, tags=self.stack.all_tags, kms_key=self.stack.kms_key_arn)
        return name

    def parameter(self, session_id: str) -> str:
        return parameter_name(self.stack.parameter_prefix, session_id)

    def delete_key(self, session_id: str) -> None:
        """Delete it: no worker of this session starts any more. What fails is logged."""
        try:
            delete_key(self.clients, self.parameter(session_id))
        except (LaunchError, ConfigError) as error:
            _log.warning("the session's key was not deleted; `starburst doctor` names it: %s", error)

    def fitting(self, kind: str, n_wanted: int, vcpu: float) -> tuple[int, LaunchError | None]:
        """How many machines of so many vCPUs the quota of that kind has room for now, at most `n_wanted`, and why fewer.

        Raises: QuotaExceeded if not even one fits.
        """
        quota = read_quota(self.clients, KINDS[kind])
        if quota is None:
            return n_wanted, None
        n_fit = min(n_wanted, int(quota.room / vcpu))
        if n_fit == n_wanted:
            return n_wanted, None
        error = QuotaExceeded(
            f"the account may run {quota.limit:g} vCPUs of {quota.name!r} in {self.clients.region} and uses "
            f"{quota.in_use or 0:g}: {n_wanted} × {vcpu:g} vCPUs do not fit, {n_fit} do; tasks are run by those in turn; "
            f"for more: `starburst quota {kind} --request {quota.limit + (n_wanted - n_fit) * vcpu:.0f}`"
        )
        if n_fit < 1:
            raise error
        return n_fit, error

    # --- a container --------------------------------------------------------------------------------------------------

    def log_configuration(self) -> dict[str, Any]:
        """Logs go to the stack's group, each line of them.

        Otherwise lines are dropped in silence when CloudWatch is slow: that is AWS's own default since June 2025. A worker
        writes little here, tasks' output goes to the store, so there is nothing to be gained by dropping.
        Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using_awslogs.html
        """
        options = {
            "awslogs-group": self.stack.log_group,
            "awslogs-region": self.stack.region,
            "awslogs-stream-prefix": STREAM_PREFIX,
            "mode": "blocking",
        }
        return {"logDriver": "awslogs", "options": options}

    def container(self, image: str, size: Size, gpus: int = 0) -> dict[str, Any]:
        """What is the same in the container definitions of every engine of ECS."""
        return {
            "name": CONTAINER,
            "image": image,
            "essential": True,
            "entryPoint": _ENTRY_POINT,
            "stopTimeout": STOP_TIMEOUT_S,
            # Somebody has to collect the children that user code leaves behind.
            "linuxParameters": {"initProcessEnabled": True},
            "logConfiguration": self.log_configuration(),
            **self.given(size, gpus),
        }

    def given(self, size: Size, gpus: int = 0) -> dict[str, Any]:
        """The worker's size, and the user's own variables, as definitions of ECS and of Batch both have them: secrets by reference only.

        Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/specifying-sensitive-data.html,
        https://docs.aws.amazon.com/batch/latest/userguide/specifying-sensitive-data.html
        """
        env = {**self.env, **config.secret_names(self.secrets), **config.size_environment(size.vcpu, size.mib, gpus)}
        given = {"environment": [{"name": name, "value": value} for name, value in sorted(env.items())]}
        given["secrets"] = [{"name": name, "valueFrom": where} for name, where in sorted(self.secrets.items())]
        given["mountPoints"] = volumes(self.mounts)[1]
        # What was not asked for is left out: a definition that has not changed keeps its name.
        return {name: entries for name, entries in given.items() if entries}

    def volumes(self) -> dict[str, Any]:
        """What `mountPoints` of the container name, for its definition."""
        made, _ = volumes(self.mounts)
        return {"volumes": made} if made else {}

    def command(self, url: str, n_slots: int, engine: str) -> list[str]:
        """The worker's arguments."""
        return worker_command(worker_url(url), n_slots, engine)

    def environment(self, session_id: str, launch_id: str) -> list[dict[str, str]]:
        """Nothing secret: whoever may describe an ECS task reads it."""
        told = config.engine_environment(self.parameter(session_id), launch_id, self.stack.name, self.role)
        told["AWS_DEFAULT_REGION"] = self.stack.region
        return [{"name": name, "value": value} for name, value in told.items()]


def with_advice(error: StarburstError) -> StarburstError:
    """An error of starting workers, with what to do about it where that is known."""
    told = start_advice(str(error))
    return type(error)(f"{error}; {told}") if told else error


def worker_command(url: str, n_slots: int, engine: str) -> list[str]:
    """The arguments of a worker that an engine starts."""
    return [url, "--slots", str(n_slots), "--engine", engine]


def worker_url(url: str) -> str:
    """A session's URL for a machine that has no profiles: its role is its credentials."""
    parts = urlsplit(url)
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "profile"], safe=":/")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))


def engine_bootstrap(engine: str, clock: Clock, path: tuple[str, ...]) -> Bootstrap:
    """In a container: this worker's id, and the key. Raises: KeyNotFound, LaunchError, ConfigError. SSM: 1."""
    told = config.engine_start()
    if engine == "batch":
        digits = batch_digits(told.job_id, told.attempt)
    else:
        digits = digits_of(ecs_task_id(told.metadata_url, clock))
    key = _key(told.parameter, clock)
    return Bootstrap(key=key, path=path, worker_id=worker_id_of(told.launch_id, digits))


def _key(parameter: str, clock: Clock) -> str:
    """The key; what passes is waited for, since a worker that ends for it would count as one that cannot start."""
    clients, never = Clients(AwsSettings()), Event()
    backoff, deadline = Backoff(clock, *_PAUSES_S), clock.monotonic() + _PATIENCE_S
    while True:
        try:
            return read_key(clients, parameter)
        except Passing:
            if clock.monotonic() >= deadline:
                raise
        clock.wait(never, backoff.next_s())


def digits_of(task_id: str) -> str:
    """What a worker's id says of an ECS task. Its id is opaque to us: older accounts have hyphens in it.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-account-settings.html#ecs-resource-ids
    """
    return "".join(filter(str.isalnum, task_id))[:DIGITS]


def batch_digits(job_id: str, attempt: int) -> str:
    """What a worker's id says of a job of Batch: eight digits of the job, the child's index, the attempt."""
    job, _, index = job_id.partition(":")
    return f"{job[:8]}{int(index or 0):04x}{attempt:02x}"
