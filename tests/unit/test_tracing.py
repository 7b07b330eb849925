"""Spans of a task's life: none where nothing traces, and one trace over client and runner where something does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

opentelemetry = pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry import trace  # noqa: E402 - after the check that it is there
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from starburst_executor import tracing  # noqa: E402

EXPORTER = InMemorySpanExporter()


@pytest.fixture(autouse=True)
def spans() -> Iterator[InMemorySpanExporter]:
    """What is exported. A process has one provider for good."""
    if not isinstance(trace.get_tracer_provider(), opentelemetry.TracerProvider):
        provider = opentelemetry.TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    EXPORTER.clear()
    yield EXPORTER
    EXPORTER.clear()


def half(x: int) -> float:
    return x / 2


def run_traced(function: Any, *args: Any) -> Any:
    """As client and runner do it, in one process; what the function returned."""
    with tracing.submitting(tracing.active(), "s", 100.0) as carrier:
        kwargs = {tracing.CARRIER: carrier}
    future: Future[Any] = Future()
    vars(future)["task_id"] = "0-0"
    tracing.follow(trace, carrier, future, lambda: 104.0)
    within = tracing.traced(function, kwargs, lambda: 102.5)
    assert kwargs == {}
    result = within(*args)
    tracing.collects(lambda: 103.0)
    future.set_result(result)
    return result


def test_without_a_span_nothing_is_traced() -> None:
    assert tracing.active() is None


def test_a_program_without_opentelemetry_does_not_load_it() -> None:
    program = (
        "import sys\nfrom starburst_executor import StarburstExecutor, tracing\n"
        "import starburst_executor.client.executor\nassert tracing.active() is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_spans_of_a_task_are_one_trace(spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("caller") as caller:
        assert run_traced(half, 3) == 1.5
    named = {span.name: span for span in spans.get_finished_spans()}
    assert set(named) == {"caller", "starburst.submit", "starburst.queue", "starburst.run", "starburst.collect"}
    assert {span.context.trace_id for span in named.values()} == {caller.get_span_context().trace_id}
    submit = named["starburst.submit"].context.span_id
    assert {named[f"starburst.{name}"].parent.span_id for name in ("queue", "run", "collect")} == {submit}
    queue, collect = named["starburst.queue"], named["starburst.collect"]
    assert (queue.start_time, queue.end_time) == (100_000_000_000, 102_500_000_000)
    assert (collect.start_time, collect.end_time) == (103_000_000_000, 104_000_000_000)


def test_a_failure_is_an_error_of_its_span_and_the_task_sees_the_callers_trace(spans: InMemorySpanExporter) -> None:
    seen = []

    def fail(x: int) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        raise ValueError(x)

    with trace.get_tracer("test").start_as_current_span("caller") as caller, pytest.raises(ValueError, match="3"):
        run_traced(fail, 3)
    (run,) = [span for span in spans.get_finished_spans() if span.name == "starburst.run"]
    assert run.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in run.events] == ["exception"]
    assert seen == [caller.get_span_context().trace_id]


def test_where_it_is_not_installed_the_call_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    kwargs = {tracing.CARRIER: {"traceparent": "00-0-0-00"}, "y": 1}
    assert tracing.traced(half, kwargs, lambda: 0.0) is half
    assert kwargs == {"y": 1}
