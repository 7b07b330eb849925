"""The interface between `S3Store` and its HTTP clients (transports), and the definitions that they share.

    S3Store ──► ObstoreTransport    small objects: get, create, swap, put
            └─► BotoTransport       all other requests, and those that ObstoreTransport declines

A transport takes whole keys and raises the package's own errors. One call tries one request once, or the parts of a big
object once each.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Protocol

from starburst_executor.store.base import Body, Stored

__all__ = [
    "Declined",
    "Etags",
    "Transport",
    "Unchanged",
    "is_foreign_body",
    "may_be_forked",
    "range_end",
    "say_unused",
]

# Assumes: this module is imported before a transport is; if obstore is loaded by then, other code loaded it.
_was_obstore_loaded = "obstore" in sys.modules
_is_unused = False  # loaded for future forks, and not used yet
_is_lost = False  # its threads may have stayed behind in a parent process


def _after_fork() -> None:
    global _is_lost  # noqa: PLW0603 - a fact of this process
    _is_lost = _is_lost or ("obstore" in sys.modules and not _is_unused)


os.register_at_fork(after_in_child=_after_fork)


class Declined(Exception):
    """A transport leaves this call to boto3. The request was not sent, or it was refused, or it was a read.

    Attributes:
        for_good: Whether the transport would decline every further call too.
    """

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


class Unchanged(Exception):
    """The reply to a conditional read was status 304. Does not leave a transport."""


class Transport(Protocol):
    """Reads and writes objects of one bucket. Thread-safe; usable only in the process that made it."""

    name: str

    def get(self, key: str, *, start: int, length: int | None) -> Stored:
        """Read an object like `ObjectStore.get`. Raises: Declined."""

    def get_if_changed(self, key: str, etag: str, *, start: int, length: int | None) -> Stored | None:
        """Read an object like `ObjectStore.get_if_changed`. Raises: Declined."""

    def write(self, key: str, body: Body, *, absent: bool = False, expected: str | None = None) -> str:
        """Write if the object does not exist (`absent`), if its ETag is `expected`, or unconditionally; return the new ETag.

        Raises: Declined.
        """


class Etags:
    """Whether a server expects ETags in quotes. Shared by a store and its transports; the probe may change it."""

    def __init__(self, *, quotes: bool) -> None:
        self.quotes = quotes

    def header(self, etag: str) -> str:
        """Return the value of If-Match or If-None-Match."""
        return f'"{etag}"' if self.quotes else etag

    @staticmethod
    def opaque(answered: str) -> str:
        """Return an ETag without quotes; servers differ in whether they send them."""
        return answered.strip('"')


def may_be_forked() -> bool:
    """Whether obstore may have been used before a fork: its threads would then exist only in the parent process."""
    return _is_lost or (_was_obstore_loaded and multiprocessing.parent_process() is not None)


def say_unused(*, is_unused: bool) -> None:
    """Record whether obstore, loaded in this process, is still unused: only then a child after a fork may use it."""
    global _is_unused  # noqa: PLW0603 - a fact of this process
    _is_unused = is_unused


def is_foreign_body(content_type: str | None) -> bool:
    """Whether a body is an HTML page, as gateways send them; this library stores no object with that type."""
    return (content_type or "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def range_end(start: int, length: int | None) -> int | None:
    """Return the end of a range. S3 has no empty ranges: for those, one byte is requested and discarded."""
    return None if length is None else start + max(1, length)
