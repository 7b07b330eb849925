"""The application: routes, errors as pages, and what starts and ends with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from starburst_executor.clock import Clock
from starburst_executor.dashboard.hub import Hub, Places
from starburst_executor.dashboard.notifier import Notifier
from starburst_executor.dashboard.pages import Pages
from starburst_executor.dashboard.safety import Access, Guard
from starburst_executor.dashboard.study_pages import StudyPages
from starburst_executor.dashboard.views import templates
from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    KeyNotFound,
    RecordInvalid,
    SessionNotFound,
    StarburstError,
    StudyNotFound,
    VersionMismatch,
)

__all__ = ["make_app"]

_log = logging.getLogger(__name__)
_STATIC = Path(__file__).parent / "static"
_CODES: tuple[tuple[type[StarburstError], int, str], ...] = (
    (SessionNotFound, 404, "There is no such session"),
    (StudyNotFound, 404, "There is no such study"),
    (KeyNotFound, 403, "This needs the session's key"),
    (AccessDenied, 403, "The store refuses access"),
    (ConfigError, 400, "This address cannot be shown"),
    (VersionMismatch, 501, "It was written by another version"),
    (RecordInvalid, 500, "What is stored cannot be read"),
    (StarburstError, 503, "The store cannot be read now"),
)


def make_app(places: Places, access: Access, clock: Clock, *, notify: Sequence[str] = ()) -> ASGIApp:
    """Return the application. It opens sessions when they are asked for, and closes them at its end.

    Args:
        notify: Recipients of messages about the session that was named.
    """
    hub = Hub(places, clock)
    pages = Pages(hub, access)
    notifier = Notifier(hub, next(iter(places.known)), notify) if notify else None
    studies = StudyPages(hub, access.root_path, pages.html, pages.problem)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if notifier is not None:
            notifier.start()
        try:
            yield
        finally:
            if notifier is not None:
                await notifier.close()
            await pages.close()
            await studies.close()
            await hub.close()

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarburstError)  # registered for it  # noqa: S101
        code, title = next((code, title) for kind, code, title in _CODES if isinstance(error, kind))
        is_there = not isinstance(error, SessionNotFound)
        return pages.problem(
            code, title, str(error), session=request.path_params.get("session", "") if is_there else ""
        )

    async def missing(_: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        return pages.problem(code, "There is no such page", "Go on from the list of sessions.")

    async def broken(request: Request, error: Exception) -> Response:
        # Neither the error's text nor the query: they may contain values of tasks.
        _log.error("a fault of the dashboard: %s at %s", type(error).__name__, request.scope["path"])
        return pages.problem(500, "A fault of the dashboard itself", f"{type(error).__name__}. Please report it.")

    app = Starlette(
        routes=[
            Route("/", pages.sessions),
            Route("/events", pages.list_events),
            Route("/metrics", pages.metrics),
            Route("/s/{session}", pages.session),
            Route("/s/{session}/metrics", pages.metrics),
            Route("/s/{session}/tasks", pages.tasks),
            Route("/s/{session}/workers", pages.workers),
            Route("/s/{session}/failures", pages.failures),
            Route("/s/{session}/events", pages.events),
            Route("/s/{session}/t/{task}", pages.task),
            Route("/s/{session}/t/{task}/{kind}", pages.shown, methods=["POST"]),
            Route("/s/{session}/actions/{action}", pages.action, methods=["GET", "POST"]),
            Route("/studies", studies.studies),
            Route("/studies/{store:int}/{study}", studies.study),
            Route("/studies/{store:int}/{study}/events", studies.events),
            Route("/studies/{store:int}/{study}/report", studies.report),
            Route("/studies/{store:int}/{study}/figures/{figure}.{kind}", studies.figure),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={StarburstError: refused, HTTPException: missing, Exception: broken},
        lifespan=lifespan,
    )
    return Guard(app, access, templates())
