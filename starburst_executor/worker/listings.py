"""What a listing of status objects tells a worker: about how many tasks of each are pending, and its place among all."""

from __future__ import annotations

from starburst_executor.protocol.keys import STATUSES_PER_EPOCH
from starburst_executor.session.statuses import ListedStatus

__all__ = ["n_pending_of", "places_of"]


def n_pending_of(listed: ListedStatus) -> int:
    """Return about how many tasks of an object are pending: a listing shows their number to within a factor of 2."""
    return max(1, min(listed.ref.n_tasks - 1, 2 << 2 * max(0, listed.order - 1)))


def places_of(listing: list[ListedStatus]) -> dict[str, int]:
    """Return the number of each object in submission order. It stays the same while epochs are closed and objects added."""
    places: dict[str, int] = {}
    counts: dict[tuple[int, int], int] = {}
    for listed in listing:
        epoch = (listed.ref.ordinal, listed.ref.epoch)
        counts[epoch] = number = counts.get(epoch, -1) + 1
        places[listed.key] = listed.ref.epoch * STATUSES_PER_EPOCH + number
    return places
