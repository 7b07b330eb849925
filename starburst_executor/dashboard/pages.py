"""The pages: what each reads, and what its template gets."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from markupsafe import Markup
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from starburst_executor.client.explaining import explain_task
from starburst_executor.client.failing import FailureKind
from starburst_executor.client.logs import LogLine, TaskLogs
from starburst_executor.client.reading import Block, Reading, Task, parse_task, stored_bytes
from starburst_executor.dashboard.actions import ACTIONS, checked
from starburst_executor.dashboard.hub import Hub
from starburst_executor.dashboard.lister import Lister
from starburst_executor.dashboard.polling import in_time
from starburst_executor.dashboard.query import PAGE, Query
from starburst_executor.dashboard.safety import Access, own_form
from starburst_executor.dashboard.sessions import Sessions
from starburst_executor.dashboard.showing import Shown, plain_call, plain_result, unpickled
from starburst_executor.dashboard.tabs import Tab, last_events
from starburst_executor.dashboard.views import deleted, fragments, names_of, part, session_cells, templates
from starburst_executor.dashboard.watch import Snapshot, Watch
from starburst_executor.errors import ConfigError, SessionNotFound, StarburstError
from starburst_executor.protocol.outcomes import Failure
from starburst_executor.protocol.spans.record import State
from starburst_executor.report.metrics import PROMETHEUS_TYPE
from starburst_executor.session.store import SessionStore

__all__ = ["Pages"]

_PAGES = ("session", "tasks", "task", "workers", "failures")
_MOST_WORKERS = 200
_MOST_KINDS = 20
_MOST_LINES = 500
_MOST_LINE = 2000
_PING_S = 15
_MOST_ID = 100


class Pages:
    """The handlers of all routes."""

    def __init__(self, hub: Hub, access: Access) -> None:
        self._hub = hub
        self._access = access
        self._lister = Lister(Sessions(hub.places, hub.clock), hub.clock)
        self._named = tuple(hub.places.known)
        self._stores = [url.partition("?")[0] for url in hub.places.stores]

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def sessions(self, request: Request) -> Response:
        """The list of sessions."""
        after = request.query_params.get("after", "")[:_MOST_ID]
        found = await in_time(self._lister.page(after))
        return self.html(
            "sessions.html",
            found=found,
            total=Markup(part("list_total", found, self._stores)),  # noqa: S704 - from a template, escaped there
            after=after,
            now=(now := self._hub.clock.now()),
            rows=names_of(session_cells(found.lines, self._access.root_path, now)),
            seen=_digest(session_cells(found.lines, self._access.root_path)),
            usage=Markup(part("usage", self._lister.usage(found))),  # noqa: S704 - from a template, escaped there
        )

    async def session(self, request: Request) -> Response:
        """One session."""
        return self._of_session(*await self._found(request), "session.html", "session")

    async def workers(self, request: Request) -> Response:
        """The workers of a session."""
        watch, snapshot = await self._found(request)
        launches = sorted(watch.visit.session.manifest.current.launches, key=lambda launch: -launch.at)
        n_more = max(0, len(snapshot.status.members) - _MOST_WORKERS)
        return self._of_session(watch, snapshot, "workers.html", "workers", launches=launches[:20], n_more=n_more)

    async def failures(self, request: Request) -> Response:
        """The failures of a session by kind."""
        watch, snapshot = await self._found(request)
        if snapshot.has_key:
            await in_time(watch.page(Query(states=frozenset({State.FAILED}))))  # reads what failed
        kinds = watch.index.failures()
        shown = await in_time(run_in_threadpool(_examples, watch, kinds[:_MOST_KINDS]))
        return self._of_session(
            watch,
            snapshot,
            "failures.html",
            "failures",
            kinds=shown,
            n_read=sum(kind.n_tasks for kind in kinds),
            n_more=max(0, len(kinds) - _MOST_KINDS),
        )

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def tasks(self, request: Request) -> Response:
        """A page of the tasks of a session."""
        watch, snapshot = await self._found(request)
        query = Query.parse(request.query_params.multi_items())
        too_big = watch.index.is_too_big
        if too_big:
            query = Query(key=query.key, is_back=query.is_back)
        return self._of_session(
            watch,
            snapshot,
            "tasks.html",
            "tasks",
            query=query,
            shown=await in_time(watch.page(query)),
            states={state.name.lower() for state in query.states},
            page_size=PAGE,
            too_big=too_big,
            has_labels=watch.index.has_labels,
            unkept=watch.index.n_unkept_messages if query.text else 0,
        )

    async def task(self, request: Request) -> Response:
        """One task."""
        watch, snapshot = await self._found(request)
        try:
            name = _task_name(request)
            values = await in_time(run_in_threadpool(_task_values, watch, snapshot, name))
        except ConfigError as error:
            return self.problem(404, "There is no such task", str(error), session=watch.session_id)
        # What has ended changes no more: such a page is kept up to date as a list of tasks is.
        page = "tasks" if values["task"].has_ended else "task"
        return self._of_session(watch, snapshot, "task.html", page, subject=name, **values)

    async def shown(self, request: Request) -> Response:
        """The call or the result of a task, unpickled by a process of its own. POST."""
        if await own_form(self._access, request) is None:
            return self.problem(403, "The form is not of this dashboard", "Load the page again, and send it once more.")
        watch, snapshot = await self._found(request)
        name, kind = _task_name(request), request.path_params["kind"]
        if kind not in ("call", "result"):
            return self.problem(404, "There is no such page", "A task has a call and a result.")
        watch.reading.check_key()
        [value] = await run_in_threadpool(unpickled, watch.reading, [name], kind)
        return self._of_session(watch, snapshot, "shown.html", "tasks", task_id=name, kind=kind, value=value)

    # --- events and actions -------------------------------------------------------------------------------------------

    async def events(self, request: Request) -> Response:
        """The stream of updates of one page."""
        page = request.query_params.get("page", "session")
        if page not in _PAGES:
            return self.problem(
                404, "There is no such page", "A stream of updates is asked for by the pages themselves."
            )
        if page == "task":
            parse_task(request.query_params.get("subject", ""))
        session_id = request.path_params["session"]
        try:
            watch = await self._hub.watch(session_id)
        except SessionNotFound:
            # Not an error: to a browser that is like a server that does not answer, and it would ask for ever.
            return EventSourceResponse(last_events(self._deleted(session_id)), headers={"cache-control": "no-store"})
        tab = Tab(
            page,
            subject=request.query_params.get("subject", "")[:60],
            is_hidden=request.query_params.get("hidden") == "1",
        )
        return EventSourceResponse(self._updates(watch, tab), ping=_PING_S, headers={"cache-control": "no-store"})

    async def list_events(self, request: Request) -> Response:
        """The stream of updates of a page of the list of sessions."""
        parameters = request.query_params
        tab = Tab("sessions", subject=parameters.get("after", "")[:_MOST_ID], is_hidden=parameters.get("hidden") == "1")
        updates = self._list_updates(tab, parameters.get("seen", ""))
        return EventSourceResponse(updates, ping=_PING_S, headers={"cache-control": "no-store"})

    async def _list_updates(self, tab: Tab, seen: str) -> AsyncIterator[ServerSentEvent]:
        self._lister.join(tab)
        try:
            async for _ in tab.wakes():
                found = self._lister.pages.get(tab.subject)
                if found is None:
                    continue
                cells = session_cells(found.lines, self._access.root_path)
                order = {"=sessions": " ".join(cells)}
                rows = {f"^sessions/{name}": html for name, html in reversed(cells.items())}
                if seen == _digest(cells):
                    tab.seed({**order, **rows})
                seen = ""
                total = {
                    "total": part("list_total", found, self._stores),
                    "usage": part("usage", self._lister.usage(found)),
                }
                data = tab.update({**order, **rows, **total})
                if data is not None:
                    yield ServerSentEvent(data, event="update", sep="\n")
        finally:
            self._lister.leave(tab)

    async def close(self) -> None:
        """End the updates of the list of sessions."""
        await self._lister.close()

    async def _updates(self, watch: Watch, tab: Tab) -> AsyncIterator[ServerSentEvent]:
        watch.join(tab)
        try:
            async for _ in tab.wakes():
                if watch.is_gone:
                    async for event in last_events(self._deleted(watch.session_id)):
                        yield event
                    return
                snapshot = watch.snapshot
                if snapshot is None:
                    continue
                data = tab.update(self._fragments(watch, snapshot, tab.page, tab.subject))
                if data is not None:
                    yield ServerSentEvent(data, event="update", sep="\n")
        finally:
            watch.leave(tab)

    async def metrics(self, request: Request) -> Response:
        """The numbers of a session in Prometheus' text format; of the session that was named when the dashboard was started, for `/metrics`."""
        session_id = request.path_params.get("session") or next(iter(self._named), None)
        if session_id is None:
            return self.problem(
                404, "Which session?", "Name one when you start the dashboard, or ask for /s/ID/metrics."
            )
        watch = await self._hub.watch(session_id)
        return PlainTextResponse(await watch.metrics(), media_type=PROMETHEUS_TYPE)

    async def action(self, request: Request) -> Response:
        """Asks before a change of a session, and carries it out by POST."""
        name = request.path_params["action"]
        if name not in ACTIONS or not self._access.allows_actions:
            return self.problem(
                404,
                "There is no such page",
                "Sessions can be changed if the dashboard was started with --allow-actions.",
            )
        watch, snapshot = await self._found(request)
        values: dict[str, Any] = {"name": name, "action": ACTIONS[name], "done": "", "problem": "", "value": ""}
        if request.method == "POST":
            form = await own_form(self._access, request)
            if form is None:
                return self.problem(
                    403, "The form is not of this dashboard", "Load the page again, and send it once more."
                )
            values["value"] = form.get("value", "").strip()[:20]
            try:
                checked(watch.visit.session.manifest.current)
                values["done"] = await run_in_threadpool(ACTIONS[name].run, watch.visit.url, values["value"])
            except (StarburstError, RuntimeError) as error:
                values["problem"] = str(error)
            snapshot = await watch.fresh(0.0)
        return self._of_session(watch, snapshot, "confirm.html", "session", **values)

    # --- shared -------------------------------------------------------------------------------------------------------

    async def _found(self, request: Request) -> tuple[Watch, Snapshot]:
        watch = await in_time(self._hub.watch(request.path_params["session"]))
        try:
            return watch, await watch.fresh()
        except SessionNotFound:
            await self._hub.forget(watch.session_id)
            raise

    def _deleted(self, session_id: str) -> dict[str, str]:
        return deleted("session", session_id, f"{self._access.root_path}/")

    def _of_session(
        self, watch: Watch, snapshot: Snapshot, template: str, page: str, *, subject: str = "", **values: Any
    ) -> Response:
        found = names_of(self._fragments(watch, snapshot, page, subject))
        rows = [(name.rpartition("/")[2], html) for name, html in found.items() if name.startswith("+workers/")]
        return self.html(
            template,
            status=snapshot.status,
            base=f"{self._access.root_path}/s/{snapshot.status.id}",
            f=found,
            rows=rows[:_MOST_WORKERS],
            page=page,
            subject=subject,
            has_key=snapshot.has_key,
            session_name=watch.visit.session.manifest.current.name,
            actions=ACTIONS if self._access.allows_actions else {},
            form_token=self._access.form_token,
            **values,
        )

    def _fragments(self, watch: Watch, snapshot: Snapshot, page: str, subject: str) -> dict[str, str]:
        return fragments(
            page,
            snapshot,
            watch.visit.session.manifest.current,
            root=self._access.root_path,
            subject=subject,
            most_workers=_MOST_WORKERS,
            subject_state=watch.index.state_of(*parse_task(subject)) if page == "task" else "",
        )

    def html(self, template: str, status_code: int = 200, **values: Any) -> Response:
        """Return a page from a template."""
        html = templates().get_template(template).render(root=self._access.root_path, **values)
        return HTMLResponse(html, status_code)

    def problem(self, code: int, title: str, words: str, *, session: str = "") -> Response:
        """Return a page that says what went wrong, and leads back to this session, if there is one."""
        return self.html("problem.html", code, status=code, title=title, words=words, is_inside=True, session=session)


