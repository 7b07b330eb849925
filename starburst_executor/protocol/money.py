"""Estimate what a session has cost so far, from its manifest and its workers' beats. Estimates err on the high side.

    manifest      spent_usd: launches that are over      launches: dollars an hour, and the start time
    beats         when a worker has left, from which moment it is no longer counted

This module compares times of several machines, but no decision about tasks depends on it. A wrong clock makes the estimate
wrong, and a session that ends by its budget then ends early or late by the same amount. No guarantee depends on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from starburst_executor.errors import BudgetExceeded, ExecutorBroken, TooManyFailures
from starburst_executor.protocol.failures import TOO_MANY_FAILURES
from starburst_executor.protocol.records import Launch, Manifest, SessionState, WorkerBeat, WorkerState

__all__ = [
    "BUDGET_EXCEEDED",
    "budget_reason",
    "ended_by",
    "is_of",
    "launch_usd",
    "settled",
    "spent",
    "thrown_away",
    "usd_per_hour",
    "without",
]

# The shortest time that AWS bills. Source: https://aws.amazon.com/fargate/pricing/, https://aws.amazon.com/ec2/pricing/on-demand/
_LEAST_S = 60.0
_HOUR_S = 3600.0
# The value of `Manifest.error` if a limit on costs broke the session.
BUDGET_EXCEEDED = BudgetExceeded.__name__


def spent(
    manifest: Manifest, now: float, beats: Iterable[WorkerBeat] | None = None, dead: Collection[str] = ()
) -> float:
    """Return the dollars that the session's workers have cost by `now`, UTC epoch seconds, without store requests' cost.

    Args:
        beats: The beats of all its workers. Without them no worker is known to have left: an upper estimate.
        dead: Workers that are known to be dead, regardless of their last beat.
    """
    listed = list(beats or ())
    return manifest.spent_usd + sum(launch_usd(launch, now, listed, dead) for launch in manifest.launches)


def launch_usd(
    launch: Launch, now: float, beats: Iterable[WorkerBeat] = (), dead: Collection[str] = (), *, is_over: bool = False
) -> float:
    """Return the dollars that one launch has cost by `now`.

    Args:
        is_over: None of its workers is alive: each ended with its last beat.
    """
    if not launch.usd_per_hour or not launch.slots:
        return 0.0
    slot_s, n_heard = 0.0, 0
    for beat in sorted(_of(launch, beats), key=lambda beat: beat.started_at):
        # The first workers are billed from the launch on; a later worker was started to replace one that ended.
        begins_at = launch.since if n_heard < launch.started else beat.started_at
        has_ended = is_over or beat.state == WorkerState.LEFT or beat.worker_id in dead
        slot_s += beat.slots * max(_LEAST_S, (beat.at if has_ended else now) - begins_at)
        n_heard += beat.slots
    # Slots without a beat are starting. Slots not recorded as started may be running too: the client may have died between
    # starting them and recording it.
    slot_s += max(0, launch.started - n_heard) * (_LEAST_S if is_over else max(_LEAST_S, now - launch.since))
    if not is_over:
        slot_s += max(0, launch.slots - max(launch.started, n_heard)) * max(0.0, now - launch.at)
    return slot_s * launch.usd_per_hour / launch.slots / _HOUR_S


def usd_per_hour(manifest: Manifest, beats: Iterable[WorkerBeat] = (), dead: Collection[str] = ()) -> float:
    """Return the current dollars an hour of workers that are alive or starting; arguments as for `spent`."""
    listed, usd = list(beats), 0.0
    for launch in manifest.launches if not manifest.state.is_over else ():
        own = _of(launch, listed)
        n_heard = sum(beat.slots for beat in own)
        n_left = sum(beat.slots for beat in own if beat.state == WorkerState.LEFT or beat.worker_id in dead)
        # There are more beats than started slots if the platform replaces workers that ended.
        n_alive = min(launch.slots, max(launch.slots, n_heard) - n_left)
        usd += launch.usd_per_hour * max(0, n_alive) / max(1, launch.slots)
    return usd


def thrown_away(manifest: Manifest, beats: Iterable[WorkerBeat], dead: Collection[str] = ()) -> tuple[float, float]:
    """Return the seconds of tasks' work that were lost because a worker was stopped or died, and their cost in dollars.

    For a worker that died without a last beat, the tasks that ran at its latest beat count up to that beat. The cost is an
    estimate from the price of the launches in the manifest.
    """
    seconds = 0.0
    for beat in beats:
        seconds += beat.lost_s
        if beat.state != WorkerState.LEFT and beat.worker_id in dead:
            seconds += sum(max(0.0, beat.at - running.since) for running in beat.running)
    slots = sum(launch.slots for launch in manifest.launches)
    usd = sum(launch.usd_per_hour for launch in manifest.launches)
    return seconds, seconds * usd / slots / _HOUR_S if slots else 0.0


def settled(launch: Launch, n_slots: int) -> Launch:
    """Return the launch with this final number of slots: no more will be started."""
    rate = launch.usd_per_hour * n_slots / launch.slots if launch.slots else 0.0
    return replace(launch, slots=n_slots, started=n_slots, usd_per_hour=rate, settled=True)


def without(manifest: Manifest, over: Collection[Launch], now: float, beats: Iterable[WorkerBeat] = ()) -> Manifest:
    """Return the manifest without these launches, none of whose workers is alive; their cost is added to `spent_usd`."""
    listed = list(beats)
    usd = sum(launch_usd(launch, now, listed, is_over=True) for launch in over)
    remaining = tuple(launch for launch in manifest.launches if launch not in over)
    n_taken = manifest.n_taken + sum(launch.n_taken for launch in over)
    return replace(manifest, launches=remaining, spent_usd=manifest.spent_usd + usd, n_taken=n_taken)


def budget_reason(manifest: Manifest, usd: float) -> str:
    """Return the reason with which a session is broken when it reaches its budget."""
    return (
        f"the session's workers have cost about ${usd:.2f}, its budget is ${manifest.budget_usd or 0.0:.2f}; "
        "start a new session with a larger budget_usd"
    )


def ended_by(manifest: Manifest) -> BudgetExceeded | TooManyFailures | ExecutorBroken | None:
    """Return the error of a broken session's tasks; None if the session is not broken."""
    if manifest.state != SessionState.BROKEN:
        return None
    message = f"{manifest.reason}: session={manifest.session_id}"
    kinds: dict[str, type[BudgetExceeded] | type[TooManyFailures]] = {
        BUDGET_EXCEEDED: BudgetExceeded,
        TOO_MANY_FAILURES: TooManyFailures,
    }
    return kinds.get(manifest.error, ExecutorBroken)(message)


def _of(launch: Launch, beats: Iterable[WorkerBeat]) -> list[WorkerBeat]:
    """Return the beats of this launch's workers."""
    return [beat for beat in beats if is_of(launch, beat.worker_id)]


def is_of(launch: Launch, worker_id: str) -> bool:
    """Return whether this worker belongs to the launch: its id begins with the launch's time."""
    return worker_id.startswith(launch.launch_id.partition("-")[0] + "-")
