"""Watches one session for all tabs that show it: a poller while any is open, and the newest snapshot.

    first tab ──► poll: look ──► snapshot ──► each tab takes its fragments ──► pause ─┐
                   ▲                                                                  │
                   └───────────── last tab closed: the poller ends ◄──────────────────┘

Cost: at most 20 requests an update, and a twentieth of one core. Fields are used in the server's event loop, except in `_look`, of which
one runs at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace

from starlette.concurrency import run_in_threadpool

from starburst_executor.aws.billing.prices import requests_usd
from starburst_executor.client.explaining import explain_session
from starburst_executor.client.failing import FailureKind
from starburst_executor.client.finding import Visit, visit
from starburst_executor.client.looks import Looks
from starburst_executor.client.money import is_billed
from starburst_executor.client.reading import Block, Reading
from starburst_executor.client.report import SessionStatus
from starburst_executor.clock import Clock
from starburst_executor.dashboard.index import TaskIndex
from starburst_executor.dashboard.polling import Poller, run_whole
from starburst_executor.dashboard.query import Page, Query, page, undecided
from starburst_executor.dashboard.strips import Timeline
from starburst_executor.dashboard.tabs import Tab
from starburst_executor.errors import SessionNotFound, StarburstError
from starburst_executor.protocol.spans.record import State
from starburst_executor.report.gathering import Gathering
from starburst_executor.report.metrics import Metrics

__all__ = ["MOST_REQUESTS", "Snapshot", "Usage", "Watch"]

_log = logging.getLogger(__name__)

MOST_REQUESTS = 20
_EACH_S = 2.0
_QUIET_S = 10.0
_HIDDEN_S = 15.0
_QUIET_AFTER_S = 30.0
# Between two updates, this many times the processor time of the last one, and twice its duration.
_REST = 20.0
_WAIT = 2.0
_MOST_REST_S = 15.0
# A request for a page waits for a look only if the last one is older.
_FRESH_S = 3.0
# How long requests are tried again, and how long a page waits for a look, before it says that the store is silent: a connection that
# hangs is given up only after half a minute.
_PATIENCE_S = 5.0
# How long one request for tasks may read.
_FILL_S = 3.0
_KINDS = ("get", "not_modified", "list", "create", "swap", "put", "delete")
_REMEMBERED = 30
_SILENT = f"reading the store takes longer than {_PATIENCE_S:.0f} s; this page goes on trying"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the page itself asks of the store.

    Attributes:
        n_requests: Requests of the last update.
        per_s: Requests a second over the last updates.
        usd_per_hour: What they cost at that rate; 0 for a store without charges.
        each_s: Seconds from one update to the next.
        total: Requests of all updates and pages so far.
    """

    n_requests: int = 0
    per_s: float = 0.0
    usd_per_hour: float = 0.0
    each_s: float = _EACH_S
    total: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a session after one look.

    Attributes:
        number: Counts the looks, from 1.
        kinds: The kinds of failures that were read, the most frequent first.
        why: Why tasks wait, the most important first.
        problem: Why the last look failed; the rest is then older. Empty if it did not.
    """

    number: int
    status: SessionStatus
    timeline: Timeline
    kinds: list[FailureKind]
    why: list[str]
    usage: Usage
    has_key: bool
    problem: str = ""


class Watch:
    """One session. Made by `open`, ended by `close`.

    Attributes:
        visit: The open session.
        index: What is known of its tasks.
        is_gone: Whether the session was deleted. It is not looked at again then, and `fresh` raises SessionNotFound.
    """

    def __init__(self, opened: Visit, stack: ExitStack, clock: Clock) -> None:
        self.visit = opened
        self.reading = Reading(opened.session)
        self.index = TaskIndex(self.reading, opened.session.manifest.current.created_at)
        self.snapshot: Snapshot | None = None
        self.is_gone = False
        self._stack = stack
        self._clock = clock
        self._looks = Looks(opened.session, opened.store.requests.snapshot, take=self._take)
        self._gathering: Gathering | None = None  # only once metrics were asked for
        self._poller = Poller(self._poll, f"watch-{self.session_id}")
        self._turn = asyncio.Lock()
        self._looked_at = float("-inf")
        self._rest_s = 0.0
        self._changed_at = float("-inf")
        self._marks: deque[tuple[float, dict[str, int]]] = deque(maxlen=_REMEMBERED)

    @classmethod
    def open(cls, url: str, clock: Clock) -> Watch:
        """Open a session by its URL. Blocks. Raises: SessionNotFound, ConfigError, AccessDenied, StoreUnavailable. Store: 1 GET."""
        with ExitStack() as stack:
            opened = stack.enter_context(visit(url, clock))
            opened.store.patience_s = _PATIENCE_S
            return cls(opened, stack.pop_all(), clock)

    @property
    def session_id(self) -> str:
        return self.visit.session.session_id

    @property
    def n_tabs(self) -> int:
        return len(self._poller.tabs)

    @property
    def is_polling(self) -> bool:
        """Whether the poller runs: only while a tab is open."""
        return self._poller.is_running

    async def close(self) -> None:
        """End the poller and close the store. A second call is harmless."""
        await self._poller.close()
        async with self._turn:  # a look that runs in its thread goes on after its task was cancelled
            await run_in_threadpool(self._stack.close)

    # --- looks --------------------------------------------------------------------------------------------------------

    async def fresh(self, most_s: float = _FRESH_S) -> Snapshot:
        """Return a snapshot that is not older than this; the last one, with its problem, if the store does not answer in time.

        Raises: SessionNotFound: it was deleted. StarburstError if there is none yet.
        """
        if self.is_gone:
            raise _deleted(self.session_id)
        look = asyncio.ensure_future(self._look_if_older(most_s))
        try:
            await asyncio.wait([look], timeout=None if self.snapshot is None else _PATIENCE_S)
        finally:
            if is_late := not look.done():
                look.cancel()  # one that waits for its turn; one that reads goes on to its end, and its snapshot is shown then
        if not is_late:
            look.result()
        elif self.snapshot is not None and not self.snapshot.problem:
            self.snapshot = replace(self.snapshot, number=self.snapshot.number + 1, problem=_SILENT)
        assert self.snapshot is not None  # `_look` raises otherwise  # noqa: S101
        return self.snapshot

    async def _look_if_older(self, most_s: float) -> None:
        async with self._turn:
            wanted_s = max(most_s, self._rest_s if self.is_polling else 0.0)
            if self.snapshot is None or self._clock.monotonic() - self._looked_at > wanted_s:
                await run_whole(self._look)

    def _look(self) -> None:
        began, last = self._clock.monotonic(), self.snapshot
        cpu_s = _cpu_s()
        try:
            self.snapshot = self._snapshot(last)
        except SessionNotFound as error:
            self.is_gone = True
            raise _deleted(self.session_id) from error
        except StarburstError as error:
            _log.info("a look failed: session=%s: %s", self.session_id, type(error).__name__)
            if last is None:
                raise
            self.snapshot = Snapshot(
                last.number + 1, last.status, last.timeline, last.kinds, last.why, last.usage, last.has_key, str(error)
            )
        finally:
            self._looked_at = self._clock.monotonic()
            rest_s = max(_REST * (_cpu_s() - cpu_s), _WAIT * (self._looked_at - began))
            # The first one reads more than all others, once.
            self._rest_s = 0.0 if last is None else min(rest_s, _MOST_REST_S)

    def _snapshot(self, last: Snapshot | None) -> Snapshot:
        before = self._n_requests()
        status = self._looks.look()
        self.index.set_listing(self._looks.listing)
        if last is not None:
            most = before + MOST_REQUESTS
            unread = self.index.unread(failed_first=True)[: max(0, most - self._n_requests())]
            self.index.fill(unread, lambda: True)
            # The last one may take two: the object, and its failure.
            self.index.fetch(lambda: self._n_requests() < most - 1, at_once=1)
        running = [status.at - task.seconds for worker in status.members for task in worker.tasks]
        if last is None or _changes(last.status) != _changes(status):
            self._changed_at = self._clock.monotonic()
        counts = self.visit.store.requests.snapshot()
        self._marks.append((self._clock.monotonic(), counts))
        return Snapshot(
            1 if last is None else last.number + 1,
            status,
            self.index.timeline(status.at, running),
            self.index.failures(),
            explain_session(self.visit.session, status),
            self._usage(self._n_requests() - before),
            self.reading.has_key,
        )

    def _n_requests(self) -> int:
        counts = self.visit.store.requests.snapshot()
        return sum(counts[kind] for kind in _KINDS)

    def _usage(self, n_requests: int) -> Usage:
        (first_at, first), (last_at, last) = self._marks[0], self._marks[-1]
        seconds = max(_EACH_S, last_at - first_at)
        counts = {kind: last[kind] - first[kind] for kind in _KINDS}
        usd = requests_usd(counts) if is_billed(self.visit.store.url) else 0.0
        total = sum(last[kind] for kind in _KINDS)
        return Usage(n_requests, sum(counts.values()) / seconds, usd / seconds * 3600, self.pause_s(), total)

    def _take(self, block: Block) -> None:
        self.index.absorb_ahead(block)
        if self._gathering is not None:
            self._gathering.add(block)

    async def metrics(self) -> str:
        """Return the session's numbers in Prometheus' text format.

        Store: at the first call 1 GET for each status object; later 1 GET for each that has changed.
        """
        snapshot = await self.fresh()
        texts: list[str] = []

        def gather() -> None:
            if self._gathering is None:
                self._gathering = Gathering(self.reading, snapshot.status.created_at)
            self._gathering.read_all(self._looks.listing)
            overview = self._gathering.overview(self._looks.listing, snapshot.status)
            texts.append(Metrics(snapshot.status, overview).to_prometheus())

        async with self._turn:
            await run_whole(gather)
        return texts[0]

    # --- tabs ---------------------------------------------------------------------------------------------------------

    def join(self, tab: Tab) -> None:
        """Let a tab get updates; start the poller for the first one."""
        if self.snapshot is not None or self.is_gone:
            tab.woken.set()
        self._poller.join(tab)

    def leave(self, tab: Tab) -> None:
        """Let a tab get no more; the poller ends with the last one."""
        self._poller.leave(tab)

    def pause_s(self) -> float:
        """Return the seconds from one update to the next, as things are."""
        pause_s = _EACH_S
        if self._clock.monotonic() - self._changed_at > _QUIET_AFTER_S:
            pause_s = _QUIET_S
        if self._poller.are_hidden:
            pause_s = _HIDDEN_S
        return max(pause_s, self._rest_s)

    async def _poll(self) -> None:
        while self._poller.tabs:
            try:
                await self.fresh(_EACH_S / 2)
            except StarburstError as error:  # no snapshot yet: the page has said so
                _log.info("a session cannot be watched: session=%s: %s", self.session_id, type(error).__name__)
            self._poller.wake()
            if self.is_gone:  # tabs say so, once
                return
            await self._poller.pause(self.pause_s())

    # --- pages of tasks -----------------------------------------------------------------------------------------------

    async def page(self, query: Query) -> Page:
        """Return a page of tasks; incomplete, with `n_unread`, if reading what it needs takes longer than three seconds.

        Store: 1 GET for each object that must be read: see `query.undecided`.
        """
        return await run_in_threadpool(self._page, query)

    def _page(self, query: Query) -> Page:
        deadline = self._clock.monotonic() + _FILL_S

        def has_time() -> bool:
            return self._clock.monotonic() < deadline

        self.index.fill(undecided(self.index, query), has_time)
        if query.text or query.states == {State.FAILED}:
            self.index.fetch(has_time)
        shown, unread = page(self.index, query)
        if unread and self.index.fill(unread, has_time):
            shown, _ = page(self.index, query)
        return shown


def _deleted(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"the session was deleted: {session_id}")


def _cpu_s() -> float:
    """Return the processor time of this process so far, in seconds."""
    return sum(os.times()[:2])


def _changes(status: SessionStatus) -> tuple[object, ...]:
    running = tuple((worker.id, worker.state, tuple(task.id for task in worker.tasks)) for worker in status.members)
    return status.state, status.total, status.ended, status.claimed, status.failed, running
