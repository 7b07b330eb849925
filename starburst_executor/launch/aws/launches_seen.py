"""The state of launches on AWS between two polls: bounded, since a client may live for weeks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from starburst_executor.clock import Clock

__all__ = ["POLL_S", "LaunchState", "LaunchesSeen"]

# The interval between polls, whose answers are some seconds old in any case.
POLL_S = 15.0
# A client asks about each launch in the manifest many times a minute. One that it has not asked about for this long is no
# longer in the manifest; if a client asks again, the next poll answers, since AWS describes what has stopped for longer.
_FORGOTTEN_S = 1800.0


class LaunchState(Protocol):
    """The state of one launch.

    Attributes:
        next_poll_at: The time of the next poll.
        asked_at: The time of the last question about it.
    """

    next_poll_at: float
    asked_at: float


_S = TypeVar("_S", bound=LaunchState)


class LaunchesSeen(Generic[_S]):
    """The states of launches by their ids.

    Guarantee: holds only launches that were asked about within half an hour before the last new launch.
    """

    def __init__(self, clock: Clock, make: Callable[[], _S]) -> None:
        self._clock = clock
        self._make = make
        self._states: dict[str, _S] = {}

    def of(self, launch_id: str) -> _S:
        """Return the state of a launch, a new one if it is not known."""
        now = self._clock.monotonic()
        state = self._states.get(launch_id)
        if state is None:
            self._states = {name: state for name, state in self._states.items() if now - state.asked_at < _FORGOTTEN_S}
            state = self._states[launch_id] = self._make()
        state.asked_at = now
        return state

    def is_due(self, state: _S) -> bool:
        """Whether a poll is due now; the next one is due after the interval."""
        now = self._clock.monotonic()
        if now < state.next_poll_at:
            return False
        self.postpone(state)
        return True

    def postpone(self, state: _S) -> None:
        """Let the next poll be due one interval from now."""
        state.next_poll_at = self._clock.monotonic() + POLL_S

    def __iter__(self) -> Iterator[_S]:
        return iter(self._states.values())
