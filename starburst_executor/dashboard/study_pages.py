"""The pages of studies: their list, a study with its figures, its stream of updates, its figures as files, its report."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any
from urllib.parse import quote

from markupsafe import escape
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from starburst_executor.dashboard.hub import Hub
from starburst_executor.dashboard.study_watch import StudySnapshot, StudyWatch
from starburst_executor.dashboard.tabs import Tab, last_events
from starburst_executor.dashboard.views import deleted, names_of, templates
from starburst_executor.errors import StarburstError, StudyNotFound
from starburst_executor.report.study.facts import StudyFacts
from starburst_executor.report.study.page import artefacts_in, study_page_of
from starburst_executor.report.study.style import COLUMN, can_draw
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.study.keys import STUDIES
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.stage import is_name
from starburst_executor.study.status import StudyStatus, status_of
from starburst_executor.study.wheel import read_holder

__all__ = ["StudyPages", "fragments"]

_MOST_OPEN = 8
_MOST_LISTED = 100
_MOST_STAGES = 40
_MOST_SURVIVORS = 10
_MOST_FAILURES = 8
_MOST_ANCESTORS = 12
_MOST_ARTEFACTS = 12
_PATIENCE_S = 3.0
_PING_S = 15
_FIGURES = (
    "funnel",
    "metrics",
    "lineage",
    "influence",
    "contours",
    "parallel",
    "fronts",
    "curves",
    "failures",
    "times",
)
_TYPES = {
    "light": "image/svg+xml", "dark": "image/svg+xml", "svg": "image/svg+xml", "png": "image/png", "pdf": "application/pdf",
    "csv": "text/csv; charset=utf-8",
}  # fmt: skip
_KINDS = ("svg", "png", "pdf", "csv")
_Html = Callable[..., Response]


class StudyPages:
    """The handlers of the routes of studies.

    Args:
        html: Renders a template as an answer.
        problem: Returns a page that says what went wrong: status, title, words.
    """

    def __init__(self, hub: Hub, root: str, html: _Html, problem: Callable[[int, str, str], Response]) -> None:
        self._hub = hub
        self._root = root
        self._html = html
        self._problem = problem
        self._watches: OrderedDict[tuple[int, str], StudyWatch] = OrderedDict()
        self._turn = asyncio.Lock()
        # What tabs of one study share: its address, its snapshot, its fragments.
        self._made: tuple[str, int, StudySnapshot, dict[str, str]] | None = None

    async def close(self) -> None:
        """Close every study."""
        while self._watches:
            await self._watches.popitem()[1].close()

    async def studies(self, request: Request) -> Response:  # noqa: ARG002 - a handler
        """The list of studies."""
        lines, problems, n_more = await run_in_threadpool(self._lines)
        return self._html("studies.html", lines=lines, problems=problems, n_more=n_more, stores=self._stores())

    def _stores(self) -> list[str]:
        return [url.partition("?")[0] for url in self._hub.places.stores]

    def _lines(self) -> tuple[list[tuple[str, str, StudyStatus | str]], list[str], int]:
        """Return name, address and status or problem of each study; stores that cannot be listed; how many studies are left out."""
        found: list[tuple[str, str, StudyStatus | str]] = []
        problems: list[str] = []
        n_more = 0
        for number, url in enumerate(self._hub.places.stores):
            try:
                with closing(PatientStore(open_store(url), self._hub.clock, patience_s=_PATIENCE_S)) as store:
                    names = [name for name in store.list_folders(STUDIES) if is_name(name)]
                    n_more += max(0, len(names) - _MOST_LISTED)
                    shown = names[:_MOST_LISTED]
                    found += [(name, self._base(number, name), self._status(store, name)) for name in shown]
            except StarburstError as error:
                problems.append(f"{url}: {error}")
        return found, problems, n_more

    def _status(self, store: PatientStore, name: str) -> StudyStatus | str:
        objects = StudyObjects(store, name, self._hub.clock)
        try:
            return status_of(objects.read(), read_holder(store, objects.keys.driver))
        except StarburstError as error:
            return str(error)

    def _base(self, number: int, name: str) -> str:
        return f"{self._root}/studies/{number}/{quote(name, safe='')}"

    async def study(self, request: Request) -> Response:
        """One study."""
        watch, base = await self._found(request)
        snapshot = await watch.fresh()
        found = names_of(self._fragments(snapshot, base))
        rows = [(name.rpartition("/")[2], html) for name, html in found.items() if name.startswith("+stages/")]
        names = [figure.name for figure in snapshot.figures]
        return self._html(
            "study.html", f=found, rows=rows, base=base, facts=snapshot.facts, figures=[*names, *(name for name in _FIGURES if name not in names)],
            n_more=max(0, len(snapshot.facts.stages) - _MOST_STAGES), draws=can_draw(),
        )  # fmt: skip

    async def events(self, request: Request) -> Response:
        """The stream of updates of a study's page."""
        watch, base = await self._found(request)
        try:
            await watch.fresh()
        except StudyNotFound:
            return EventSourceResponse(last_events(self._deleted(watch)), headers={"cache-control": "no-store"})
        tab = Tab("study", is_hidden=request.query_params.get("hidden") == "1")
        return EventSourceResponse(self._updates(watch, tab, base), ping=_PING_S, headers={"cache-control": "no-store"})

    async def _updates(self, watch: StudyWatch, tab: Tab, base: str) -> AsyncIterator[ServerSentEvent]:
        watch.join(tab)
        try:
            async for _ in tab.wakes():
                if watch.is_gone:
                    async for event in last_events(self._deleted(watch)):
                        yield event
                    return
                if watch.snapshot is None:
                    continue
                data = tab.update(self._fragments(watch.snapshot, base))
                if data is not None:
                    yield ServerSentEvent(data, event="update", sep="\n")
        finally:
            watch.leave(tab)

    def _deleted(self, watch: StudyWatch) -> dict[str, str]:
        return deleted("study", watch.name, f"{self._root}/studies")

    async def figure(self, request: Request) -> Response:
        """A figure: for the page in the colours of its theme, or as a file for print, or its data."""
        watch, _ = await self._found(request)
        name, kind = request.path_params["figure"], request.path_params["kind"]
        theme = request.query_params.get("theme", "")
        wanted = theme if kind == "svg" and theme in ("light", "dark") else kind
        body = await watch.figure(name, wanted) if kind in _KINDS else None
        if body is None:
            return self._problem(404, "There is no such figure", "Go on from the study's page.")
        headers = {"content-disposition": f'attachment; filename="{watch.name}-{_safe(name)}.{kind}"'}
        # The address has the version of what is shown.
        is_shown = wanted in ("light", "dark") and "v" in request.query_params
        return Response(
            body, media_type=_TYPES[wanted], headers={"cache-control": "private, max-age=3600"} if is_shown else headers
        )

    async def report(self, request: Request) -> Response:
        """The study's report, as a file to keep."""
        watch, _ = await self._found(request)
        snapshot = await watch.fresh()
        page = await run_in_threadpool(study_page_of, snapshot.facts, list(snapshot.figures))
        return Response(
            page,
            media_type="text/html; charset=utf-8",
            headers={"content-disposition": f'attachment; filename="{watch.name}.html"'},
        )

    async def _found(self, request: Request) -> tuple[StudyWatch, str]:
        number, name = request.path_params["store"], request.path_params["study"]
        stores = self._hub.places.stores
        if not is_name(name) or not 0 <= number < len(stores):
            raise StudyNotFound(f"no such study: {name[:80]!r}")
        async with self._turn:
            watch = self._watches.get((number, name))
            if watch is None:
                watch = await run_in_threadpool(StudyWatch, stores[number], name, self._hub.clock)
                self._watches[number, name] = watch
            self._watches.move_to_end((number, name))
            for key, other in list(self._watches.items()):
                if len(self._watches) > _MOST_OPEN and other is not watch and not other.n_tabs:
                    await self._watches.pop(key).close()
        return watch, self._base(number, name)

    def _fragments(self, snapshot: StudySnapshot, base: str) -> dict[str, str]:
        if self._made is None or self._made[:2] != (base, id(snapshot)):
            self._made = (base, id(snapshot), snapshot, fragments(snapshot, base))
        return self._made[3]


