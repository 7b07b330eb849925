"""The common part of the launchers on AWS: the account, and the contents of a container.

    client   Account: stack, clients, quotas, the key's parameter        container()  command, environment, log, roles
    worker   container_bootstrap(): the worker's id, and the session's key, which it reads with its role

Imported only if workers are on AWS, since it imports boto3.
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
from starburst_executor.aws.logs import CONTAINER, STREAM_PREFIX, last_lines
from starburst_executor.aws.metadata import ecs_task_arn
from starburst_executor.aws.parameter import delete_key, parameter_name, put_key, read_key
from starburst_executor.aws.stack.causes import start_advice
from starburst_executor.aws.stack.outputs import Stack, read_stack
from starburst_executor.clock import Backoff, Clock
from starburst_executor.config import AwsSettings
from starburst_executor.errors import ConfigError, LaunchError, QuotaExceeded, StarburstError
from starburst_executor.launch.aws.options import volumes
from starburst_executor.launch.aws.sizes import Size
from starburst_executor.launch.aws.worker_ids import batch_digits, digits_of
from starburst_executor.launch.base import Order
from starburst_executor.launch.bootstrap import Bootstrap, worker_id_of
from starburst_executor.store.url import split_url

__all__ = ["Account", "LastLines", "container_bootstrap", "with_advice", "worker_command", "worker_url"]

_log = logging.getLogger(__name__)

_ENTRY_POINT = ["python", "-m", "starburst_executor.worker"]
# How long a starting worker retries while AWS is busy or unreachable.
_PATIENCE_S, _PAUSES_S = 300.0, (0.5, 20.0)
# The longest time that AWS allows between SIGTERM and SIGKILL; a worker's `grace_s` and last commits fit in.
STOP_TIMEOUT_S = 120
# Log streams of dead workers that are read per poll.
_LOGS_MOST = 3


@dataclass(frozen=True)
class Account:
    """An AWS account with a stack, for the launchers. Thread-safe, except that a cached value may be computed twice.

    Attributes:
        settings: Stack, region and profile.
        image: The image of workers; None for the image that was built for this program's environment.
        role: The role of workers; None for the stack's.
        env: Environment variables of workers, unencrypted.
        secrets: Environment variables by reference: AWS reads the values when a worker starts.
        mounts: EFS file systems by their mount paths in workers.
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
        """Clients that try a few times, not more: the client's beats wait meanwhile."""
        return Clients(self.settings, tries=3)

    @cached_property
    def once(self) -> Clients:
        """Clients that try once, for callers that resolve unclear answers themselves."""
        return Clients(self.settings, tries=1)

    @cached_property
    def pricing(self) -> Pricing:
        """The prices of its machines."""
        return Pricing(self.once)

    @cached_property
    def stack(self) -> Stack:
        """The stack. Raises: LaunchError, ConfigError. CloudFormation: 1 DescribeStacks, once."""
        return read_stack(self.clients)

    @property
    def worker_role_arn(self) -> str:
        """The role of workers and their tasks. Raises: LaunchError, ConfigError."""
        return self.role or self.stack.worker_role_arn

    def image_for(self, arch: str) -> str:
        """Return the image of workers: the given one, or the one that was built for this program.

        Raises: LaunchError: it was not built; ConfigError. ECR: 1 DescribeImages, once, if no image is given.
        """
        if self.image is None and arch not in self._found:
            self._found[arch] = image_uri(self.clients, self.stack, find_environment(), arch)
        return self.image or self._found[arch]

    def put_key(self, order: Order) -> str:
        """Store the session's key for workers; return the parameter's name. Harmless if it exists. Raises: LaunchError."""
        name = self.parameter(split_url(order.url)[1])
        put_key(self.clients, name, order.key, tags=self.stack.all_tags, kms_key=self.stack.kms_key_arn)
        return name

    def parameter(self, session_id: str) -> str:
        return parameter_name(self.stack.parameter_prefix, session_id)

    def delete_key(self, session_id: str) -> None:
        """Delete the session's key, so that none of its workers starts any more. Errors are logged."""
        try:
            delete_key(self.clients, self.parameter(session_id))
        except (LaunchError, ConfigError) as error:
            _log.warning("the session's key could not be deleted; `starburst doctor` lists it: %s", error)

    def fitting(self, kind: str, n_wanted: int, vcpu: float) -> tuple[int, LaunchError | None]:
        """Return how many machines with `vcpu` vCPUs fit into the quota now, at most `n_wanted`, and the reason if fewer.

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
            f"{quota.in_use or 0:g}: {n_wanted} × {vcpu:g} vCPUs do not fit, {n_fit} do, which run the tasks in turn; "
            f"for more: `starburst quota {kind} --request {quota.limit + (n_wanted - n_fit) * vcpu:.0f}`"
        )
        if n_fit < 1:
            raise error
        return n_fit, error

    # --- a container --------------------------------------------------------------------------------------------------

    def log_configuration(self) -> dict[str, Any]:
        """Return the log configuration: the stack's group, without dropping lines.

        By AWS's default since June 2025, lines are dropped silently when CloudWatch is slow. A worker logs little, since
        tasks' output goes to the store, so dropping lines would have no benefit.
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
        """Return the common part of all container definitions on ECS."""
        return {
            "name": CONTAINER,
            "image": image,
            "essential": True,
            "entryPoint": _ENTRY_POINT,
            "stopTimeout": STOP_TIMEOUT_S,
            # The init process reaps the orphaned children of user code.
            "linuxParameters": {"initProcessEnabled": True},
            "logConfiguration": self.log_configuration(),
            **self.given(size, gpus),
        }

    def given(self, size: Size, gpus: int = 0) -> dict[str, Any]:
        """Return the worker's size and the user's variables in the form of both ECS and Batch; secrets by reference only.

        Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/specifying-sensitive-data.html,
        https://docs.aws.amazon.com/batch/latest/userguide/specifying-sensitive-data.html
        """
        env = {**self.env, **config.secret_names(self.secrets), **config.size_environment(size.vcpu, size.mib, gpus)}
        given = {"environment": [{"name": name, "value": value} for name, value in sorted(env.items())]}
        given["secrets"] = [{"name": name, "valueFrom": where} for name, where in sorted(self.secrets.items())]
        given["mountPoints"] = volumes(self.mounts)[1]
        # Empty entries are left out, so that an unchanged definition keeps its name.
        return {name: entries for name, entries in given.items() if entries}

    def volumes(self) -> dict[str, Any]:
        """Return the volumes that the container's `mountPoints` name, for its definition."""
        made, _ = volumes(self.mounts)
        return {"volumes": made} if made else {}

    def command(self, url: str, n_slots: int, platform: str) -> list[str]:
        """Return the worker's arguments."""
        return worker_command(worker_url(url), n_slots, platform)

    def environment(self, session_id: str, launch_id: str) -> list[dict[str, str]]:
        """Return the worker's variables. Contains no secrets: all users who may describe ECS tasks can read it."""
        environment = config.container_environment(
            self.parameter(session_id), launch_id, self.stack.name, self.role, self.stack.topic_arn
        )
        environment["AWS_DEFAULT_REGION"] = self.stack.region
        return [{"name": name, "value": value} for name, value in environment.items()]


