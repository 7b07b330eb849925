"""The launch that one client is working on: from the intent in the manifest to its last step.

    intent in the manifest ─► step ─► handle in the manifest ─► step ─► … ─► settled

Before it starts workers, a client swaps an intent into the manifest, so that two clients do not both start them. The
intent names its client. Another client takes an abandoned intent over: it drops it if nothing was started, and finishes
it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from starburst_executor.client.handles import sealed_handle
from starburst_executor.client.launches import Launches
from starburst_executor.client.money import hourly_usd
from starburst_executor.errors import BudgetExceeded, ConfigError, LaunchError
from starburst_executor.launch.base import Launcher, Order
from starburst_executor.launch.bootstrap import new_launch_id
from starburst_executor.protocol.money import settled, without
from starburst_executor.protocol.records import Launch, Manifest, SessionState
from starburst_executor.session.store import SessionStore

__all__ = ["Launching", "Stepped"]

# How often a client renews its intent while no step is due.
_RENEW_S = 5.0


@dataclass(slots=True)
class _Going:
    """The launch that this client is working on.

    Attributes:
        launch: Its record, as last written to the manifest.
        next_at: When its next step is due.
        taken_s: The time since it was begun, without the time that writing to the store took.
    """

    launch: Launch
    next_at: float
    renewed_at: float
    counted_at: float
    taken_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step has reached.

    Attributes:
        n_asked: The number of slots that the launch is to start.
        n_started: The number of slots that were started; 0 if the launcher refuses further steps.
        is_over: Whether no step follows.
        error: Why fewer workers than requested were started, or why the launch takes long.
    """

    n_asked: int
    n_started: int
    is_over: bool
    error: Exception | None


