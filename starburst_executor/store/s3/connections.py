"""The transports of one process: boto3 always, obstore where it can be used.

Guarantee: a child after a fork never uses a connection of its parent, which would mix up the two processes' answers.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from starburst_executor.store.s3.transport import Declined, Etags, Transport, say_unused

if TYPE_CHECKING:
    from starburst_executor.store.s3.boto import BotoTransport

__all__ = ["Connections", "Transports", "preload"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(slots=True)
class Transports:
    """The transports of the process `pid`. `fast` is obstore, or None if boto3 makes all requests."""

    pid: int
    boto: BotoTransport
    fast: Transport | None


class Connections:
    """Makes the transports to one bucket when they are first needed, anew in each process. Thread-safe.

    Args:
        boto_only: Whether boto3 makes all requests.
    """

    def __init__(
        self,
        bucket: str,
        etags: Etags,
        *,
        endpoint_url: str | None,
        region: str | None,
        profile: str | None,
        boto_only: bool,
    ) -> None:
        self._bucket = bucket
        self._etags = etags
        self._endpoint_url = endpoint_url
        self._region = region
        self._profile = profile
        self._boto_only = boto_only
        self._lock = threading.Lock()  # guards: _made; while transports are made
        self._lock_pid = os.getpid()
        self._made: Transports | None = None
        self._inherited: Transports | None = None

    def current(self) -> Transports:
        """Return this process's transports."""
        transports = self._made  # unlocked: one reference, replaced as a whole
        if transports is not None and transports.pid == os.getpid():
            return transports
        if self._lock_pid != os.getpid():
            self._lock = threading.Lock()  # the parent's lock may have been held when it forked
            self._lock_pid = os.getpid()
        with self._lock:
            if self._made is None or self._made.pid != os.getpid():
                # The parent's transports are never freed: that would wake threads which do not exist in this process.
                self._inherited = self._made or self._inherited
                self._made = self._new()
            return self._made

    def ask(self, ask: Callable[[Transport], _T]) -> _T:
        """Make a request with obstore if it can be used, and with boto3 if obstore declines.

        Guarantee: still one try. A declined request had no effect: it was not sent, it was refused, or it only reads.
        """
        transports = self.current()
        if (fast := transports.fast) is not None:
            try:
                return ask(fast)
            except Declined as declined:
                if declined.for_good:
                    _log.info("boto3 makes all requests from now on: %s", declined)
                    transports.fast = None
        return ask(transports.boto)

    def close(self) -> None:
        """Close this process's connections. The next request opens new ones."""
        with self._lock:
            transports, self._made = self._made, None
        if transports is not None and transports.pid == os.getpid():
            transports.boto.close()
        elif transports is not None:
            self._inherited = transports

    def _new(self) -> Transports:
        # Imported by the first request: boto3 takes longer to import than all other modules together.
        from starburst_executor.store.s3.boto import BotoTransport

        boto = BotoTransport(
            self._bucket, self._etags, endpoint_url=self._endpoint_url, region=self._region, profile=self._profile
        )
        return Transports(os.getpid(), boto, None if self._boto_only else self._fast(boto))

    def _fast(self, boto: BotoTransport) -> Transport | None:
        try:
            from starburst_executor.store.s3.obstore import ObstoreTransport
        except ImportError:
            _log.info("boto3 makes all requests: obstore is not installed")
            return None
        try:
            return ObstoreTransport(boto, self._etags)
        except Declined as declined:
            _log.info("boto3 makes all requests: %s", declined)
            return None


def preload() -> None:
    """Import the modules of the first client, once for all forks of this process.

    Makes no transport and looks for no credentials.
    """
    from starburst_executor.store.s3 import boto, sdk  # noqa: F401 - boto is loaded for later

    sdk.preload()
    with suppress(ImportError):
        from starburst_executor.store.s3 import obstore  # noqa: F401 - loaded for later

        say_unused(is_unused=True)