def _digest(cells: Mapping[str, str]) -> str:
    """Return what tells whether a page shows these rows."""
    return hashlib.sha256("\0".join([*cells, *cells.values()]).encode()).hexdigest()[:16]


def _task_name(request: Request) -> str:
    name: str = request.path_params["task"]
    ordinal, sequence = parse_task(name)
    return f"{ordinal}-{sequence}"


def _find(watch: Watch, name: str) -> tuple[Block, Task]:
    """Read one task by the listing of the last look. Raises: ConfigError. Store: 1 GET; as `Reading.find` for one that is not listed."""
    ordinal, sequence = parse_task(name)
    listing = watch.index.listing
    place = bisect_right([listed.ref[:2] for listed in listing], (ordinal, sequence)) - 1
    if place >= 0:
        ref = listing[place].ref
        if ref.ordinal == ordinal and ref.first <= sequence < ref.first + ref.n_tasks:
            block = watch.reading.block(listing[place])
            if block is not None:
                return block, block.tasks[sequence - ref.first]
    return watch.reading.find(name)


class _Found(Reading):
    """A reading that has one task already, for what looks it up by its id."""

    def __init__(self, session: SessionStore, block: Block, task: Task) -> None:
        super().__init__(session)
        self._found = (block, task)

    def find(self, name: str) -> tuple[Block, Task]:  # noqa: ARG002 - it is this task's
        return self._found


