"""Functions whose results are kept in a cache, and the caches that an executor has open. `caching.py` does the work, and is loaded when it is needed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar, overload

from starburst_executor.protocol.keys import cache_folder

if TYPE_CHECKING:
    from starburst_executor.client.caching import CachedCalls
    from starburst_executor.client.engine import Engine

__all__ = ["Cached", "Caches", "cached", "cached_in"]

P = ParamSpec("P")
T = TypeVar("T")


class Cached(Generic[P, T]):
    """A function whose results executors keep in a cache; `cached` makes it. Called directly, it runs.

    Attributes:
        cache: The name of the cache.
    """

    def __init__(self, function: Callable[P, T], cache: str) -> None:
        cache_folder(cache)  # checks the name
        functools.update_wrapper(self, function)
        self.function = function
        self.cache = cache

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function here, without any cache."""
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Cached[..., T]:
        """Return the method of an object, if this was decorated in its class."""
        return self if instance is None else Cached(MethodType(self.function, instance), self.cache)


@overload
def cached(function: Callable[P, T], /) -> Cached[P, T]:
    """Decorate a function whose cache has its name."""


@overload
def cached(function: str, /) -> Callable[[Callable[P, T]], Cached[P, T]]:
    """Return a decorator for a function whose cache has this name."""


def cached(function: Callable[P, T] | str, /) -> Cached[P, T] | Callable[[Callable[P, T]], Cached[P, T]]:
    """Decorate a function so that `submit` and `map` keep its results in a cache, and take them from there.

    A result is kept under the content of the call: the function's code, what it refers to, and its arguments. A changed function is another
    key. The cache is in the store of the executor's session, and outlives the session; `starburst cache` lists and clears caches.

    Args:
        function: The function; or the name of the cache, as in `@cached("features")`. The default is the function's own name.

    >>> from starburst_executor import cached
    >>> @cached
    ... def double(x):
    ...     return 2 * x
    >>> double(4), double.cache
    (8, 'double')
    """
    if isinstance(function, str):
        return functools.partial(Cached, cache=function)
    return Cached(function, function.__name__)


def cached_in(function: Callable[..., T]) -> Cached[..., T] | None:
    """Return a function that `cached` has made; of a method or partial of one, the same call with its cache. None for any other function."""
    if type(function) is FunctionType:
        return None  # the usual case: every submit calls this
    if isinstance(function, Cached):
        return function
    if isinstance(function, MethodType):  # since Python 3.13, of a class method
        inner = cached_in(function.__func__)
        return None if inner is None else Cached(MethodType(inner.function, function.__self__), inner.cache)
    if type(function) is functools.partial:
        inner = cached_in(function.func)
        if inner is not None:
            return Cached(functools.partial(inner.function, *function.args, **function.keywords), inner.cache)
    return None


class Caches:
    """The caches that one executor uses. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _open
        self._open: dict[str, CachedCalls] = {}

    def get(self, engine: Engine, name: str) -> CachedCalls:
        """Return the cache of this name in the store of the engine's session. Raises: ConfigError."""
        with self._lock:
            calls = self._open.get(name)
            if calls is None:
                from starburst_executor.client.caching import CachedCalls  # loads what most executors never need

                store = engine.opened.store
                calls = CachedCalls(store.url, engine.session.clock, name, patience_s=store.patience_s)
                self._open[name] = calls
            return calls

    def of(self, engine: Engine, function: Callable[..., T], cache: str | None) -> tuple[Callable[..., T], CachedCalls]:
        """Return the function that runs, and the cache for its results: the named one, or that of a function that `cached` has made."""
        inner = cached_in(function)
        if inner is not None:
            return inner.function, self.get(engine, cache or inner.cache)
        return function, self.get(engine, cache or function.__name__)

    def close(self) -> None:
        """Wait until every result that has arrived is kept."""
        with self._lock:
            caches, self._open = list(self._open.values()), {}
        for calls in caches:
            calls.close()
