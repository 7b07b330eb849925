"""The `launcher` argument of an executor: a spec or options, opened once, since its account is asked about the store too."""

from __future__ import annotations

from starburst_executor.client.opening import is_embedded
from starburst_executor.clock import Clock
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.on_aws import AwsLauncher
from starburst_executor.launch.base import Launcher, Options
from starburst_executor.launch.open import open_launcher

__all__ = ["GivenLauncher"]


class GivenLauncher:
    """What a user has given as `launcher`.

    Args:
        given: A spec, options, or None for the setting.
        detached: Whether the session is detached, which selects the launcher for "aws".
    """

    def __init__(self, given: str | Options | None, clock: Clock, *, detached: bool) -> None:
        self._given = given
        self._clock = clock
        self._detached = detached
        self._opened: dict[str, Launcher | None] = {}

    @property
    def spec(self) -> str | None:
        """The spec that was given; None if it was options, or nothing."""
        return self._given if isinstance(self._given, str) else None

    def open(self, spec: str | None = None) -> Launcher | None:
        """Return the launcher; None for "none". Raises: ConfigError. A second call returns the same launcher.

        Args:
            spec: The setting, for a user who gave nothing; None to open only what was given.
        """
        spec = spec or self.spec or "none"
        options = None if isinstance(self._given, str) else self._given
        key = spec if options is None else ""
        if key not in self._opened:
            if options is None:
                self._opened[key] = open_launcher(spec, self._clock, detached=self._detached)
            else:
                self._opened[key] = options.open(self._clock)
        return self._opened[key]

    def store_of(self, spec: str) -> str | None:
        """Return the default store of the launcher: on AWS the stack's bucket. Raises: LaunchError, ConfigError."""
        launcher: object = self.open(spec)
        return launcher.store_url if isinstance(launcher, AwsLauncher) else None

    def open_for(self, spec: str, store: str) -> Launcher | None:
        """As `open`. Raises: ConfigError also if its workers cannot reach the store."""
        launcher = self.open(spec)
        on_aws: object = launcher
        if isinstance(on_aws, AwsLauncher) and is_embedded(store):
            raise ConfigError(
                f"launcher={on_aws.name!r}, store={store!r}: workers on AWS cannot reach a store on this machine; name an "
                "s3:// store, or none to have the stack's"
            )
        return launcher