def fragments(snapshot: StudySnapshot, base: str) -> dict[str, str]:
    """Return the parts of a study's page that change, by the ids of their elements, the most important first."""
    facts = snapshot.facts
    status = facts.status
    found = {
        "title": str(escape(f"{_share(facts)} · {facts.record.name}")),
        "say": str(escape(_sentence(facts))),
        "state": _part("state", status),
        "notice": _part("notice", snapshot.problem, status),
        "share": _share(facts),
        "ended": _part("ended", facts),
        "bar": _part("bar", _bar(status)),
    }
    for i, (stage, one) in enumerate(zip(facts.stages[:_MOST_STAGES], status.stages, strict=False)):
        found[f"+stages/stage-{i}"] = _part("stage_cells", stage, one)
    winner = facts.winner()
    found |= {
        "facts": _part("facts", facts, winner, artefacts_in(facts)),
        "lineage": _part("lineage", facts.lineage(winner.name)[-_MOST_ANCESTORS:] if winner else []),
        "survivors": _part("survivors", _last_survivors(facts)),
        "failures": _part("failures", facts.failures(), _MOST_FAILURES),
        "artefacts": _part("artefacts", artefacts_in(facts), _MOST_ARTEFACTS, facts.record.name),
    }
    for figure in snapshot.figures:
        found[f"figure-{figure.name}"] = _part(
            "figure",
            figure,
            base,
            snapshot.version_of(figure.name),
            [round(96 * inches) for inches in figure.size],
            figure.size[0] > COLUMN,
        )
    return found


def _part(name: str, *values: Any) -> str:
    return str(getattr(templates().get_template("study_parts.html").module, name)(*values)).strip()


def _share(facts: StudyFacts) -> str:
    return f"{100 * facts.n_ended / facts.n_trials:.0f} %"


def _sentence(facts: StudyFacts) -> str:
    """Return what a screen reader says; it changes once a percent, or when a stage is decided."""
    decided = sum(stage.record.is_decided for stage in facts.stages)
    return (
        f"{facts.status.state}: {100 * facts.n_ended // facts.n_trials} percent of {facts.n_trials:,} trials ended, {decided} of "
        f"{len(facts.stages)} stages decided"
    )


def _bar(status: StudyStatus) -> list[tuple[str, int, int]]:
    """Return the parts of the bar: state, left edge, width, of 1,000."""
    total = sum(stage.trials for stage in status.stages)
    parts, left = [], 0
    seen = 0
    for name in ("completed", "failed", "cancelled"):
        seen += sum(getattr(stage, name) for stage in status.stages)
        right = round(1000 * seen / total)
        if right > left:
            parts.append((name, left, right - left))
            left = right
    return parts


def _last_survivors(facts: StudyFacts) -> dict[str, Any]:
    for stage in reversed(facts.stages):
        if stage.record.survivors:
            return {
                "stage": stage.name, "metrics": stage.metrics()[:4], "params": stage.params()[:4],
                "rows": stage.record.survivors[:_MOST_SURVIVORS], "total": len(stage.record.survivors),
            }  # fmt: skip
    return {"stage": "", "metrics": [], "params": [], "rows": [], "total": 0}


def _safe(name: str) -> str:
    return name if name in _FIGURES else "figure"