class LastLines:
    """Reads the last log lines of a few workers that have died; made for each poll."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._n_left = _LOGS_MOST

    def __call__(self, stream: str) -> str:
        """Return the last lines of a log stream; nothing after a few streams. CloudWatch Logs: 1."""
        if not self._n_left:
            return ""
        self._n_left -= 1
        return last_lines(self._account.clients, self._account.stack, stream)


def with_advice(error: StarburstError) -> StarburstError:
    """Return an error of a launch with advice appended, if there is any."""
    advice = start_advice(str(error))
    return type(error)(f"{error}; {advice}") if advice else error


def worker_command(url: str, n_slots: int, platform: str) -> list[str]:
    """Return the arguments of a worker that ECS or Batch starts."""
    return [url, "--slots", str(n_slots), "--platform", platform]


def worker_url(url: str) -> str:
    """Return a session's URL without the profile, for a machine whose credentials are its role."""
    parts = urlsplit(url)
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "profile"], safe=":/")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))


def container_bootstrap(platform: str, clock: Clock, path: tuple[str, ...]) -> Bootstrap:
    """Return this worker's start record, inside a container. Raises: KeyNotFound, LaunchError, ConfigError. SSM: 1."""
    start = config.container_start()
    if platform == "batch":
        launcher_id, digits = start.job_id, batch_digits(start.job_id, start.attempt)
    else:
        launcher_id = ecs_task_arn(start.metadata_url, clock)
        digits = digits_of(launcher_id.rpartition("/")[2])
    worker_id = worker_id_of(start.launch_id, digits)
    return Bootstrap(key=container_key(start, clock), path=path, worker_id=worker_id, launcher_id=launcher_id)


def container_key(start: config.ContainerStart, clock: Clock) -> str:
    """Read the session's key, inside a container, as 64 hexadecimal digits. Raises: KeyNotFound, LaunchError. SSM: 1.

    Retries temporary errors: a worker that ended because of one would count as unable to start.
    """
    clients, never = Clients(AwsSettings()), Event()
    backoff, deadline = Backoff(clock, *_PAUSES_S), clock.monotonic() + _PATIENCE_S
    while True:
        try:
            return read_key(clients, start.parameter)
        except Passing:
            if clock.monotonic() >= deadline:
                raise
        clock.wait(never, backoff.next_s())
