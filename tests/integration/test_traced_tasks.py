"""A trace that begins in a program goes on in its tasks, in another process; functions and reports see nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

trace = pytest.importorskip("opentelemetry.trace")

from starburst_executor.client.reading import Reading  # noqa: E402 - after the check that it is there
from tests.sessions import detached  # noqa: E402
from tests.support.inside import session_of  # noqa: E402


def trace_of_task(*args: object, **kwargs: object) -> tuple[int, tuple[object, ...], dict[str, object]]:
    from opentelemetry import trace

    return trace.get_current_span().get_span_context().trace_id, args, kwargs


def fail(x: int) -> None:
    raise ValueError(x)


def test_a_task_finds_the_trace_of_its_caller(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    parent = trace.SpanContext(0x1234, 0x56, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(parent)):
        traced = executor.submit(trace_of_task, 1, y=2)
        mapped = list(executor.map(trace_of_task, [7]))
        failed = executor.submit(fail, 3)
    plain = executor.submit(trace_of_task)
    assert traced.result() == (0x1234, (1,), {"y": 2})
    assert mapped == [(0x1234, (7,), {})]
    assert plain.result() == (0, (), {})
    assert isinstance(failed.exception(), ValueError)
    reading = Reading(session_of(executor))
    block, task = reading.find(failed.task_id)
    assert reading.call(block, task) == ((3,), {})
    # A function that takes the place of the one that failed gets the arguments that it had.
    (again,) = executor.retry_failed(abs)
    assert again.result() == 3
    executor.cleanup(force=True)
