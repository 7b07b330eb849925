"""The tasks of a detached session in its client: finds, retries and cancels them, with one future for each.

A session may have more outcomes than fit into memory. So futures are created on request, and held weakly:

    not done    held by the part that waits for its outcome: submitter, collector, or the visit of a client that has left
    done        held by the program; the last ones also by this module, up to a bound in bytes
    neither     created again on request, and its outcome is read again

Guarantee: while the program holds a task's future, it gets the same object for that task, until the task is retried.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from starburst_executor.client.cancelling import FuturesOfClient
from starburst_executor.client.collector import Collector
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.replacement import Replacement, called_itself
from starburst_executor.client.task_logs import output_of
from starburst_executor.client.upstream import dependants, with_dependants
from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.after import AFTER
from starburst_executor.protocol.spans.record import Place, SizeClass, Status
from starburst_executor.session.epochs import hold_of, list_again
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["SessionTasks"]

# Stored outcomes up to this number of bytes are held, for programs that request all futures now and then. In memory they may
# be ten times as big.
_KEPT_BYTES = 8 * 2**20
_FUTURE_BYTES = 2048  # about the size of a future itself


_Task: TypeAlias = tuple[int, int]  # ordinal and index


class SessionTasks:
    """The futures of a session, by task. As thread-safe as its parts.

    Args:
        owner: The owner of the futures, which cancels their tasks.
        client_id: This client's id.
    """

    def __init__(self, session: SessionStore, collector: Collector, owner: FuturesOfClient, client_id: str) -> None:
        self._session = session
        self._collector = collector
        self._owner = owner
        self._client_id = client_id
        # Reentrant: dropping an outcome may run a finalizer of the user's, which requests futures. Guards _recent,
        # _recent_bytes and the creation of futures; `add` takes no lock, since its caller holds one that such a finalizer may
        # need too.
        self._lock = threading.RLock()
        self._futures: WeakValueDictionary[_Task, StarburstFuture[Any]] = WeakValueDictionary()
        self._recent: OrderedDict[_Task, tuple[StarburstFuture[Any], int]] = (
            OrderedDict()
        )  # with the bytes that each counts
        self._recent_bytes = 0
        self._ends: dict[int, int] = {}  # by submitter, the number of its known tasks; their indices are dense

    def lost_in_fork(self) -> None:
        """Replace the lock in the child of a fork: another thread of the parent may have held it."""
        self._lock = threading.RLock()

    def add(self, future: StarburstFuture[Any]) -> None:
        """Add the future of a task that this client has submitted or retried."""
        self._futures[future.ordinal, future.index] = future
        # Assumes: it never decreases, and no two threads add for the same submitter: listed tasks were added before.
        if future.index >= self._ends.get(future.ordinal, 0):
            self._ends[future.ordinal] = future.index + 1

    def _of(self, ordinal: int, index: int) -> tuple[StarburstFuture[Any], bool]:
        """Return the future of a task, and whether this call created it. Called under the lock."""
        known = self._futures.get((ordinal, index))
        if known is not None:
            return known, False
        made: StarburstFuture[Any] = StarburstFuture(self._owner, ordinal, index)
        self.add(made)
        return made, True

    def keep(self, future: StarburstFuture[Any], n_bytes: int) -> None:
        """Hold a future that is done, and release those that were done long ago."""
        gone = []  # released after the lock: their finalizers may run user code
        task, n_bytes = (future.ordinal, future.index), n_bytes + _FUTURE_BYTES
        with self._lock:
            gone.append(self._recent.pop(task, (None, 0)))
            self._recent[task] = (future, n_bytes)
            self._recent_bytes += n_bytes - gone[0][1]
            while self._recent_bytes > _KEPT_BYTES and self._recent:
                gone.append(self._recent.popitem(last=False)[1])
                self._recent_bytes -= gone[-1][1]

    def forget(self) -> None:
        """Forget all futures: the program that used them has ended, and this client serves another one."""
        with self._lock:
            gone, self._recent = self._recent, OrderedDict()  # released after the lock, as in `keep`
            self._recent_bytes = 0
            self._futures = WeakValueDictionary()
        gone.clear()

    def known(self) -> list[StarburstFuture[Any]]:
        """Return the futures of the tasks known so far, in submission order, of all submitting clients.

        For a client that has ended with its session: only those that are still held.
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
        """Return one of the known futures, or None."""
        with self._lock:
            if self._owner.has_left and 0 <= index < self._ends.get(ordinal, 0):
                return self._of(ordinal, index)[0]
            return self._futures.get((ordinal, index))

    def all(self) -> list[StarburstFuture[Any]]:
        """Return the future of every task of the session, in submission order, and watch the new ones.

        Store: 1 LIST per 1,000 status objects.
        """
        futures: dict[_Task, StarburstFuture[Any]] = {}
        listing = self._session.statuses.all()
        list_again(self._session, listing)
        for listed in listing:
            futures.update(self.watch(listed, range(listed.ref.n_tasks)))
        # And those that are unsent.
        for future in self.known():
            futures.setdefault((future.ordinal, future.index), future)
        return [futures[task] for task in sorted(futures)]

    def find(self, ordinal: int, index: int) -> StarburstFuture[Any] | None:
        """Return the future of one task, and watch no others; None if there is no such task.

        Store: 1 LIST per 1,000 status objects, if it is new to this client.
        """
        known = self.get(ordinal, index)
        if known is not None:
            return known
        for listed in self._session.statuses.all():
            ref = listed.ref
            if ref.ordinal == ordinal and ref.first <= index < ref.first + ref.n_tasks:
                return self.watch(listed, [index - ref.first])[ordinal, index]
        return None

    def watch(self, listed: ListedStatus, positions: Iterable[int]) -> dict[_Task, StarburstFuture[Any]]:
        """Return the futures of some tasks of one status object, by ordinal and index, and watch the new ones.

        Args:
            listed: The object; with an empty ETag it is read.
        """
        ref = listed.ref
        with self._lock:
            futures = {position: self._of(ref.ordinal, ref.first + position) for position in positions}
        fresh = [(position, future) for position, (future, is_new) in futures.items() if is_new]
        if fresh:
            # An object with only pending tasks need not be read.
            etag = listed.etag if listed.size_class == SizeClass.ALL_PENDING else ""
            self._collector.watch(listed.key, ref, etag, fresh, unread=bool(etag))
        return {(ref.ordinal, ref.first + i): future for i, (future, _) in futures.items()}

    def output(self, ordinal: int, index: int) -> tuple[str, str]:
        """Return what a task that has ended wrote to its standard output and standard error.

        Raises, store: as `output_of`.
        """
        found = output_of(self._session, ordinal, index)
        return found.stdout, found.stderr

    # --- changes ------------------------------------------------------------------------------------------------------

    def retry_failed(
        self, replacement: Replacement | None = None, tasks: Collection[_Task] | None = None
    ) -> list[StarburstFuture[Any]]:
        """Run the failed tasks again; return new futures for them, in submission order.

        Args:
            replacement: The function that they call from now on, but for those that have failed because of another task: their own has not
                failed; None for the one that failed.
            tasks: Only these, as ordinal and index, and those that have failed because of them; None for all.

        Raises: ConfigError: the replacement does not accept the arguments of one of these tasks; nothing was retried.

        Store: 2 LISTs per 1,000 status objects; 1 GET, 1 swap for each with failed tasks; 2 swaps for each of its epochs; the
        requests of `replacement`; with `tasks` 1 GET for each that has not ended well. 2 GETs and 1 swap more for each with tasks that wait for
        these.
        """
        session = self._session
        listing = self._with_failed()
        if tasks is not None:
            tasks = with_dependants(session, listing, tasks)
        if replacement is not None:
            replacement.check(_with_any(listing, tasks), tasks)
        may_wait = {listed.key for listed in listing if listed.has_blocked}
        fresh = self._retry_listed(listing, replacement, tasks, may_wait)
        retried = {(future.ordinal, future.index): future for future in fresh}
        # A worker may have read a task as failed before it was retried, and fail those that wait for it only now: reopen these. Where it
        # has not yet, swap the object, so that its swap is refused and it reads anew.
        # Crash here: such a task stays failed until it is retried again.
        while fresh:
            listing = [listed for listed in session.statuses.all() if listed.has_blocked or listed.key in may_wait]
            affected = dependants(session, listing, {(future.ordinal, future.index) for future in fresh})
            # Ends: each turn's tasks wait for some of the turn before.
            fresh = self._retry_listed(listing, None, affected, may_wait, touch=True)
            retried.update({(future.ordinal, future.index): future for future in fresh})
        return [future for _, future in sorted(retried.items())]

    def check_calls(self, replacement: Replacement, tasks: Collection[_Task]) -> None:
        """As `retry_failed` does before it retries anything. Raises: ConfigError. Store: 1 LIST per 1,000 status objects; as `Replacement.check`."""
        replacement.check(_with_any(self._with_failed(), tasks), tasks)

    def _with_failed(self) -> list[ListedStatus]:
        """Return the status objects that may hold failed tasks."""
        without = (SizeClass.ALL_COMPLETED, SizeClass.ALL_PENDING)
        return [listed for listed in self._session.statuses.all() if listed.size_class not in without]

    def _retry_listed(
        self,
        listing: Iterable[ListedStatus],
        replacement: Replacement | None,
        tasks: Collection[_Task] | None,
        may_wait: set[str],
        *,
        touch: bool = False,
    ) -> list[StarburstFuture[Any]]:
        """Run the failed tasks in these objects again; return their futures.

        Args:
            may_wait: The keys of objects that may have tasks that wait for others; those that are found are added.
            touch: Swap the objects in any case, and only run those again that have failed because of another task.
        """
        session = self._session
        retried: list[StarburstFuture[Any]] = []
        by_epoch: dict[tuple[int, int], list[ListedStatus]] = {}
        # In submission order: a task that waits for another must not be seen to wait while that one has still failed.
        for listed in _with_any(listing, tasks):
            by_epoch.setdefault((listed.ref.ordinal, listed.ref.epoch), []).append(listed)
        for (ordinal, epoch), of_epoch in by_epoch.items():
            hold = hold_of(self._client_id, session.clock.new_id())
            session.manifest.change(partial(_held, ordinal=ordinal, epoch=epoch, hold=hold))
            # Crash here: the epoch stays listed until watchers have seen that this client is gone.
            for listed in of_epoch:
                # An object that cannot be read has no call to run.
                with suppress(RecordInvalid, VersionMismatch):
                    retried += self._retry_in(listed, replacement, tasks, may_wait, touch=touch)
            session.manifest.change(partial(_unheld, ordinal=ordinal, epoch=epoch, hold=hold))
        return retried

    def _retry_in(
        self,
        listed: ListedStatus,
        replacement: Replacement | None,
        tasks: Collection[_Task] | None,
        may_wait: set[str],
        *,
        touch: bool,
    ) -> list[StarburstFuture[Any]]:
        ref = listed.ref
        runs: dict[int, int] = {}
        calls: list[tuple[int, int, Place]] = []
        before: list[Status] = []

        def step(current: Status) -> Status:
            # Kept over further tries of this swap, so that a task that was retried meanwhile is not retried twice.
            if not runs:
                for i in current.failed():
                    span = current.span(i)
                    is_wanted = tasks is None or (ref.ordinal, ref.first + i) in tasks
                    # A task that has run itself has a claim.
                    if is_wanted and not (touch and span.claim) and current.call_block(i, span.function) is not None:
                        runs[i] = span.run
                before[:] = [current]
                own = called_itself(current, runs) if replacement is not None else []
                calls[:] = replacement.calls(listed, current, own) if replacement is not None and own else ()
            changed = transitions.retry(current, runs, None if replacement is None else replacement.digest, calls)
            return replace(changed) if touch and changed is current else changed

        updated = self._session.statuses.update(listed.key, step)
        if updated is not None and AFTER in (updated.status.more or ()):
            may_wait.add(listed.key)
        if updated is None or not runs:
            return []
        # The futures of the failed runs are completed before the new futures take their place.
        self._collector.take_in(listed.key, before[0])
        fresh: list[tuple[int, StarburstFuture[Any]]] = []
        for position, run in runs.items():
            fresh.append((position, StarburstFuture(self._owner, ref.ordinal, ref.first + position, run + 1)))
            self.add(fresh[-1][1])
        self._collector.watch(listed.key, ref, updated.etag, fresh)
        self._session.bell.ring([listed.key], len(fresh))
        return [future for _, future in fresh]

    def cancel(self, *, running: bool = False) -> int:
        """Cancel every task of the session that no worker has claimed, or with `running` all; return their number.

        Store: 1 LIST per 1,000 status objects; the requests of `FuturesOfClient.cancel_stored` for those with such tasks.
        """
        n_cancelled = self._owner.cancel_unsent()
        listing = self._session.statuses.all()
        return n_cancelled + self._owner.cancel_stored(
            {
                listed.key: range(listed.ref.n_tasks)
                for listed in listing
                if listed.size_class.has_pending or listed.has_blocked or (running and not listed.size_class.has_ended)
            },
            running=running,
        )


