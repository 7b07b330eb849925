"""What an executor offers to submit each task once: `submit_once` and `map_once`. `once.py` does it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from starburst_executor.client.engine import Engine
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.once import Once
from starburst_executor.client.once_wanted import Call
from starburst_executor.client.task_options import NO_OPTIONS, CallOptions

__all__ = ["SubmitsOnce", "once_of"]

T = TypeVar("T")


class SubmitsOnce:
    """The part of an executor that submits what its session does not have yet."""

    _engine: Engine
    _call_options: CallOptions = NO_OPTIONS

    @functools.cached_property
    def _once(self) -> Once:
        return Once(self._engine)

    def submit_once(self, key: object, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> StarburstFuture[T]:
        """Schedule `fn(*args, **kwargs)` unless the session has a task of this key; return the task's future.

        So a script that runs again goes on: a task that was submitted by an earlier run, by any client, is not submitted again. When this
        returns, the store has acknowledged the task. For many tasks `map_once` makes far fewer requests.

        Args:
            key: A text or a number, or a tuple of them.

        Raises: ValueError if the session has another call under this key; the message names both. The errors of `submit`; an error of
            pickling.
        Store: 1 GET, and 3 creates for an unknown key, 1 GET for a known one; the first time also what `map_once` needs.
        """
        return self._once.submit(fn, [Call(args, kwargs)], [key], options=self._call_options)[0]

    def map_once(
        self,
        fn: Callable[..., T],
        items: Iterable[Any],
        key: Callable[[Any], object] | Sequence[object] | str | None = None,
        retry_failed: bool = False,
    ) -> list[StarburstFuture[T]]:
        """Call `fn` with each item for which the session has no task yet; return the future of each item's task, in the order of the items.

        A script that runs again with the same items submits nothing, and with some more items those only, whether the earlier run was
        killed or not. Two clients that do so at once submit each item once. Items with the same key share a future. When this returns, the
        store has acknowledged every task.

        Args:
            key: Gives each item's key: a function of the item, a sequence with a key for each item, or the name of a field or attribute
                of the items. Without it, function and item themselves are the key, by content (docs/howto/names-and-once.md).
            retry_failed: Run those that failed, or were cancelled, again: with `fn` as it is now, in place.

        Raises: ValueError if the session has another call under one of the keys, or two items with one key differ; the message names both,
            and nothing was submitted. The errors of `submit`; an error of pickling.
        Store: 1 GET; the first time 1 LIST per 1,000 earlier calls of this method, and 1 GET for each 10,000 tasks of each. 1 LIST per 1,000
        status objects of known tasks. For the others about 1 create per 100 tasks.
        """
        listed = list(items)
        keys = None if key is None else _keys_of(listed, key)
        calls = [Call((item,), {}) for item in listed]
        return self._once.submit(fn, calls, keys, retry_failed=retry_failed, options=self._call_options)


def once_of(executor: SubmitsOnce) -> Once:
    """Return the keys of an executor's session, for callers whose calls have more than one argument."""
    return executor._once  # noqa: SLF001 - of this module's class


def _keys_of(items: Sequence[Any], key: Callable[[Any], object] | Sequence[object] | str) -> list[object]:
    if isinstance(key, str):
        return [item[key] if isinstance(item, Mapping) else getattr(item, key) for item in items]
    if callable(key):
        return [key(item) for item in items]
    keys = list(key)
    if len(keys) != len(items):
        raise ValueError(f"as many keys as items are needed: {len(keys)} keys, {len(items)} items")
    return keys