class Launching:
    """Begins, steps and hands over at most one launch at a time. Not thread-safe.

    Args:
        order: Returns the order for a launch's id and a number of slots.
        introduce: Writes this client's first beat, before an intent names it.
        expect: Expects new workers to beat; called once an intent is in the manifest.
    """

    def __init__(
        self,
        session: SessionStore,
        launcher: Launcher,
        launches: Launches,
        client_id: str,
        *,
        order: Callable[[str, int], Order],
        introduce: Callable[[], None],
        expect: Callable[[], None],
    ) -> None:
        self._session = session
        self._launcher = launcher
        self._launches = launches
        self._client_id = client_id
        self._order = order
        self._introduce = introduce
        self._expect = expect
        self._clock = session.clock
        self._launch_s = session.manifest.current.timings.launch_s
        self._going: _Going | None = None

    @property
    def is_going(self) -> bool:
        """Whether this client has a launch to finish."""
        return self._going is not None

    def begin(self) -> bool:
        """Swap in an intent for the missing workers, or take over an abandoned one; return whether there is a launch to step.

        Raises: BudgetExceeded: further workers would exceed `max_hourly_cost`.
        Store: 1 swap; see `Launches.beats_of_paid`.
        """
        at, launch_id = self._clock.now(), new_launch_id(self._clock)
        self._introduce()
        intents: list[Launch] = []
        refusals: list[BudgetExceeded] = []
        beats = self._launches.beats_of_paid()

        def intend(current: Manifest) -> Manifest | None:
            # The client whose swap lands first starts them; the other one finds none missing.
            launches = self._launches
            missing = current.slots - launches.n_slots_alive(current)
            if current.state != SessionState.OPEN or missing <= 0 or launches.has_unseen_deaths(current):
                return None
            current = launches.counted(current)
            abandoned = filter(launches.is_abandoned, current.launches)
            left = next((launch for launch in abandoned if launches.handle_of(launch)), None)
            over = [launch for launch in current.launches if launch != left and not launches.slots_of(launch)]
            kept = without(current, over, at, beats)
            rate = hourly_usd(self._launcher, missing) or 0.0
            if left is None:
                refusals[:] = filter(None, [self._too_dear(kept, rate)])
            if refusals:
                return None
            intents[:] = [
                Launch(
                    launch_id,
                    self._launcher.name,
                    missing,
                    "",
                    at,
                    since=at,
                    usd_per_hour=rate,
                    client=self._client_id,
                )
                if left is None
                else replace(left, at=at, client=self._client_id)
            ]
            return replace(kept, launches=(*(launch for launch in kept.launches if launch != left), *intents))

        # Crash here: an intent without a handle remains. Once its client is known to be gone it no longer counts, and the
        # next client starts a new launch.
        changed = self._session.manifest.change(intend)
        if refusals:
            raise refusals[0]
        if not set(changed.launches).intersection(intents):
            return False
        # Before the launch's time counts: it may take a store request.
        self._expect()
        now = self._clock.monotonic()
        self._set(_Going(intents[0], now, now, now))
        return True

    def step(self) -> Stepped | None:
        """Do the next step, or renew the intent; return None if no step is due.

        Store: 1 swap for each step, 1 every five seconds between two steps.
        """
        going = self._going
        if going is None:
            return None
        now = self._count_time(going)
        if now < going.next_at:
            if now >= going.renewed_at + _RENEW_S:
                self._write(going, replace(going.launch, at=self._clock.now()))
            return None
        launch = going.launch
        try:
            order = self._order(launch.launch_id, launch.slots)
            started = self._launcher.start(order, self._launches.handle_of(launch))
        except (LaunchError, ConfigError, OSError) as error:
            self._set(None)
            # A launch that cannot continue is removed if nothing was started, else settled with what was.
            self._replace(launch, [settled(launch, launch.started)] if launch.handle else [])
            return Stepped(launch.slots, 0, True, error)
        self._count_time(going)
        is_over = started.more_s is None or going.taken_s > self._launch_s
        handle, at = sealed_handle(self._session.sealer, launch, started.handle), self._clock.now()
        since = launch.since if launch.started else at
        changed = replace(launch, handle=handle, at=at, started=started.n_slots, since=since)
        # Crash here: workers run that no handle names. The client that takes the launch over requests the same workers from
        # the platform again; where the platform cannot recognize them, they are known by their beats and leave when idle.
        self._write(going, settled(changed, started.n_slots) if is_over else changed)
        going.next_at = self._clock.monotonic() + (started.more_s or 0.0)
        if is_over:
            self._set(None)
        return Stepped(launch.slots, started.n_slots, is_over, started.error)

    def hand_over(self) -> None:
        """Release the unfinished launch, so that other clients can finish it at once. Store: 1 swap if there is one."""
        if (going := self._going) is not None:
            self._set(None)
            is_begun = bool(self._launches.handle_of(going.launch))
            self._replace(going.launch, [replace(going.launch, client="")] if is_begun else [])

    def _set(self, going: _Going | None) -> None:
        self._going = going
        self._launches.own_id = "" if going is None else going.launch.launch_id

    def _count_time(self, going: _Going) -> float:
        """Count the time since the last call towards the launch's; return the current time."""
        now = self._clock.monotonic()
        going.taken_s += now - going.counted_at
        going.counted_at = now
        return now

    def _too_dear(self, manifest: Manifest, usd_more: float) -> BudgetExceeded | None:
        """Return an error if further workers would exceed `max_hourly_cost`, in addition to the live ones; else None."""
        limit, slots_of = manifest.max_hourly_cost, self._launches.slots_of
        now_usd = sum(launch.usd_per_hour * slots_of(launch) / max(1, launch.slots) for launch in manifest.launches)
        if limit is None or not usd_more or now_usd + usd_more <= limit:
            return None
        return BudgetExceeded(
            f"workers for about ${now_usd + usd_more:.2f} an hour would run, max_hourly_cost is ${limit:.2f}; request fewer "
            "or cheaper ones, or reattach with a larger max_hourly_cost"
        )

    def _write(self, going: _Going, changed: Launch) -> None:
        """Swap the launch's next state in, unless another client has taken it over."""

        def settle(current: Manifest) -> Manifest | None:
            known = next((launch for launch in current.launches if launch.launch_id == changed.launch_id), None)
            if known is not None and known != going.launch:
                return None
            # Also if the launch became too old and was dropped meanwhile: its workers run, so the manifest must name them.
            others = tuple(launch for launch in current.launches if launch != known)
            return replace(current, launches=(*others, changed))

        if changed in self._session.manifest.change(settle).launches:
            # While the store was away no worker could be started: that time does not count.
            going.launch, going.renewed_at = changed, self._clock.monotonic()
            going.counted_at = going.renewed_at
        else:
            self._set(None)

    def _replace(self, launch: Launch, by: list[Launch]) -> None:
        """Replace or remove this client's launch, unless another client has taken it over."""

        def step(current: Manifest) -> Manifest | None:
            if launch not in current.launches:
                return None
            return replace(current, launches=(*(other for other in current.launches if other != launch), *by))

        self._session.manifest.change(step)
