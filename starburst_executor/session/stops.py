"""Cancels tasks that workers hold: names their claims in the manifest, then ends the tasks in the status object.

    client:  GET object ──► swap manifest (`stops`: the claims) ──► swap object: CANCELLED
    worker:  a beat's look at the manifest, or a nudge ──► GET object ──► its claim has lost the task ──► kill

Guarantee: a claim is named before a task of it is cancelled. So if the client dies in between, the worker still learns of the
cancellation: it reads the objects of a named claim until that is settled (`worker/doubts.py`).

Source: docs/design/0018-stop.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import State, Status
from starburst_executor.session.statuses import Versioned
from starburst_executor.session.store import SessionStore

__all__ = ["ALL", "cancel_in", "held_of", "name_claims"]

# What begins with this names every claim; the rest is an id, so that it is news.
ALL = "*"
# More names would make the manifest grow, which every process reads.
_MOST = 64


def held_of(session: SessionStore, key: str, positions: Iterable[int]) -> frozenset[str]:
    """Return the claims that hold some of these tasks of a status object now; none if it cannot be read. Store: 1 GET."""
    try:
        current = session.statuses.read(key).status
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return frozenset()
    return _holders(current, frozenset(positions))


def name_claims(session: SessionStore, claims: Collection[str]) -> None:
    """Have the workers that hold these claims read their objects. Store: 1 swap, if some are not named yet."""

    def step(manifest: Manifest) -> Manifest | None:
        missing = sorted(set(claims) - set(manifest.stops))
        if not missing:
            return None
        stops = (*manifest.stops, *missing)
        return replace(manifest, stops=stops if len(stops) <= _MOST else (f"{ALL}{session.clock.new_id()}",))

    if claims:
        session.manifest.change(step)


def cancel_in(
    session: SessionStore, key: str, positions: Collection[int], claims: Collection[str] = ()
) -> tuple[Versioned | None, int, frozenset[str]]:
    """Cancel those of these tasks of one status object that are pending, or held by a claim that was named.

    Returns:
        The object, None if it is gone or cannot be read; how many tasks this call cancelled; the claims that hold the others.

    Store: 1 GET, 1 swap; the same per lost race.
    """
    cancelled: list[int] = []

    def step(current: Status) -> Status:
        changed, cancelled[:] = transitions.cancel(current, positions, session.clock.now(), claims=claims)
        return changed

    try:
        updated = session.statuses.update(key, step)
    except (RecordInvalid, VersionMismatch):
        return None, 0, frozenset()
    if updated is None:
        return None, 0, frozenset()
    return updated, len(cancelled), _holders(updated.status, frozenset(positions))


def _holders(current: Status, positions: frozenset[int]) -> frozenset[str]:
    return frozenset(
        span.claim
        for start, span in current.placed()
        if span.state == State.CLAIMED and not positions.isdisjoint(range(start, start + span.n))
    )
