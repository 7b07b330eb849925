"""Calls whose results are kept in a cache, beyond their session.

    call ──key──► known? ──yes──► GET ──► a future that is done          (`cache-N`)
                    └─no─► submit ──► future ──completed──► create      (`cache-N`)

The key is computed in the caller's thread; a pool makes the requests. A result is kept when this client receives it, as its task returned it,
whatever the program does with the value meanwhile. Failures are not kept.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

from starburst_executor.client.call_keys import call_key
from starburst_executor.client.functions import without_partials
from starburst_executor.client.future import THREAD_PREFIX, BytesCallback, StarburstFuture
from starburst_executor.clock import Clock
from starburst_executor.config.user_keys import session_key, user_key
from starburst_executor.errors import ConfigError, PayloadError, RecordInvalid, StarburstError
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.cache import Cache
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore

__all__ = ["CachedCalls"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CACHE = "cache"
_N_AT_ONCE = 8


class CachedCalls:
    """One cache, as one client uses it. Thread-safe.

    Args:
        store_url: Where the cache is; it has a connection of its own, so that results can be kept while the session ends.
    """

    def __init__(self, store_url: str, clock: Clock, name: str, *, patience_s: float) -> None:
        user = user_key(create=True)
        if user is None:
            raise ConfigError(
                "a cache needs a key file, which seals its entries; set STARBURST_HOME to a folder that you can write"
            )
        key = bytes(session_key(user, f"{_CACHE}-entries"))
        self._key = key
        self._store = PatientStore(open_store(store_url), clock, patience_s=patience_s)
        self._cache = Cache(self._store, Sealer(key, _CACHE), name)
        self._lock = threading.Lock()  # guards: _known, _at_work, _pool
        self._known: set[str] | None = None
        self._at_work: set[Future[Any]] = set()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(_N_AT_ONCE, f"{THREAD_PREFIX}cache")

    def submit(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        submit: Callable[[], StarburstFuture[T]],
    ) -> StarburstFuture[T]:
        """Return the future of a call: one without a task if its result is kept, otherwise that of `submit`, whose result will be kept.

        Raises: TypeError: the call has no content that can be compared. Store: 1 LIST per 1,000 entries at the first call; then 1 GET or 1
        create for each call, in other threads.
        """
        plain, all_args, all_kwargs = without_partials(function, args, kwargs)
        digest = call_key(self._key, plain, all_args, all_kwargs)
        if digest not in self._digests():
            return self._submitted(digest, submit)
        future: StarburstFuture[T] = StarburstFuture()
        future.set_running_or_notify_cancel()
        if not self._start(functools.partial(self._fetch, digest, future, submit)):
            return self._submitted(digest, submit)
        return future

    def close(self) -> None:
        """Wait until every result that has arrived is kept. A second call is harmless; later results are not kept."""
        while True:
            with self._lock:
                left = list(self._at_work)
            if not left:
                break
            wait_for(left)
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
            self._store.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _digests(self) -> set[str]:
        known = self._known  # unlocked: one reference
        if known is None:
            found = self._cache.digests()
            with self._lock:
                known = self._known = found if self._known is None else self._known
        return known

    def _submitted(self, digest: str, submit: Callable[[], StarburstFuture[T]]) -> StarburstFuture[T]:
        future = submit()
        future.add_done_callback(BytesCallback(functools.partial(self._on_done, digest)))
        return future

    def _on_done(self, digest: str, body: bytes | memoryview | None, future: Future[Any]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        if body is not None:
            self._start(
                functools.partial(self._keep, digest, lambda: outcomes.dump_value(outcomes.load_outcome(body)[0]))
            )
            return
        # It was complete before the caller had it: pickled at once, before the caller can change it.
        try:
            outcome = outcomes.dump_value(future.result())
        except Exception as error:  # user code runs here: __reduce__
            _warn(error)
        else:
            self._start(functools.partial(self._keep, digest, lambda: outcome))

    def _keep(self, digest: str, outcome: Callable[[], bytes]) -> None:
        """Keep a result. `outcome` returns its bytes."""
        try:
            self._cache.put(digest, outcome())
        except Exception as error:  # user code runs here: __reduce__; and the store may be away
            _warn(error)
            return
        with self._lock:
            if self._known is not None:
                self._known.add(digest)

    def _fetch(self, digest: str, future: StarburstFuture[T], submit: Callable[[], StarburstFuture[T]]) -> None:
        """Complete a future with the result that is kept, or, if that is gone or cannot be rebuilt, with that of a task."""
        try:
            outcome = self._cache.get(digest)
            if outcome is not None:
                value, _ = outcomes.load_outcome(outcome)
                future.set_result(value)
                return
        except (StarburstError, RecordInvalid, PayloadError) as error:
            _log.warning("a cached result cannot be used, so its task runs: %s", error)
        with self._lock:
            if self._known is not None:
                self._known.discard(digest)
        try:
            self._submitted(digest, submit).add_done_callback(functools.partial(_pass_on, future))
        except BaseException as error:  # the session may have ended
            future.set_exception(error)

    def _start(self, do: Callable[[], None]) -> bool:
        """Call a function in the pool; return False if it is closed."""
        with self._lock:
            if self._pool is None:
                return False
            started = self._pool.submit(do)
            self._at_work.add(started)
        started.add_done_callback(self._ended)
        return True

    def _ended(self, started: Future[Any]) -> None:
        with self._lock:
            self._at_work.discard(started)


def _warn(error: Exception) -> None:
    _log.warning("a result was not kept in the cache: %s: %s", type(error).__name__, error)


def _pass_on(future: StarburstFuture[Any], source: Future[Any]) -> None:
    error: BaseException | None
    try:
        error = source.exception()
    except BaseException as cancelled:  # CancelledError, which a running future cannot show otherwise
        error = cancelled
    if error is None:
        future.set_result(source.result())
    else:
        future.set_exception(error)
