"""`map`: one task for each item, and an iterator of their results.

    items ──submit──► futures ──in order, or as they end──► results, or with `return_exceptions` their errors too
      └──plain values, by blocks──► rows ─────────┘

However the iteration ends, the tasks whose results were not taken are cancelled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from starburst_executor.client.bars import Bar, total_of, wants_bar
from starburst_executor.client.cached import Caches, cached_in
from starburst_executor.client.ended_results import EndedResults
from starburst_executor.client.engine import Engine
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.map_results import Results
from starburst_executor.client.ordered_results import OrderedResults
from starburst_executor.client.plain_calls import PlainCalls
from starburst_executor.client.task_options import CallOptions

__all__ = ["check_sizes", "map_calls"]

T = TypeVar("T")

# While results are taken from a buffer, this share of it is refilled at once, up to this number of items.
_SHARE, _MOST_AT_ONCE = 16, 256


def check_sizes(chunksize: int, buffersize: int | None) -> None:
    """Check these arguments of `map`, as the standard library does. Raises: ValueError, TypeError."""
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None:
        if not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize < 1:
            raise ValueError("buffersize must be None or > 0")


def map_calls(
    owner: object,
    engine: Engine,
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    options: CallOptions,
    *,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
    progress: bool,
    ordered: bool,
    return_exceptions: bool,
    submitted: Callable[[StarburstFuture[T]], object] | None = None,
    caches: Caches,
    cache: str | None = None,
) -> Iterator[T]:
    """Submit the calls of the items now, or as many as `buffersize` allows; return the iterator of their results.

    Args:
        owner: Once this is gone, nothing more is submitted.
        submitted: Called with the future of each task.
        caches: The executor's caches, for a function that `cached` has made.
        cache: The name of the cache for the results of any other function; None for none.
    """
    check_sizes(chunksize, buffersize)
    deadline = None if timeout is None else engine.session.clock.monotonic() + timeout
    has_bar = wants_bar(progress)
    sending = engine.parts.sending
    is_cached = cache is not None or cached_in(fn) is not None
    function, cached_calls = caches.of(engine, fn, cache) if is_cached else (fn, None)
    prepared = sending.prepare(function)

    def submit_task(args: tuple[Any, ...]) -> StarburstFuture[T]:
        future = sending.submit_prepared(prepared, args, {}, options)
        if submitted is not None:
            submitted(future)
        return future

    def submit(args: tuple[Any, ...]) -> StarburstFuture[T]:
        if cached_calls is None:
            return submit_task(args)
        return cached_calls.submit(function, args, {}, lambda: submit_task(args))

    calls = zip(*iterables)  # noqa: B905 - as in the standard library, the shortest iterable ends it
    clock = engine.session.clock
    source: Results[T] = (OrderedResults if ordered else EndedResults)(clock, wants_errors=return_exceptions)
    blocks: PlainCalls | None = None
    # Elsewhere a future of each task is needed: a detached session has it, a bar shows it, a cache, a view or a label is made with it.
    is_seen = engine.detached or has_bar or cached_calls is not None or submitted is not None
    if not is_seen and options.options.label is None and prepared.error is None:
        blocks = PlainCalls(sending, prepared, options, source, iterables)

    def send(items: Iterator[tuple[Any, ...]], bar: Bar | None) -> None:
        for args in items if blocks is None else blocks.send(items):
            source.add(future := submit(args))
            if bar is not None:
                bar.add(future)
            del future

    send(calls if buffersize is None else islice(calls, buffersize), None)
    total = total_of(iterables) if buffersize is not None else len(source)
    new_bar = partial(Bar, engine.capacity(), clock, total) if has_bar else None
    more = None if buffersize is None else (calls, max(1, min(_MOST_AT_ONCE, buffersize // _SHARE)))
    return _results(weakref.ref(owner), engine, send, source, more, deadline, new_bar)


def _results(
    owner: weakref.ref[Any],
    engine: Engine,
    send: Callable[[Iterator[tuple[Any, ...]], Bar | None], None],
    source: Results[T],
    more: tuple[Iterator[tuple[Any, ...]], int] | None,
    deadline: float | None,
    new_bar: Callable[[], Bar] | None,
) -> Iterator[T]:
    bar = None if new_bar is None else new_bar()
    ready: list[T] = []  # results that were taken from the source, the next one last
    n_free = 0  # how many more items may be sent
    try:
        if bar is not None:
            bar.add(*source.futures())
        while True:
            if more is not None:
                calls, at_once = more
                n_free += 1
                if (n_free >= at_once or not (ready or len(source))) and owner() is not None:
                    send(islice(calls, n_free), bar)
                    n_free = 0
            if not ready:
                if not len(source):
                    return
                engine.parts.futures.check_here()
                ready = source.take(deadline, bar)
            yield ready.pop()
    except GeneratorExit:
        # Closed, perhaps by the garbage collector: in any thread, which may hold any lock.
        if len(source):
            engine.parts.futures.cancel_soon(source.give_up())
        raise
    except BaseException:
        if engine.is_of_this_process():
            engine.cancel(source.give_up()())
        raise
    finally:
        source.give_up()
        if bar is not None:
            bar.close()
