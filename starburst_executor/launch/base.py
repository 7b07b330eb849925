"""The interface between sessions and the platforms that run their workers.

A launcher starts workers and reports which of them are certainly dead. It stores nothing: the handle, a string in the
manifest, is enough to find its workers again. The protocol does the rest, so a platform needs only a small module.

A remote platform starts workers a few at a time, with pauses. So `start` takes one step and returns when the next is
due; between two steps the client beats and writes the latest handle:

    start(order) ─► handle, more_s=0 ─► start(order, handle) ─► handle, more_s=2.5 ─► … ─► handle, more_s=None

Another client can continue from that handle if the first one dies.

    options ─open()─► launcher ─start(order)─► handle ─► manifest        a plain value; a launcher is of one session
                      launcher ─resume(handle)─► workers ─► deaths, slots, drain, kill, …
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from starburst_executor.clock import Clock
from starburst_executor.errors import LaunchError

__all__ = ["Death", "Launcher", "Options", "Order", "Started", "Workers"]


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


class Workers(Protocol):
    """The workers of one launch, found again by its handle. Called by one thread at a time, and often: on a remote platform
    the questions are answered from the latest poll.
    """

    def deaths(self) -> list[Death]:
        """Return all workers that are certainly dead, on every call; none if the platform does not report deaths."""

    def slots_alive(self) -> int:
        """Return the total number of slots of the workers that may be alive or are still starting."""

    def interruptions(self) -> int:
        """Return how many of their machines were or are being reclaimed by the platform."""

    def expected(self) -> list[str]:
        """Return the ids of the workers that the platform has started or is starting, all of which should beat.

        The list is empty if `give_up` can stop no single worker.
        """

    def describe(self) -> str:
        """Return the platform's report about workers that have not beaten yet; empty if there is none."""

    def give_up(self, worker_id: str, words: str) -> bool:
        """Stop a single worker that never beat; return whether it was stopped. It no longer counts as alive, and `deaths`
        returns it with `words` in its reason.
        """

    def shed(self, n_slots: int) -> int:
        """Drain some of them, with about `n_slots` slots in total; return the number of slots that will end."""

    def drained(self) -> Collection[str]:
        """Return the ids of those that `shed` or `drain` has asked to leave through this launcher and that may still be alive.

        Assumes: a platform that returns none, as it cannot tell ids, sheds no more than the surplus, so that others stay.
        """

    def drain(self) -> None:
        """Ask them to release their tasks and leave, by SIGTERM."""

    def kill(self) -> None:
        """End them without regard to their tasks. Return when they have ended or certainly will."""

    def end_session(self) -> None:
        """Kill them, since their session is over. Afterwards no worker of the session starts any more, in a handle or not.

        Deletes what the platform stores for starting workers, such as the session's key.
        """

    def let_go(self) -> None:
        """Release them as the client ends: workers bound to it end too, detached ones continue."""

    def forget(self) -> None:
        """Remove what is stored of the workers of a deleted session, such as log files."""


class Launcher(Protocol):
    """Starts workers on one platform, and finds them again. Called by one thread at a time."""

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

    def resume(self, handle: str) -> Workers:
        """Return the workers of a launch by its handle; no workers if the handle is malformed. Makes no request."""


class Options(Protocol):
    """The options of a launcher: a plain value, checked when it is made. Thread-safe; any number of sessions may use it."""

    def open(self, clock: Clock | None = None) -> Launcher:
        """Return a launcher with these options, for one session. Makes no request and starts nothing."""
