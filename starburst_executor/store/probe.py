"""Proof that an S3-compatible server honours conditional writes, before a session relies on them.

Amazon S3 documents them and is not probed. Some other servers ignore conditions (every write would win), refuse correct
conditions, or require ETags without quotes. Some answer 500 to the loser of a race: that also counts as a refusal, if
the object afterwards still is the winner's.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol, runtime_checkable

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ConfigError, PreconditionFailed, StarburstError, StoreUnavailable
from starburst_executor.store.base import ObjectStore

__all__ = ["Unproven", "probe_conditional_writes"]


@runtime_checkable
class Unproven(ObjectStore, Protocol):
    """The part of `S3Store` that the probe needs; a protocol, so that this module loads no SDK."""

    bucket: str
    etag_quotes: bool

    @property
    def endpoint_url(self) -> str: ...

    @property
    def is_aws(self) -> bool: ...


def probe_conditional_writes(store: ObjectStore, *, clock: Clock | None = None) -> None:
    """Check four promises of the server, and set `store.etag_quotes` to the style that it accepts.

    Does nothing for a store without a server and for Amazon S3.

    Raises:
        ConfigError: the server breaks a promise; the message names the promise and the server.
        StoreUnavailable, AccessDenied: the probe could not run.
    Store: nothing on AWS; otherwise 6 requests: 4 writes, 1 GET, 1 delete of the probe's object. 1 more if ETags are sent
    without quotes, and 1 for each of the two refusals that the server answers with an error 5xx.
    """
    if not isinstance(store, Unproven) or store.is_aws:
        return
    key = f"probes/{(clock or SystemClock()).new_id()}"
    try:
        _prove(store, key)
    except StoreUnavailable:
        raise  # deleting the object would wait as long again
    except BaseException:
        with suppress(StarburstError):  # the first error is the one to tell
            store.delete([key])
        raise
    store.delete([key])


def _prove(store: Unproven, key: str) -> None:
    first = store.create(key, b"first")
    if not _is_refused(store, key, b"second", first, None):
        raise _broken(store, "creating an object that is there must be refused (If-None-Match: *)")
    second = _swapped(store, key, first)
    if second is None:
        store.etag_quotes = not store.etag_quotes
        second = _swapped(store, key, first)
    if second is None:
        store.etag_quotes = not store.etag_quotes
        raise _broken(store, "replacing an object by its right ETag must be taken (If-Match)")
    if not _is_refused(store, key, b"third", second, first):
        raise _broken(store, "replacing an object by an old ETag must be refused (If-Match)")
    if store.get_if_changed(key, second) is not None:
        raise _broken(store, "reading an unchanged object must say so (If-None-Match)")


def _swapped(store: Unproven, key: str, expected: str) -> str | None:
    try:
        return store.swap(key, b"second", expected)
    except PreconditionFailed:
        return None


def _is_refused(store: Unproven, key: str, body: bytes, winner: str, expected: str | None) -> bool:
    """Whether a late write leaves the winner's object in place."""
    try:
        if expected is None:
            store.create(key, body)
        else:
            store.swap(key, body, expected)
    except PreconditionFailed:
        return True
    except StoreUnavailable:
        return store.get(key).etag == winner
    return False


def _broken(store: Unproven, promise: str) -> ConfigError:
    return ConfigError(
        f"this server cannot keep a session, use another: {promise}: endpoint={store.endpoint_url}, bucket={store.bucket}"
    )
