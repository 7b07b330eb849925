"""The seam between `S3Store` and what speaks HTTP for it, and the words both sides share.

    S3Store ──► ObstoreEngine    small objects: get, create, swap, put
            └─► BotoEngine       all else, and whatever the other one declines

An engine sees whole keys and raises the package's own errors. One call is one try of one request, or of the parts of a
big object.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Protocol

from starburst_executor.store.base import Body, Stored

__all__ = ["Declined", "Engine", "Etags", "is_foreign_body", "may_be_forked", "range_end", "say_unused"]

# Assumes: this module is loaded before an engine is, so that who had loaded obstore before was somebody else.
_was_obstore_loaded = "obstore" in sys.modules
_is_unused = False  # loaded for children to come, and used by nobody yet
_is_lost = False  # its threads may have stayed behind in a parent process


def _after_fork() -> None:
    global _is_lost  # noqa: PLW0603 - a fact of this process
    _is_lost = _is_lost or ("obstore" in sys.modules and not _is_unused)


os.register_at_fork(after_in_child=_after_fork)


class Declined(Exception):
    """An engine leaves this call to boto3. Nothing was sent, or it was refused, or it was a read.

    Attributes:
        for_good: So would be every further call: the engine is of no use here.
    """

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


class Engine(Protocol):
    """Reads and writes objects of one bucket. Thread-safe; of use only in the process that made it."""

    name: str

    def get(self, key: str, *, unless: str | None, start: int, length: int | None) -> Stored | None:
        """As `ObjectStore.get`. Raises: Declined."""

    def write(self, key: str, body: Body, *, absent: bool = False, expected: str | None = None) -> str:
        """Write if there is nothing (`absent`), or if the ETag is `expected`, or whatever is there; return the ETag.

        Raises: Declined.
        """


class Etags:
    """How a server wants ETags named in conditions. Shared by a store and its engines; a probe may change it."""

    def __init__(self, *, quotes: bool) -> None:
        self.quotes = quotes

    def header(self, etag: str) -> str:
        """The value of If-Match or If-None-Match."""
        return f'"{etag}"' if self.quotes else etag

    @staticmethod
    def opaque(answered: str) -> str:
        """An ETag as we keep it; servers differ in whether it comes in quotes."""
        return answered.strip('"')


def may_be_forked() -> bool:
    """Whether threads that obstore started may have stayed behind in a parent process, ours or the user's own."""
    return _is_lost or (_was_obstore_loaded and multiprocessing.parent_process() is not None)


def say_unused(*, is_unused: bool) -> None:
    """Say that obstore is loaded here and was not used, so that a child after a fork may; or that it is used now."""
    global _is_unused  # noqa: PLW0603 - a fact of this process
    _is_unused = is_unused


def is_foreign_body(content_type: str | None) -> bool:
    """Whether a body is a page for people, as gateways show one: nothing of ours was stored as such."""
    return (content_type or "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def range_end(start: int, length: int | None) -> int | None:
    """Where a range ends. S3 has no empty ranges: for those the first byte is asked for, to be thrown away."""
    return None if length is None else start + max(1, length)
