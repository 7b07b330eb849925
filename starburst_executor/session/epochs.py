"""Open and close epochs. Each open epoch costs one LIST in every look of every worker.

    open ──full, all ended──────────────────────────────► closed ──a retry holds it──► open
    open ──its client has left or died, all ended───────► closed

A client that leaves marks its record in the manifest (`Submitter.left`), once none of its writes is in flight. Watchers
mark the record of a client that died: a client whose beat has not changed for `client_gone_s` of a watcher's own looks. So
the cost of a look grows neither with the clients that came nor with the tasks that have ended.

A client may count as gone although it lives, for example on a laptop that slept. It may then write a status object into
a closed epoch. It finds the mark at its next submit or beat, removes it and opens its epochs again. A client that asks for
all futures of the session opens such epochs too.

The log of keys (`session/once.py`) has epochs too, and never leaves. If a client died between an entry and its status objects, these are
missing, so their epoch is not full, and stays open for the client that creates them later.

Guarantee: an epoch is closed by a swap on a manifest that was read before the epoch was listed, so a hold that a retry
writes in between makes the swap fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from starburst_executor.protocol.keys import STATUSES_PER_EPOCH
from starburst_executor.protocol.records import Manifest, Submitter
from starburst_executor.protocol.records.once import ONCE
from starburst_executor.session.beats import list_clients
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["GoneClients", "close_epochs", "hold_of", "leave", "list_again", "open_epoch", "return_of"]


def open_epoch(session: SessionStore, ordinal: int, number: int) -> None:
    """Make the manifest list an epoch before the first object in it is written. Store: usually nothing; 1 swap for a new epoch."""

    def step(manifest: Manifest) -> Manifest | None:
        record = manifest.submitters[ordinal]
        if record.epochs > number:
            return None
        opened = tuple(range(record.epochs, number + 1))
        return manifest.with_submitter(ordinal, replace(record, epochs=number + 1, open=record.open + opened))

    submitters = session.manifest.current.submitters
    if ordinal >= len(submitters) or submitters[ordinal].epochs <= number:
        session.manifest.change(step)


def close_epochs(
    session: SessionStore, listing: Iterable[ListedStatus], epochs: Iterable[tuple[int, int]] | None = None
) -> None:
    """Take finished epochs out of the manifest: full ones, and those of clients that have left.

    Args:
        listing: A listing, as a hint; an epoch that looks finished in it is listed again.
        epochs: The epochs in that listing, including empty ones.

    Store: usually nothing; 1 LIST and 1 swap for each finished epoch.
    """
    n_all: Counter[tuple[int, int]] = Counter()
    active: set[tuple[int, int]] = set()
    for listed in listing:
        place = (listed.ref.ordinal, listed.ref.epoch)
        n_all[place] += 1
        if not listed.size_class.has_ended:
            active.add(place)
    submitters = session.manifest.current.submitters
    for ordinal, number in sorted((n_all.keys() | set(epochs or ())) - active):
        submitter = submitters[ordinal] if ordinal < len(submitters) else None
        if submitter is not None and _may_close(submitter, number, n_all[ordinal, number]):
            _close(session, ordinal, [number])


def _may_close(submitter: Submitter, number: int, n_statuses: int) -> bool:
    """Return whether an epoch with `n_statuses` status objects, all ended, gets no more objects and no retry holds it."""
    if number not in submitter.open or any(held == number for held, _ in submitter.holds):
        return False
    # An incomplete listing must not close an epoch with tasks that have not ended.
    return submitter.left or n_statuses >= STATUSES_PER_EPOCH


def _close(session: SessionStore, ordinal: int, numbers: Collection[int], *, leaves: bool = False) -> None:
    """Close the finished ones of these epochs; with `leaves`, also mark that their client submits nothing more."""

    def step(manifest: Manifest) -> Manifest | None:
        if ordinal >= len(manifest.submitters) or manifest.state.is_over:
            return None
        before = manifest.submitters[ordinal]
        submitter = replace(before, left=before.left or leaves)
        # Guarantee: listed after this manifest was read and before it is swapped, so a hold in between fails the swap.
        for number in set(numbers).intersection(before.open):
            listing = session.statuses.of_epochs([(ordinal, number)])
            if _may_close(submitter, number, len(listing)) and all(listed.size_class.has_ended for listed in listing):
                submitter = replace(submitter, open=tuple(n for n in submitter.open if n != number))
        return None if submitter == before else manifest.with_submitter(ordinal, submitter)

    session.manifest.change(step)


def leave(session: SessionStore, ordinal: int) -> None:
    """Mark that a submitting client has left: its epochs are closed as its tasks end.

    Assumes: none of its writes is in flight.
    Store: 1 LIST for each of its open epochs, 1 swap.
    """
    submitters = session.manifest.current.submitters
    if ordinal < len(submitters):
        _close(session, ordinal, submitters[ordinal].open, leaves=True)


def return_of(session: SessionStore, client_id: str) -> None:
    """Remove the mark if this living client counted as gone. Store: usually nothing; 1 swap."""
    if any(submitter.left and submitter.client_id == client_id for submitter in session.manifest.current.submitters):
        session.manifest.change(lambda manifest: _returned(manifest, client_id))


def _returned(manifest: Manifest, client_id: str) -> Manifest | None:
    for ordinal, submitter in enumerate(manifest.submitters):
        if submitter.left and submitter.client_id == client_id:
            # The client does not know which of them was closed while one of its writes was in flight.
            all_epochs = tuple(range(submitter.epochs))
            return manifest.with_submitter(ordinal, replace(submitter, open=all_epochs, left=False))
    return None


def list_again(session: SessionStore, listing: Iterable[ListedStatus]) -> None:
    """Open closed epochs that contain tasks that have not ended: a client wrote them after it counted as gone, and died
    before it removed the mark.

    Args:
        listing: Every status object of the session.

    Store: usually nothing; 1 GET if a task seems to be in no open epoch, 1 swap.
    """
    active = {(listed.ref.ordinal, listed.ref.epoch) for listed in listing if not listed.size_class.has_ended}
    if not session.manifest.current.state.is_over and active - set(session.manifest.current.open_epochs()):
        session.manifest.change(lambda manifest: _with_open(manifest, active))


def _with_open(manifest: Manifest, epochs: Collection[tuple[int, int]]) -> Manifest | None:
    missing = sorted(set(epochs) - set(manifest.open_epochs()))
    changed = manifest
    for ordinal, number in missing if not manifest.state.is_over else ():
        if ordinal < len(changed.submitters):
            submitter = changed.submitters[ordinal]
            changed = changed.with_submitter(ordinal, replace(submitter, open=tuple(sorted({*submitter.open, number}))))
    return None if changed is manifest else changed


def hold_of(client_id: str, nonce: str) -> str:
    """Return the id of a hold: this client keeps an epoch open while it retries tasks in it."""
    return f"{client_id}.{nonce}"


def _without(manifest: Manifest, client_id: str) -> Manifest | None:
    """Return the manifest with the client marked as left and without its holds."""
    changed = manifest
    for ordinal, submitter in enumerate(manifest.submitters):
        kept = tuple(hold for hold in submitter.holds if _holder(hold) != client_id)
        after = replace(submitter, left=submitter.left or submitter.client_id == client_id, holds=kept)
        if after != submitter:
            changed = changed.with_submitter(ordinal, after)
    return None if changed is manifest or manifest.state.is_over else changed


def _holder(hold: tuple[int, str]) -> str:
    return hold[1].partition(".")[0]


class GoneClients:
    """Finds clients that died and whose epochs are still open, by their beats, and marks them in the manifest.

    Not thread-safe.
    """

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        # By client: the ETag of the last listed beat, and for how many seconds it has not changed.
        self._silent: dict[str, tuple[str, float]] = {}
        self._looked_at: float | None = None

    def look(self, listing: Sequence[ListedStatus]) -> None:
        """Look at the clients' beats, if an open epoch has no task that has not ended.

        Args:
            listing: A listing of all open epochs.

        Store: usually nothing; 1 LIST per 1,000 clients, 1 swap for each client that is gone.
        """
        session = self._session
        manifest, timings = session.manifest.current, session.manifest.current.timings
        busy = {listed.ref.ordinal for listed in listing if not listed.size_class.has_ended}
        idle = {
            submitter.client_id
            for ordinal, submitter in enumerate(manifest.submitters)
            if submitter.open and not submitter.left and ordinal not in busy and submitter.client_id != ONCE
        }
        holders = {_holder(hold) for submitter in manifest.submitters for hold in submitter.holds}
        # A single open epoch is not worth a request: the next client that submits opens one anyway.
        if manifest.state.is_over or not idle | holders or (len(manifest.open_epochs()) <= 1 and not holders):
            self._silent, self._looked_at = {}, None
            return
        beats = {sign.owner: sign.etag for sign in list_clients(session)}
        now = session.clock.monotonic()
        # While the store was away, no client could beat: a longer pause between two looks does not count in full.
        most_s = 2 * timings.look_s * timings.looks_until_lost
        since_s = 0.0 if self._looked_at is None else min(now - self._looked_at, most_s)
        self._looked_at = now
        before, self._silent = self._silent, {}
        for client_id in sorted(idle | holders):
            # A client without a beat has only just begun to submit.
            if (etag := beats.get(client_id)) is None:
                continue
            known, silent_s = before.get(client_id, ("", 0.0))
            silent_s = silent_s + since_s if known == etag else 0.0
            if silent_s < timings.client_gone_s + timings.unheard_s:
                self._silent[client_id] = (etag, silent_s)
            else:
                # Crash here: its epochs stay open until another watcher finds out.
                session.manifest.change(partial(_without, client_id=client_id))
