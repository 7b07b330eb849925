"""The tasks of a detached session as its client sees them: one future each, found again, retried, cancelled.

A session may have more outcomes than the memory holds. So futures are made when they are asked for, and held weakly:

    not done    held by what waits for its outcome: submitter, collector, or the visit of a client that has left
    done        held by the program; those done last also here, up to a bound in bytes
    neither     made anew when it is asked for, and its outcome is read again

# Guarantee: while the program holds a task's future, it gets that very one, until the task is retried.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from starburst_executor.client.cancelling import FuturesOfClient
from starburst_executor.client.collector import Collector
from starburst_executor.client.future import StarburstFuture
from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol import status
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.status import SizeClass, State, Status
from starburst_executor.session.store import Group, SessionStore

__all__ = ["SessionTasks"]

# Outcomes of this many bytes, as they are stored, stay for whoever asks for all futures now and then. In memory they may be
# ten times that.
_KEPT_BYTES = 8 * 2**20
_FUTURE_BYTES = 2048  # a future itself, about


_Task: TypeAlias = tuple[int, int]  # ordinal and index


class SessionTasks:
    """The futures of a session by their tasks. Thread-safe as far as its parts are.

    Args:
        owner: Whom the futures ask to be cancelled.
    """

    def __init__(self, session: SessionStore, collector: Collector, owner: FuturesOfClient) -> None:
        self._session = session
        self._collector = collector
        self._owner = owner
        # Reentrant: an outcome that goes may have a finalizer of the user's, which asks for futures. Guards what is made and
        # what is kept; `add` takes no lock, since its caller has one that such a finalizer may want too.
        self._lock = threading.RLock()
        self._futures: WeakValueDictionary[_Task, StarburstFuture[Any]] = WeakValueDictionary()
        self._recent: OrderedDict[_Task, tuple[StarburstFuture[Any], int]] = OrderedDict()  # with what each counts
        self._recent_bytes = 0
        self._ends: dict[int, int] = {}  # how many tasks are known of each submitter; their indices are dense

    def lost_in_fork(self) -> None:
        """For the child of a fork of the user's: another thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def add(self, future: StarburstFuture[Any]) -> None:
        """One that this client has submitted, or retried."""
        self._futures[future.ordinal, future.index] = future
        # Never lower, and by two threads at once never for the same submitter: what is listed has been added here before.
        if future.index >= self._ends.get(future.ordinal, 0):
            self._ends[future.ordinal] = future.index + 1

    def _of(self, ordinal: int, index: int) -> tuple[StarburstFuture[Any], bool]:
        """The future of a task, and whether it was made just now. Called under the lock."""
        known = self._futures.get((ordinal, index))
        if known is not None:
            return known, False
        made: StarburstFuture[Any] = StarburstFuture(self._owner, ordinal, index)
        self.add(made)
        return made, True

    def keep(self, future: StarburstFuture[Any], n_bytes: int) -> None:
        """This one is done: hold it, and let go of what was done long ago."""
        gone = []
        task, n_bytes = (future.ordinal, future.index), n_bytes + _FUTURE_BYTES
        with self._lock:
            gone.append(self._recent.pop(task, (None, 0)))
            self._recent[task] = (future, n_bytes)
            self._recent_bytes += n_bytes - gone[0][1]
            while self._recent_bytes > _KEPT_BYTES and self._recent:
                gone.append(self._recent.popitem(last=False)[1])
                self._recent_bytes -= gone[-1][1]

    def known(self) -> list[StarburstFuture[Any]]:
        """The futures of the tasks known so far, in submission order, over all submitting clients.

        Of a client that has ended with its session, those that are still held somewhere.
        """
        with self._lock:
            if self._owner.has_left:
                tasks = [(ordinal, index) for ordinal, end in sorted(self._ends.items()) for index in range(end)]
                return [self._of(*task)[0] for task in tasks]
            held = {(future.ordinal, future.index): future for future in self._held()}
        return [held[task] for task in sorted(held)]

    def _held(self) -> Iterable[StarburstFuture[Any]]:
        return filter(None, (ref() for ref in self._futures.valuerefs()))

    def get(self, ordinal: int, index: int) -> StarburstFuture[Any] | None:
        """One of those."""
        with self._lock:
            if self._owner.has_left and 0 <= index < self._ends.get(ordinal, 0):
                return self._of(ordinal, index)[0]
            return self._futures.get((ordinal, index))

    def all(self) -> list[StarburstFuture[Any]]:
        """The future of every task of the session, in submission order; those that are new here are watched.

        Store: 1 LIST per 1,000 status objects.
        """
        found: dict[_Task, StarburstFuture[Any]] = {}
        for group in self._session.all_groups():
            found.update(self._watch(group, range(group.ref.n_tasks)))
        # And those that are unsent.
        for future in self.known():
            found.setdefault((future.ordinal, future.index), future)
        return [found[task] for task in sorted(found)]

    def find(self, ordinal: int, index: int) -> StarburstFuture[Any] | None:
        """The future of one task, which is watched; of no other. Store: 1 LIST per 1,000 status objects, if it is new here."""
        known = self.get(ordinal, index)
        if known is not None:
            return known
        for group in self._session.all_groups():
            ref = group.ref
            if ref.ordinal == ordinal and ref.first <= index < ref.first + ref.n_tasks:
                return self._watch(group, [index - ref.first])[ordinal, index]
        return None

    def _watch(self, group: Group, indices: Iterable[int]) -> dict[_Task, StarburstFuture[Any]]:
        """The futures of some tasks of one status object; those that are new are watched."""
        ref = group.ref
        with self._lock:
            found = {i: self._of(ref.ordinal, ref.first + i) for i in indices}
        fresh = [(i, future) for i, (future, is_new) in found.items() if is_new]
        if fresh:
            # An object with nothing but pending tasks need not be read.
            etag = group.etag if group.size_class == SizeClass.ALL_PENDING else ""
            self._collector.watch(group.key, ref, etag, fresh, unread=bool(etag))
        return {(ref.ordinal, ref.first + i): future for i, (future, _) in found.items()}

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
