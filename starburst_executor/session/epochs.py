"""Which epochs the manifest lists: what every look of every worker costs.

    open ──full, all ended──────────────────────────────► closed ──a retry holds it──► open
    open ──its client has left or is gone, all ended────► closed

A client that leaves says so in the manifest (`Submitter.left`), once nothing of it is on its way to the store. Of one that
died, watchers say it: its beat has not changed for `client_gone_s` of their own looks. So what a look costs grows with
neither the clients that came nor the tasks that have ended.

One that was taken for gone and is not, a laptop that slept, may write a status object into an epoch that has been closed. It
finds the mark at its next submit or beat, takes it back and has its epochs listed again; so does a client that asks for all futures of the session.

Guarantee: an epoch is closed by a swap on a manifest that was read before the epoch was listed, so that a retry's hold
that comes in between makes the swap fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from starburst_executor.protocol.keys import GROUPS_PER_EPOCH
from starburst_executor.protocol.records import Manifest, Submitter
from starburst_executor.session.beats import list_clients
from starburst_executor.session.store import Group, SessionStore

__all__ = ["GoneClients", "close_epochs", "hold_of", "leave", "list_again", "return_of"]


def close_epochs(
    session: SessionStore, groups: Iterable[Group], listed: Iterable[tuple[int, int]] | None = None
) -> None:
    """Take finished epochs out of the manifest, so that they are listed no more: full ones, and those of clients that left.

    Args:
        groups: A listing, as a hint; an epoch that looks finished in it is listed again.
        listed: The epochs that it is of, if some of them may be empty.

    Store: nothing mostly; 1 LIST and 1 swap for each epoch that is finished.
    """
    n_all: Counter[tuple[int, int]] = Counter()
    going_on: set[tuple[int, int]] = set()
    for group in groups:
        place = (group.ref.ordinal, group.ref.epoch)
        n_all[place] += 1
        if not group.size_class.has_ended:
            going_on.add(place)
    submitters = session.manifest.submitters
    for ordinal, number in sorted((n_all.keys() | set(listed or ())) - going_on):
        submitter = submitters[ordinal] if ordinal < len(submitters) else None
        if submitter is not None and _may_close(submitter, number, n_all[ordinal, number]):
            _close(session, ordinal, [number])


def _may_close(submitter: Submitter, number: int, n_groups: int) -> bool:
    """Whether an epoch with so many status objects, all ended, gets no more of them and is to be kept by no retry."""
    if number not in submitter.open or any(held == number for held, _ in submitter.holds):
        return False
    # A listing that lacks objects must not close an epoch over their tasks.
    return submitter.left or n_groups >= GROUPS_PER_EPOCH


def _close(session: SessionStore, ordinal: int, numbers: Collection[int], *, leaves: bool = False) -> None:
    """Close those of these epochs that are finished; `leaves`: and say that their client submits nothing more."""

    def step(manifest: Manifest) -> Manifest | None:
        if ordinal >= len(manifest.submitters) or manifest.state.is_over:
            return None
        before = manifest.submitters[ordinal]
        submitter = replace(before, left=before.left or leaves)
        # Listed after this manifest was read, and before it is swapped.
        for number in set(numbers).intersection(before.open):
            groups = session.groups([(ordinal, number)])
            if _may_close(submitter, number, len(groups)) and all(group.size_class.has_ended for group in groups):
                submitter = replace(submitter, open=tuple(n for n in submitter.open if n != number))
        return None if submitter == before else manifest.with_submitter(ordinal, submitter)

    session.change(step)


def leave(session: SessionStore, ordinal: int) -> None:
    """A submitting client leaves, and nothing of it is on its way to the store: its epochs are closed as their tasks end.

    Store: 1 LIST for each of its epochs that is open, 1 swap.
    """
    submitters = session.manifest.submitters
    if ordinal < len(submitters):
        _close(session, ordinal, submitters[ordinal].open, leaves=True)


def return_of(session: SessionStore, client_id: str) -> None:
    """If this client has been taken for gone, which it is not: take that back. Store: nothing mostly; 1 swap."""
    if any(one.left and one.client_id == client_id for one in session.manifest.submitters):
        session.change(lambda manifest: _returned(manifest, client_id))


def _returned(manifest: Manifest, client_id: str) -> Manifest | None:
    for ordinal, submitter in enumerate(manifest.submitters):
        if submitter.left and submitter.client_id == client_id:
            # It does not know which of them was closed over what it wrote meanwhile.
            every = tuple(range(submitter.epochs))
            return manifest.with_submitter(ordinal, replace(submitter, open=every, left=False))
    return None


def list_again(session: SessionStore, groups: Iterable[Group]) -> None:
    """Have listed again what is in no open epoch although it has not ended: what a client wrote that was taken for gone,
    and died before it took that back.

    Args:
        groups: Every status object of the session.

    Store: nothing mostly; 1 GET if some seem to be in none, 1 swap.
    """
    going_on = {(group.ref.ordinal, group.ref.epoch) for group in groups if not group.size_class.has_ended}
    if not session.manifest.state.is_over and going_on - set(session.manifest.open_epochs()):
        session.change(lambda manifest: _with_open(manifest, going_on))


def _with_open(manifest: Manifest, epochs: Collection[tuple[int, int]]) -> Manifest | None:
    missing = sorted(set(epochs) - set(manifest.open_epochs()))
    changed = manifest
    for ordinal, number in missing if not manifest.state.is_over else ():
        if ordinal < len(changed.submitters):
            submitter = changed.submitters[ordinal]
            changed = changed.with_submitter(ordinal, replace(submitter, open=tuple(sorted({*submitter.open, number}))))
    return None if changed is manifest else changed


def hold_of(client_id: str, nonce: str) -> str:
    """The id of a hold that this client has on an epoch while it retries tasks there."""
    return f"{client_id}.{nonce}"


def _without(manifest: Manifest, client_id: str) -> Manifest | None:
    """The manifest once a client is gone: it submits nothing more, and holds nothing."""
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
    """Finds clients that died while epochs are listed for their sake, by their beats, and says so in the manifest.

    Not thread-safe.
    """

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._silent: dict[str, tuple[str, float]] = {}  # the beat that was listed last, and how long it has stood
        self._looked_at: float | None = None

    def look(self, groups: Sequence[Group]) -> None:
        """One look, if there is a client for whose sake alone epochs are listed.

        Args:
            groups: A listing of all open epochs.

        Store: nothing mostly; 1 LIST per 1,000 clients, 1 swap for each that is gone.
        """
        session = self._session
        manifest, timings = session.manifest, session.manifest.timings
        busy = {group.ref.ordinal for group in groups if not group.size_class.has_ended}
        idle = {
            one.client_id
            for ordinal, one in enumerate(manifest.submitters)
            if one.open and not one.left and ordinal not in busy
        }
        holders = {_holder(hold) for one in manifest.submitters for hold in one.holds}
        # One epoch is always listed: whoever submits next has one.
        if manifest.state.is_over or not idle | holders or (len(manifest.open_epochs()) <= 1 and not holders):
            self._silent, self._looked_at = {}, None
            return
        beats = {sign.owner: sign.etag for sign in list_clients(session)}
        now = session.clock.monotonic()
        # Of the time between two looks, what the store may have kept both sides waiting does not count.
        most_s = 2 * timings.look_s * timings.looks_until_lost
        since_s = 0.0 if self._looked_at is None else min(now - self._looked_at, most_s)
        self._looked_at = now
        before, self._silent = self._silent, {}
        for client_id in sorted(idle | holders):
            # One without a beat has begun to submit at this moment.
            if (etag := beats.get(client_id)) is None:
                continue
            known, silent_s = before.get(client_id, ("", 0.0))
            silent_s = silent_s + since_s if known == etag else 0.0
            if silent_s < timings.client_gone_s + timings.unheard_s:
                self._silent[client_id] = (etag, silent_s)
            else:
                # Crash here: its epochs stay open until another watcher has seen as much.
                session.change(partial(_without, client_id=client_id))
