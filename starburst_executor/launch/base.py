"""The seam between sessions and the engines that run their workers.

A launcher starts workers and says which of them are certainly dead. It keeps nothing: what is needed to find its
workers again is the handle, a string that is stored in the manifest. The protocol does the rest, so an engine is one
small file here.

An engine far away starts workers a few at a time, with pauses. So `start` takes one step and says when the next is due;
between two steps the client beats, and writes the handle as far as it has come:

    start(order) ─► handle, more_s=0 ─► start(order, handle) ─► handle, more_s=2.5 ─► … ─► handle, more_s=None

Another client can go on from there if the first one dies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from starburst_executor.errors import LaunchError

__all__ = ["CountsInterruptions", "Death", "Launcher", "Order", "Started", "StopsOne"]


@dataclass(frozen=True, slots=True)
class Order:
    """Workers to be started.

    Attributes:
        launch_id: The same in each step of one launch, whoever takes it: eleven digits of time, then chance.
        url: The session's.
        key: The session's key in hexadecimal.
        n_slots: How many tasks at once, over all workers of the order.
        detached: Whether they outlive the client, and its terminal.
        n_taken: How many workers of the session its engine has taken back by now.
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
    """How far a launch has come.

    Attributes:
        handle: Names every worker started so far, and how to go on.
        n_slots: How many tasks at once these workers run.
        more_s: After so many seconds the next step is due; None: there is none, whether or not all were started.
        error: Why they are fewer than asked for, or why it takes so long.
    """

    handle: str
    n_slots: int
    more_s: float | None = None
    error: LaunchError | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that is certainly dead.

    Attributes:
        words: What its engine or its last line of output says of that.
        was_taken: The engine took its machine back, or had none for it: nothing is wrong with the worker, and another
            one started at once would most likely fare the same.
        was_killed: A signal ended it, or nothing says that it ended by itself: the next one may fare better.
    """

    worker_id: str
    words: str
    was_taken: bool = False
    was_killed: bool = False


@runtime_checkable
class CountsInterruptions(Protocol):
    """A launcher whose engine takes machines back, and says so."""

    def interruptions(self, handle: str) -> int:
        """How many of its workers' machines were taken back, or are being, as far as was asked lately."""


class Launcher(Protocol):
    """Starts workers of one engine. Called by one thread at a time; called often, so that an engine far away answers
    `deaths` and `slots_alive` from what it has asked lately.
    """

    @property
    def name(self) -> str:
        """Whose handles it understands, as it stands in the manifest: `local`."""

    @property
    def spec(self) -> str:
        """What makes the same launcher in another client: its name and its options, `local?agents=2`."""

    @property
    def launch_s(self) -> float:
        """How long at most its first worker takes to be heard of, unless the user says otherwise."""

    @property
    def keeps_trying(self) -> bool:
        """Whether the engine itself starts workers that it has no room for now, with no client there to ask again."""

    def check(self, n_slots: int) -> None:
        """Refuse, before anything is started, a number of slots that it could never run. Raises: ConfigError."""

    def usd_per_hour(self, n_slots: int) -> float | None:
        """What workers with so many slots cost an hour, in dollars: an estimate. None: nothing that is known."""

    def start(self, order: Order, handle: str = "") -> Started:
        """Start workers, or the next few of them: one step.

        Args:
            handle: As the step before gave it; empty for the first one.
        Raises:
            LaunchError, ConfigError: no more can be started, and trying again would not help.
        """

    def deaths(self, handle: str) -> list[Death]:
        """Those of its workers that are certainly dead, each time all of them. An engine that cannot tell says none."""

    def slots_alive(self, handle: str) -> int:
        """How many tasks at once those of its workers run that may be alive, or are on their way."""

    def describe(self, handle: str) -> str:
        """What the engine says of workers that have not been heard of; empty if it says nothing."""

    def shed(self, handle: str, n_slots: int) -> int:
        """Drain workers until about so many slots fewer are there; how many will go."""

    def stop(self, handle: str, *, at_once: bool) -> None:
        """Stop exactly these workers: by SIGTERM, or at once. Returns when they are gone or certainly will be."""

    def forget(self, handle: str) -> None:
        """The session was deleted: remove what is kept of its workers, such as log files."""

    def let_go(self, handle: str) -> None:
        """The client ends: workers bound to it end too, detached ones go on."""


@runtime_checkable
class StopsOne(Protocol):
    """What a launcher has beside that can stop one worker alone. Called as `Launcher` is."""

    def expected(self, handle: str) -> list[str]:
        """The ids of those of its workers that the engine has started, or is about to: each is to beat."""

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        """Stop a worker that never beat; whether it was done. It counts as alive no more, and `deaths` names it, with these
        words among its own.
        """
