"""One study while pages show it: read at intervals while a tab is open, its figures drawn when a browser asks for them.

record, running stages so far (304s as a rule), wheel ──► facts ──► fragments for tabs        figures: once for each change and theme
          └── tables of newly decided stages, by digest
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool

from starburst_executor.clock import Clock
from starburst_executor.dashboard.polling import Poller, run_whole
from starburst_executor.dashboard.tabs import Tab
from starburst_executor.errors import StarburstError, StudyNotFound
from starburst_executor.report.study.facts import StudyFacts, cost_of_session, facts_of
from starburst_executor.report.study.figure import Figure
from starburst_executor.report.study.figures import figures_of
from starburst_executor.report.study.style import DARK, LIGHT, can_draw
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.study.live import LiveRows, read_live
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import StudyRecord
from starburst_executor.study.status import status_of
from starburst_executor.study.tables import TrialRow
from starburst_executor.study.wheel import read_holder

__all__ = ["StudySnapshot", "StudyWatch"]

_log = logging.getLogger(__name__)
_PATIENCE_S = 3.0
_EACH_S = 2.0
_QUIET_S = 10.0  # of a study that is complete or aborted, and of a page whose tabs are all hidden
_LIVE_S = 20.0  # between two looks at trials of running stages: each look draws most figures again
_MOST_KEPT = 64  # drawn figures


class StudySnapshot(NamedTuple):
    """A study as it was read.

    Attributes:
        version: Changes with everything that figures show.
        facts: What pages show.
        figures: Its figures, not drawn yet.
        trials_version: Changes with the trials that figures show; all but the funnel show nothing else.
        problem: Why it is not up to date; empty if it is.
    """

    version: str
    facts: StudyFacts
    figures: Sequence[Figure]
    trials_version: str = ""
    problem: str = ""

    def version_of(self, figure: str) -> str:
        """Return what changes with everything that this figure shows."""
        return self.version if figure == "funnel" else self.trials_version


class StudyWatch:
    """One study of one store. Made and used in the server's event loop; reads and draws in threads.

    Attributes:
        is_gone: Whether the study was deleted when it was read last. Another one of this name may begin.
    """

    def __init__(self, store_url: str, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._store = PatientStore(open_store(store_url), clock, patience_s=_PATIENCE_S)
        self._objects = StudyObjects(self._store, name, clock)
        self._tables: dict[str, list[TrialRow]] = {}  # by digest
        self._live: dict[str, LiveRows] = {}
        self._live_of, self._live_at = 0, float("-inf")  # the generation and the time of the last look
        self._drawn: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._snapshot: StudySnapshot | None = None
        self.is_gone = False
        self._read_at = float("-inf")
        self._turn = asyncio.Lock()
        self._drawing = asyncio.Lock()
        self._poller = Poller(self._poll, f"study-{name}")

    @property
    def n_tabs(self) -> int:
        return len(self._poller.tabs)

    @property
    def snapshot(self) -> StudySnapshot | None:
        """The last one; None before the first."""
        return self._snapshot

    async def close(self) -> None:
        """End the poller and close the store. A second call is harmless."""
        await self._poller.close()
        async with self._turn:
            await run_in_threadpool(self._store.close)

    async def fresh(self, most_s: float = 1.0) -> StudySnapshot:
        """Return a snapshot that is not older than this; the last one, with its problem, if the store does not answer.

        Raises: StudyNotFound: it was deleted. StarburstError if there is none yet. Store: 2 GETs, 1 GET for each stage that was decided meanwhile; 1 for each running stage, at most every 20 s.
        """
        async with self._turn:
            if self._snapshot is None or self._clock.monotonic() - self._read_at > most_s:
                try:
                    self._snapshot = await run_whole(self._read, self._snapshot)
                except StudyNotFound:
                    self._snapshot, self.is_gone = None, True
                    raise
                self.is_gone = False
                self._read_at = self._clock.monotonic()
        return self._snapshot

    def _read(self, last: StudySnapshot | None) -> StudySnapshot:
        try:
            record = self._objects.read()
            status = status_of(record, read_holder(self._store, self._objects.keys.driver))
            self._read_live(record)
            n_ended = sum(one.completed + one.failed + one.cancelled for one in status.stages)
            trials_version = ".".join([str(record.generation), *(one.etag for one in self._live.values())])
            version = f"{trials_version}.{n_ended}"
            if last is not None and (last.version, last.facts.status, last.problem) == (version, status, ""):
                return last
            digests = {stage.name: stage.table for stage in record.stages if stage.table is not None}
            self._tables = {
                digest: self._tables.get(digest) or self._objects.read_table(digest) for digest in digests.values()
            }
            cost = cost_of_session(record.session) if last is None or record != last.facts.record else last.facts.cost
        except StudyNotFound:
            raise
        except StarburstError as error:
            if last is None:
                raise
            _log.info("a study cannot be read: study=%s: %s", self.name, type(error).__name__)
            return last._replace(problem=str(error))
        tables = {name: one.rows for name, one in self._live.items()}
        tables |= {name: self._tables[digest] for name, digest in digests.items()}
        facts = facts_of(record, status, tables, store=self._store.url, cost=cost, at=self._clock.now())
        return StudySnapshot(version, facts, figures_of(facts) if can_draw() else (), trials_version)

    def _read_live(self, record: StudyRecord) -> None:
        """Read the trials of running stages, if the record has changed or it is time. Store: at most 1 GET for each running stage."""
        now = self._clock.monotonic()
        if self._live_of == record.generation and now - self._live_at < _LIVE_S:
            return
        self._live = read_live(self._objects, record, self._live if self._live_of == record.generation else None)
        self._live_of, self._live_at = record.generation, now

    async def figure(self, name: str, kind: str) -> bytes | None:
        """Return a drawn figure: `light` and `dark` as SVG for pages, `svg`, `pdf` and `png` for print, `csv`; None if there is none.

        Raises: ConfigError: matplotlib is not installed.
        """
        snapshot = await self.fresh(_EACH_S)
        found = next((one for one in snapshot.figures if one.name == name), None)
        if found is None:
            return None
        if kind == "csv":
            return (await run_in_threadpool(found.to_csv)).encode()
        key = (snapshot.version_of(name), name, kind)
        # One at a time: drawing holds matplotlib's settings, and a page asks for ten.
        async with self._drawing:
            body = self._drawn.get(key)
            if body is None:
                theme = {"light": LIGHT, "dark": DARK}.get(kind)
                draw = (
                    functools.partial(found.to_bytes, kind)
                    if theme is None
                    else functools.partial(found.to_image, theme)
                )
                body = self._drawn[key] = await run_in_threadpool(draw)
                while len(self._drawn) > _MOST_KEPT:
                    self._drawn.popitem(last=False)
        return body

    # --- tabs ---------------------------------------------------------------------------------------------------------

    def join(self, tab: Tab) -> None:
        """Let a tab get updates; start the poller for the first one."""
        tab.woken.set()
        self._poller.join(tab)

    def leave(self, tab: Tab) -> None:
        """Let a tab get no more; the poller ends with the last one."""
        self._poller.leave(tab)

    async def _poll(self) -> None:
        while self._poller.tabs:
            try:
                snapshot = await self.fresh(_EACH_S / 2)
                is_quiet = snapshot.facts.status.state != "open" or self._poller.are_hidden
            except StarburstError as error:
                _log.info("a study cannot be watched: study=%s: %s", self.name, type(error).__name__)
                is_quiet = True
            self._poller.wake()
            if self.is_gone:  # tabs say so, once
                return
            await asyncio.sleep(_QUIET_S if is_quiet else _EACH_S)
