"""The interface between sessions and the platforms that run their workers.

A launcher starts workers and reports which of them are certainly dead. It stores nothing: the handle, a string in the
manifest, is enough to find its workers again. The protocol does the rest, so a platform needs only a small module.

A remote platform starts workers a few at a time, with pauses. So `start` takes one step and returns when the next is
due; between two steps the client beats and writes the latest handle:

    start(order) ─► handle, more_s=0 ─► start(order, handle) ─► handle, more_s=2.5 ─► … ─► handle, more_s=None

Another client can continue from that handle if the first one dies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from starburst_executor.errors import LaunchError

__all__ = ["CountsInterruptions", "Death", "Launcher", "Order", "Started", "StopsOne"]


@dataclass(frozen=True, slots=True)
class Order:
    """A request to start workers.

    Attributes:
        launch_id: The id of the launch, the same in all its steps and for every client: eleven digits of time, then random ones.
        url: The session's URL.
        key: The session's key in hexadecimal.
        n_slots: The total number of slots of the workers.
        detached: Whether the workers outlive the client and its terminal.
        n_taken: The number of the session's workers that the platform has reclaimed so far.
    """

    launch_id: str
    url: str
    key: str
    n_slots: int
    detached: bool
    n_taken: int = 0

    def __repr__(self) -> str:
        return f"Order({self.launch_id!r}, url={self.url!r}, n_slots={self.n_slots}, detached={self.detached})"


@dataclass(frozen=True, slots=True)
class Started:
    """The state of a launch after a step.

    Attributes:
        handle: Names every worker started so far, and how to continue.
        n_slots: The total number of slots of these workers.
        more_s: Seconds until the next step is due; None if this was the last step, whether or not all workers were started.
        error: Why fewer workers than requested were started, or why the launch takes long.
    """

    handle: str
    n_slots: int
    more_s: float | None = None
    error: LaunchError | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that is certainly dead.

    Attributes:
        words: The platform's reason, or the worker's last line of output.
        was_taken: The platform reclaimed its machine, or had none for it: the worker is not at fault, and a replacement
            started at once would probably be lost too.
        was_killed: A signal ended it, or there is no sign that it ended by itself: a replacement may succeed.
    """

    worker_id: str
    words: str
    was_taken: bool = False
    was_killed: bool = False


@runtime_checkable
class CountsInterruptions(Protocol):
    """A launcher whose platform reclaims machines and reports it."""

    def interruptions(self, handle: str) -> int:
        """Return how many of its workers' machines were or are being reclaimed, as of the latest poll."""


class Launcher(Protocol):
    """Starts workers on one platform. Called by one thread at a time, and often: a launcher for a remote platform answers
    `deaths` and `slots_alive` from its latest poll.
    """

    @property
    def name(self) -> str:
        """The launcher's kind, which the manifest stores beside its handles: `local`."""

    @property
    def spec(self) -> str:
        """Name and options, from which another client makes the same launcher: `local?agents=2`."""

    @property
    def launch_s(self) -> float:
        """The default limit, in seconds, for the time until its first worker beats."""

    @property
    def keeps_trying(self) -> bool:
        """Whether the platform itself queues workers for which it has no capacity yet, even with no client attached."""

    def check(self, n_slots: int) -> None:
        """Refuse, before anything is started, a number of slots that it could never run. Raises: ConfigError."""

    def usd_per_hour(self, n_slots: int) -> float | None:
        """Estimate the cost per hour of workers with `n_slots` slots, in dollars; None if unknown."""

    def start(self, order: Order, handle: str = "") -> Started:
        """Start workers, or the next few of them: one step.

        Args:
            handle: The handle that the previous step returned; empty for the first step.
        Raises:
            LaunchError, ConfigError: no more workers can be started, and a retry would not help.
        """

    def deaths(self, handle: str) -> list[Death]:
        """Return all of its workers that are certainly dead, on every call; none if the platform cannot tell."""

    def slots_alive(self, handle: str) -> int:
        """Return the total number of slots of its workers that may be alive or are still starting."""

    def describe(self, handle: str) -> str:
        """Return what the platform reports about workers that have not beaten yet; empty if it reports nothing."""

    def shed(self, handle: str, n_slots: int) -> int:
        """Drain workers with about `n_slots` slots in total; return the number of slots that will end."""

    def stop(self, handle: str, *, at_once: bool) -> None:
        """Stop exactly these workers: by SIGTERM, or at once. Return when they have ended or certainly will."""

    def forget(self, handle: str) -> None:
        """Remove what is stored of the workers of a deleted session, such as log files."""

    def let_go(self, handle: str) -> None:
        """Release the workers as the client ends: workers bound to it end too, detached ones continue."""


@runtime_checkable
class StopsOne(Protocol):
    """The additional methods of a launcher that can stop a single worker. Called as `Launcher` is."""

    def expected(self, handle: str) -> list[str]:
        """Return the ids of the workers that the platform has started or is starting, all of which should beat."""

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        """Stop a worker that never beat; return whether it was stopped. It no longer counts as alive, and `deaths` returns
        it with `words` in its reason.
        """
