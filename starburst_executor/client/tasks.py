"""The tasks of a detached session as its client sees them: one future each, found again, retried, cancelled."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from starburst_executor.client.cancelling import FuturesOfClient
from starburst_executor.client.collector import Collector
from starburst_executor.client.future import StarburstFuture
from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol import status
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.status import SizeClass, State, Status
from starburst_executor.session.store import Group, SessionStore

__all__ = ["SessionTasks"]


class SessionTasks:
    """Every future of a session by its task. Thread-safe as far as its parts are.

    Args:
        owner: Whom the futures ask to be cancelled.
    """

    def __init__(self, session: SessionStore, collector: Collector, owner: FuturesOfClient) -> None:
        self._session = session
        self._collector = collector
        self._owner = owner
        self._futures: dict[tuple[int, int], StarburstFuture[Any]] = {}  # by ordinal and index

    def add(self, future: StarburstFuture[Any]) -> None:
        """One that this client has submitted, or retried."""
        self._futures[future.ordinal, future.index] = future

    def known(self) -> list[StarburstFuture[Any]]:
        """The futures known so far, in submission order, over all submitting clients."""
        return [future for _, future in sorted(self._futures.items())]

    def get(self, ordinal: int, index: int) -> StarburstFuture[Any] | None:
        """One of those."""
        return self._futures.get((ordinal, index))

    def look(self) -> None:
        """Learn of every task of the session, and watch those that are new here. Store: 1 LIST per 1,000 status objects."""
        for group in self._session.all_groups():
            self._watch(group)

    def _watch(self, group: Group) -> None:
        ref, known = group.ref, self._futures
        fresh = [
            (
                i,
                known.setdefault(
                    (ref.ordinal, ref.first + i), StarburstFuture(self._owner, ref.ordinal, ref.first + i)
                ),
            )
            for i in range(ref.n_tasks)
            if (ref.ordinal, ref.first + i) not in known
        ]
        if fresh:
            # An object with nothing but pending tasks need not be read.
            etag = group.etag if group.size_class == SizeClass.ALL_PENDING else ""
            self._collector.watch(group.key, ref, etag, fresh, unread=bool(etag))

    def output(self, ordinal: int, index: int) -> tuple[str, str]:
        """What a task that has ended wrote to its standard output and error.

        Store: 1 LIST per 1,000 status objects, 1 GET; 1 GET if it wrote anything.
        """
        for group in self._session.all_groups():
            ref = group.ref
            if ref.ordinal == ordinal and ref.first <= index < ref.first + ref.n_tasks:
                found = self._session.read(group.key)
                assert found is not None  # no ETag was sent  # noqa: S101
                return self._session.output(ref.group_id, found.status.entries[index - ref.first])
        return "", ""

    # --- changes ------------------------------------------------------------------------------------------------------

    def retry_failed(self) -> list[StarburstFuture[Any]]:
        """Run the failed tasks once more; new futures for them, in submission order.

        Store: 1 LIST per 1,000 status objects; 1 GET, 1 swap for each with failed tasks; 2 swaps for each of its epochs.
        """
        session = self._session
        retried: list[StarburstFuture[Any]] = []
        by_epoch: dict[tuple[int, int], list[Group]] = {}
        for group in session.all_groups():
            if group.size_class not in (SizeClass.ALL_COMPLETED, SizeClass.ALL_PENDING):
                by_epoch.setdefault((group.ref.ordinal, group.ref.epoch), []).append(group)
        for (ordinal, epoch), groups in by_epoch.items():
            hold = session.clock.new_id()
            session.change(partial(_held, ordinal=ordinal, epoch=epoch, hold=hold))
            # Crash here: the epoch stays listed, which costs requests and nothing else.
            for group in groups:
                # One that cannot be read has no call that could be run.
                with suppress(RecordInvalid, VersionMismatch):
                    retried += self._retry_group(group)
            session.change(partial(_unheld, ordinal=ordinal, hold=hold))
        return sorted(retried, key=lambda future: (future.ordinal, future.index))

    def _retry_group(self, group: Group) -> list[StarburstFuture[Any]]:
        ref = group.ref
        runs: dict[int, int] = {}
        before: list[Status] = []

        def step(seen: Status) -> Status:
            if not runs:
                entries = enumerate(seen.entries)
                runs.update({i: e.run for i, e in entries if e.state == State.FAILED and e.call is not None})
                before[:] = [seen]
            return status.retry(seen, runs)

        found = self._session.update(group.key, step)
        if found is None or not runs:
            return []
        # Those who waited for the runs that failed see their end before the new ones take their place.
        self._collector.take_in(group.key, before[0])
        fresh: list[tuple[int, StarburstFuture[Any]]] = []
        for index, run in runs.items():
            fresh.append((index, StarburstFuture(self._owner, ref.ordinal, ref.first + index, run + 1)))
            self.add(fresh[-1][1])
        self._collector.watch(group.key, ref, found.etag, fresh)
        self._session.ring([group.key], len(fresh))
        return [future for _, future in fresh]

    def cancel(self) -> int:
        """Cancel every task of the session that no worker has claimed; how many.

        Store: 1 LIST per 1,000 status objects, 1 GET, 1 swap for each with pending tasks.
        """
        n_cancelled = self._owner.cancel_unsent()
        for group in self._session.all_groups():
            if group.size_class.has_pending:
                n_cancelled += self._owner.cancel_in(group.key, range(group.ref.n_tasks))
        return n_cancelled


def _held(manifest: Manifest, ordinal: int, epoch: int, hold: str) -> Manifest | None:
    """The epoch listed, and kept so until the hold is taken off."""
    if ordinal >= len(manifest.submitters):
        # A client that has come since this manifest was read: None has a fresh one read.
        return None
    submitter = manifest.submitters[ordinal]
    if (epoch, hold) in submitter.holds:
        return None
    opened = tuple(sorted({*submitter.open, epoch}))
    return manifest.with_submitter(ordinal, replace(submitter, open=opened, holds=(*submitter.holds, (epoch, hold))))


def _unheld(manifest: Manifest, ordinal: int, hold: str) -> Manifest | None:
    submitter = manifest.submitters[ordinal]
    kept = tuple(each for each in submitter.holds if each[1] != hold)
    return None if kept == submitter.holds else manifest.with_submitter(ordinal, replace(submitter, holds=kept))
