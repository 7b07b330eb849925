"""The part of an executor's interface that is for coroutines; `asynchronous.py` does the work, and loads asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

    from starburst_executor.client.engine import Engine
    from starburst_executor.client.future import StarburstFuture

__all__ = ["Awaited"]

P = ParamSpec("P")
T = TypeVar("T")


class Awaited:
    """What an executor offers to coroutines, in any running event loop of asyncio. None of it blocks the loop."""

    _engine: Engine
    if TYPE_CHECKING:
        submit: Callable[..., StarburstFuture[Any]]
        __exit__: Callable[..., Any]

    async def submit_async(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> StarburstFuture[T]:
        """As `submit`, without blocking the event loop: waits for room in the queue while more than 256 MB of calls are unsent.

        The call is pickled by another thread before this returns, so do not change its arguments meanwhile. Calls are submitted in the
        order in which they are made. If the coroutine is cancelled, so is the task, unless a worker has claimed it.

        Raises: as `submit`.
        """
        from starburst_executor.client.asynchronous import queued  # loads asyncio

        return await queued(self._engine.parts.parallel.in_turn(partial(self.submit, fn, *args, **kwargs)))

    def as_completed_async(
        self, futures: Iterable[StarburstFuture[T]] | None = None, *, timeout: float | None = None
    ) -> AsyncIterator[StarburstFuture[T]]:
        """Yield futures as they complete, to `async for`; completed ones come first.

        Args:
            futures: The futures; by default every future of a detached session. An attached executor keeps none: pass them.
            timeout: Seconds after which `TimeoutError` is raised if some are not done.

        Store: nothing; without `futures` 1 LIST per 1,000 status objects, in another thread.
        """
        from starburst_executor.client.asynchronous import ends_of

        if futures is None:
            return ends_of(self._all_futures(), timeout)
        given = list(futures)
        return ends_of(lambda: given, timeout)

    def _all_futures(self) -> Callable[[], Iterable[StarburstFuture[Any]]]:
        raise TypeError(
            "an attached executor does not keep its futures: pass those that you have, as_completed_async(futures)"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """As at the end of a `with` block: another thread waits for the tasks."""
        from asyncio import to_thread

        await to_thread(self.__exit__, exc_type, exc, tb)