def _task_values(watch: Watch, snapshot: Snapshot, name: str) -> dict[str, Any]:
    """Read what a task's page shows. Blocks. Store: 1 GET; as `TaskLogs.fresh` for a task that has ended; up to 2 GETs of payloads."""
    reading = watch.reading
    block, task = _find(watch, name)
    host = next((worker.host for worker in snapshot.status.members if worker.id == task.worker), "")
    values: dict[str, Any] = {
        "task": task,
        "state": task.state.name.lower(),
        "sentences": explain_task(_Found(reading.session, block, task), snapshot.status, name, with_run=False),
        "host": host,
        "label": block.label(task),
        "attempt": block.attempt(task),
        "attempts": block.attempts(task),
        "failure": None,
        "call": None,
        "result": None,
        "output": [],
        "n_cut": 0,
    }
    if task.has_ended:
        lines: deque[LogLine] = deque(maxlen=_MOST_LINES)
        n_lines = 0
        for line in TaskLogs(reading.session, name).fresh():
            n_lines += 1
            lines.append(LogLine(line.source, line.text[:_MOST_LINE], line.is_error))
        values |= {"output": list(lines), "n_cut": n_lines - len(lines)}
    if reading.has_key:
        values |= _payloads(watch, block, task)
    return values


def _payloads(watch: Watch, block: Block, task: Task) -> dict[str, Any]:
    reading = watch.reading
    failure: Failure | None = None
    result: Shown | None = None
    if task.state == State.FAILED:
        failure = reading.failure(block, task)
    if task.state == State.COMPLETED:
        result = plain_result(reading, block, task, stored_bytes(block, task))
    return {"failure": failure, "result": result, "call": plain_call(reading, block, task)}


def _examples(watch: Watch, kinds: list[FailureKind]) -> list[tuple[FailureKind, list[tuple[str, Shown]]]]:
    """Return each kind with the inputs of its example tasks. Blocks. Store: 1 GET for each of three tasks a kind."""
    found = []
    for kind in kinds:
        inputs = []
        for name in kind.tasks:
            try:
                inputs.append((name, plain_call(watch.reading, *_find(watch, name))))
            except ConfigError as error:
                inputs.append((name, Shown("", str(error))))
        found.append((kind, inputs))
    return found
