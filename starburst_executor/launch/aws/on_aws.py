"""The common part of all launchers on AWS: the options of every worker, and the launcher's account, store and logs.

`OnAws` is the plain value, which is checked before boto3 is loaded; `AwsLauncher` is made from it for one session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

from starburst_executor import config
from starburst_executor.clock import Clock
from starburst_executor.launch.aws.options import check_env, check_mounts, check_role, check_secrets, check_slots
from starburst_executor.launch.base import Launcher

if TYPE_CHECKING:
    from starburst_executor.aws.logs import Event
    from starburst_executor.launch.aws.remote import Account

__all__ = ["AwsLauncher", "OnAws"]


@dataclass(frozen=True, kw_only=True)
class OnAws(ABC):
    """The options of every launcher on AWS: the stack to use, and the contents of its workers.

    Attributes:
        slots: The number of tasks that each worker runs at once; by default one per vCPU.
        image: The container image of workers, with this library, this version of Python, and for Batch the worker as its
            entry point, as `starburst image` builds them. By default the image that was built for the session's packages.
        stack: The stack's name; by default, as for region and profile, the one that `starburst setup` saved.
        region: The stack's region.
        profile: A profile of the AWS config files.
        role: The ARN of a role for workers and their tasks, instead of the stack's. It needs the policy in the output
            `WorkerPolicyArn`, and `starburst setup --pass-role ARN` allows users to pass it.
        env: Environment variables of workers and their tasks. The task definition and the session store them unencrypted.
        secrets: Environment variables whose values AWS reads from Secrets Manager or SSM when a worker starts: ARNs, or
            names of parameters. The values appear in no task definition, session or log;
            `starburst setup --secret ARN` allows the stack's workers to read one.
        mounts: EFS file systems by mount path: `fs-…`, `fs-…:/folder` or `fs-…/fsap-…`. Their security groups must allow
            the stack's security group on port 2049.
    """

    slots: int | None = None
    image: str | None = None
    stack: str | None = None
    region: str | None = None
    profile: str | None = None
    role: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    secrets: Mapping[str, str] = field(default_factory=dict, hash=False)
    mounts: Mapping[str, str] = field(default_factory=dict, hash=False)

    name: ClassVar[str]
    launch_s: ClassVar[float]
    keeps_trying: ClassVar[bool]

    def _check_common(self) -> None:
        check_slots(self.slots)
        check_role(self.role)
        check_env(self.env)
        check_secrets(self.secrets, self.env)
        check_mounts(self.mounts)

    @abstractmethod
    def open(self, clock: Clock | None = None) -> Launcher:
        """Return a launcher for one session. Makes no request."""

    @abstractmethod
    def own_options(self) -> dict[str, object]:
        """Return the options besides the common ones, for the spec; None or False for one that has its default."""

    @property
    def spec(self) -> str:
        """The launcher as text, which `launcher=` also accepts. ECR: 1, if no image is given. Raises: LaunchError, ConfigError."""
        return self.open().spec


class AwsLauncher(ABC):
    """The common part of launchers on AWS. Called by one thread at a time.

    Attributes:
        options: What the user has chosen.
    """

    def __init__(self, options: OnAws) -> None:
        self.options = options

    @property
    def name(self) -> str:
        return self.options.name

    @property
    def launch_s(self) -> float:
        return self.options.launch_s

    @property
    def keeps_trying(self) -> bool:
        return self.options.keeps_trying

    @cached_property
    def account(self) -> Account:
        """The account, resolved on first use."""
        from starburst_executor.launch.aws.remote import Account

        options = self.options
        settings = config.resolve_aws(stack=options.stack, region=options.region, profile=options.profile)
        return Account(
            settings, options.image, role=options.role, env=options.env, secrets=options.secrets, mounts=options.mounts
        )

    @property
    @abstractmethod
    def _image_arch(self) -> str:
        """The architecture of the workers' image."""

    @property
    def spec(self) -> str:
        """The options that differ from the defaults, the stack, and the image, which another client could not derive from its
        own folder. Without the profile, which exists on this machine only. Raises: LaunchError, ConfigError.
        """
        account, options = self.account, self.options
        given = {**options.own_options(), "slots": options.slots, "image": account.image_for(self._image_arch)}
        given |= {"stack": account.settings.stack, "region": account.clients.region, "role": options.role}
        for option, entries in (("env", options.env), ("secrets", options.secrets), ("mounts", options.mounts)):
            given |= {f"{option}.{name}": value for name, value in entries.items()}
        texts = {key: _as_text(value) for key, value in given.items() if value not in (None, False)}
        return f"{self.name}?{urlencode(texts, safe=':/@')}"

    @property
    def store_url(self) -> str:
        """The URL of the default store, the stack's bucket. Raises: LaunchError, ConfigError. CloudFormation: 1, once."""
        return self.account.stack.store_url(self.account.settings.profile)

    @abstractmethod
    def log_streams(self, handles: Iterable[str], worker_ids: Iterable[str]) -> dict[str, str]:
        """Return the workers of `handles`, and `worker_ids`, by the name or name prefix of their CloudWatch log stream."""

    def log_events(self, prefix: str, since: float) -> Iterator[Event]:
        """Yield the events of all streams with this name prefix. Raises: LaunchError, ConfigError."""
        from starburst_executor.aws.logs import events

        return events(self.account.clients, self.account.stack, prefix, since)


def _as_text(value: object) -> str:
    return "1" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
