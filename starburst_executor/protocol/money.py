"""What a session has cost by now, as far as its manifest and its workers' beats tell: estimates, and upper ones.

    manifest      spent_usd: launches that are over      launches: dollars an hour, since when
    beats         when a worker has left, so that it is not counted any longer

Times of several machines are compared here, which decides nothing about tasks: a clock that is wrong makes an estimate
wrong, and a session that ends by its budget ends early or late by as much. No promise rests on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from starburst_executor.errors import BudgetExceeded, ExecutorBroken
from starburst_executor.protocol.records import Launch, Manifest, SessionState, WorkerBeat, WorkerState

__all__ = [
    "budget_reason",
    "ended_by",
    "launch_usd",
    "refusal_reason",
    "settled",
    "spent",
    "thrown_away",
    "usd_per_hour",
    "without",
]

# Nobody is billed for less. Source: https://aws.amazon.com/fargate/pricing/, https://aws.amazon.com/ec2/pricing/on-demand/
_LEAST_S = 60.0
_HOUR_S = 3600.0
_BUDGET = "BudgetExceeded: "


def spent(
    manifest: Manifest, now: float, beats: Iterable[WorkerBeat] | None = None, dead: Collection[str] = ()
) -> float:
    """Dollars that the session's workers have cost by `now`, UTC epoch seconds; no store requests in it.

    Args:
        beats: Of all its workers. Without them nobody is known to have left: an upper estimate.
        dead: Workers that are known to be dead, whatever they said last.
    """
    listed = list(beats or ())
    return manifest.spent_usd + sum(launch_usd(launch, now, listed, dead) for launch in manifest.launches)


def launch_usd(
    launch: Launch, now: float, beats: Iterable[WorkerBeat] = (), dead: Collection[str] = (), *, is_over: bool = False
) -> float:
    """Dollars that one launch has cost by `now`.

    Args:
        is_over: None of its workers lives: each has ended with its last beat.
    """
    if not launch.usd_per_hour or not launch.slots:
        return 0.0
    slot_s, n_heard = 0.0, 0
    for beat in sorted(_of(launch, beats), key=lambda beat: beat.started_at):
        # The first ones are paid for from the launch on; whoever comes later was started in place of one that ended.
        begins_at = launch.since if n_heard < launch.started else beat.started_at
        has_ended = is_over or beat.state == WorkerState.LEFT or beat.worker_id in dead
        slot_s += beat.slots * max(_LEAST_S, (beat.at if has_ended else now) - begins_at)
        n_heard += beat.slots
    # Not heard of: on their way. Nor counted as started: they may be, if the client died at that moment.
    slot_s += max(0, launch.started - n_heard) * (_LEAST_S if is_over else max(_LEAST_S, now - launch.since))
    if not is_over:
        slot_s += max(0, launch.slots - max(launch.started, n_heard)) * max(0.0, now - launch.at)
    return slot_s * launch.usd_per_hour / launch.slots / _HOUR_S


def usd_per_hour(manifest: Manifest, beats: Iterable[WorkerBeat] = (), dead: Collection[str] = ()) -> float:
    """Dollars an hour at this moment, for workers that live or are on their way; arguments as for `spent`."""
    listed, usd = list(beats), 0.0
    for launch in manifest.launches if not manifest.state.is_over else ():
        mine = _of(launch, listed)
        n_heard = sum(beat.slots for beat in mine)
        n_left = sum(beat.slots for beat in mine if beat.state == WorkerState.LEFT or beat.worker_id in dead)
        # More are heard of than were started where an engine puts new ones in the place of those that ended.
        n_alive = min(launch.slots, max(launch.slots, n_heard) - n_left)
        usd += launch.usd_per_hour * max(0, n_alive) / max(1, launch.slots)
    return usd


def thrown_away(manifest: Manifest, beats: Iterable[WorkerBeat], dead: Collection[str] = ()) -> tuple[float, float]:
    """Seconds of tasks' work that were begun in vain, since their worker was told to stop or died, and what they cost.

    Of a worker that died without a word, what ran at its last beat counts up to that. In dollars by the price of the
    launches that are known: an estimate.
    """
    seconds = 0.0
    for beat in beats:
        seconds += beat.lost_s
        if beat.state != WorkerState.LEFT and beat.worker_id in dead:
            seconds += sum(max(0.0, beat.at - started_at) for _, started_at in beat.running)
    slots = sum(launch.slots for launch in manifest.launches)
    usd = sum(launch.usd_per_hour for launch in manifest.launches)
    return seconds, seconds * usd / slots / _HOUR_S if slots else 0.0


def settled(launch: Launch, n_slots: int) -> Launch:
    """The launch once it is known that no more than these are started."""
    rate = launch.usd_per_hour * n_slots / launch.slots if launch.slots else 0.0
    return replace(launch, slots=n_slots, started=n_slots, usd_per_hour=rate, settled=True)


def without(manifest: Manifest, over: Collection[Launch], now: float, beats: Iterable[WorkerBeat] = ()) -> Manifest:
    """The manifest without launches of which no worker lives: what they have cost is kept."""
    listed = list(beats)
    usd = sum(launch_usd(launch, now, listed, is_over=True) for launch in over)
    left = tuple(launch for launch in manifest.launches if launch not in over)
    n_taken = manifest.n_taken + sum(launch.n_taken for launch in over)
    return replace(manifest, launches=left, spent_usd=manifest.spent_usd + usd, n_taken=n_taken)


def budget_reason(manifest: Manifest, usd: float) -> str:
    """What a session is broken with that has reached its budget."""
    return (
        f"{_BUDGET}the session's workers have cost about ${usd:.2f}, its budget is ${manifest.budget_usd or 0.0:.2f}; "
        "start a new session with a larger budget_usd"
    )


def refusal_reason(error: BudgetExceeded) -> str:
    """What a session is broken with whose workers may not be started."""
    return f"{_BUDGET}{error}"


def ended_by(manifest: Manifest) -> BudgetExceeded | ExecutorBroken | None:
    """The error that a broken session has for its tasks; None if it is not broken."""
    if manifest.state != SessionState.BROKEN:
        return None
    words = f"{manifest.reason.removeprefix(_BUDGET)}: session={manifest.session_id}"
    return BudgetExceeded(words) if manifest.reason.startswith(_BUDGET) else ExecutorBroken(words)


def _of(launch: Launch, beats: Iterable[WorkerBeat]) -> list[WorkerBeat]:
    """A launch's own workers: their ids begin with its time."""
    begins = launch.launch_id.partition("-")[0] + "-"
    return [beat for beat in beats if beat.worker_id.startswith(begins)]