def _with_any(listing: Iterable[ListedStatus], tasks: Collection[_Task] | None) -> list[ListedStatus]:
    """Return those of these status objects that hold any of these tasks; all for None."""
    if tasks is None:
        return list(listing)
    ordered = sorted(tasks)
    return [listed for listed in listing if _has_any(ordered, listed.ref)]


def _has_any(ordered: Sequence[_Task], ref: StatusRef) -> bool:
    """Whether a status object holds any of these tasks."""
    i = bisect_left(ordered, (ref.ordinal, ref.first))
    return i < len(ordered) and ordered[i] < (ref.ordinal, ref.first + ref.n_tasks)


def _held(manifest: Manifest, ordinal: int, epoch: int, hold: str) -> Manifest | None:
    """List the epoch in the manifest, and hold it there until the hold is removed."""
    if ordinal >= len(manifest.submitters):
        # A client that came after this manifest was read: returning None has a fresh one read.
        return None
    submitter = manifest.submitters[ordinal]
    if (epoch, hold) in submitter.holds:
        return None
    opened = tuple(sorted({*submitter.open, epoch}))
    return manifest.with_submitter(ordinal, replace(submitter, open=opened, holds=(*submitter.holds, (epoch, hold))))


def _unheld(manifest: Manifest, ordinal: int, epoch: int, hold: str) -> Manifest | None:
    submitter = manifest.submitters[ordinal]
    kept = tuple(held for held in submitter.holds if held[1] != hold)
    if kept == submitter.holds and epoch in submitter.open:
        return None
    # Listed in any case: this client may have counted as gone meanwhile, and its hold taken off.
    opened = tuple(sorted({*submitter.open, epoch}))
    return manifest.with_submitter(ordinal, replace(submitter, open=opened, holds=kept))
