"""Spans of OpenTelemetry for the life of a task, for programs that trace themselves: submit, queue, run, collect.

    caller's span ─► starburst.submit ─┬► starburst.queue ─► starburst.run ─► spans of the user's function     in the runner
                                       └► starburst.collect                                                    in the client

The caller's trace travels to the worker in the sealed call, as a keyword argument that no function can have, and only while a span is active
in the thread that submits. A program that has not imported OpenTelemetry pays for one look into a dict per submit, and a task for another one.

Spans go to the provider that the program has set up, and those of a runner to the one that an initializer has set up there. Without a provider
OpenTelemetry records nothing, and the task still finds the caller's trace.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starburst_executor import context
from starburst_executor.version import __version__

__all__ = ["CARRIER", "active", "collects", "follow", "submitting", "traced"]

# Not an identifier, so that it is no argument of anybody's function.
CARRIER = "\0trace"
_AT_NS = "starburst-at-ns"
_collecting = (
    threading.local()
)  # `since_ns`: when this thread began to read the outcome that it completes a future with
_has_followed = False


def active() -> Any:
    """Return the module `opentelemetry.trace` if this thread is within a span; None otherwise, and where it is not in use."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return None
    return trace


@contextmanager
def submitting(trace: Any, session_id: str, now_s: float) -> Iterator[dict[str, str]]:
    """Within the span of a submit, yield what the call carries to the worker."""
    propagate: Any = importlib.import_module("opentelemetry.propagate")
    attributes = {"starburst.session": session_id}
    with _tracer(trace).start_as_current_span("starburst.submit", kind=trace.SpanKind.PRODUCER, attributes=attributes):
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        yield {**carrier, _AT_NS: str(int(now_s * 1e9))}


def follow(trace: Any, carrier: dict[str, str], future: Any, now: Callable[[], float]) -> None:
    """Have a future record the span of its collection when it is done."""
    global _has_followed  # noqa: PLW0603 - so that collectors without traces pay nothing
    _has_followed = True
    parent = importlib.import_module("opentelemetry.propagate").extract(carrier)

    def collected(done: Any) -> None:
        since_ns = getattr(_collecting, "since_ns", None)
        span = _tracer(trace).start_span(
            "starburst.collect", context=parent, start_time=since_ns, attributes={"starburst.task": str(done.task_id)}
        )
        span.end(None if since_ns is None else max(since_ns, int(now() * 1e9)))

    future.add_done_callback(collected)


def collects(now: Callable[[], float]) -> None:
    """Called by the collector before it reads an outcome, in the thread that then completes its futures."""
    if _has_followed:
        _collecting.since_ns = int(now() * 1e9)


def traced(function: Callable[..., Any], kwargs: dict[str, Any], now: Callable[[], float]) -> Callable[..., Any]:
    """Take the caller's trace out of a call's arguments; return the function within the spans of that trace.

    Returns:
        The function itself where OpenTelemetry is not installed.
    """
    carrier = kwargs.pop(CARRIER)
    try:
        trace: Any = importlib.import_module("opentelemetry.trace")
        propagate: Any = importlib.import_module("opentelemetry.propagate")
    except ImportError:
        return function

    def within(*args: Any, **kwargs: Any) -> Any:
        parent, tracer, now_ns = propagate.extract(carrier), _tracer(trace), int(now() * 1e9)
        task = context.current_task()
        attributes: dict[str, str | int] = {}
        if task is not None:
            attributes = {"starburst.session": task.session_id, "starburst.task": task.task_id}
            attributes["starburst.attempt"] = task.attempt
        # By the clocks of two machines: never negative.
        since_ns = min(now_ns, int(carrier.get(_AT_NS, now_ns)))
        tracer.start_span("starburst.queue", context=parent, start_time=since_ns, attributes=attributes).end(now_ns)
        kind = trace.SpanKind.CONSUMER
        with tracer.start_as_current_span("starburst.run", context=parent, kind=kind, attributes=attributes):
            return function(*args, **kwargs)

    return within


def _tracer(trace: Any) -> Any:
    return trace.get_tracer("starburst_executor", __version__)
