"""S3Store: objects in one bucket of Amazon S3, or of a server that speaks its protocol and honours conditional writes.

Guarantee: one call is one try (no engine retries), and its answer is one of those that `s3_errors.py` lists. What comes
of an unclear one is decided in `patient.py`.

What a machine elsewhere cannot find for itself (an endpoint that is not AWS, a region, a profile, the style of ETags, an
engine that was asked for) is part of `url`.

boto3 finds credentials and addresses and can do everything; obstore reads and writes small objects for a twentieth of
the CPU time wherever it can be trusted to do the same (`obstore.py`). What obstore declines, boto3 is asked.
Source: docs/design/0004-s3-engines.md
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from starburst_executor.errors import ConfigError
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.s3.engine import Declined, Engine, Etags, say_unused

if TYPE_CHECKING:
    from starburst_executor.store.s3.boto import BotoEngine

__all__ = ["S3Store", "preload"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_QUERY = ("endpoint_url", "engine", "etag_quotes", "profile", "region")


@dataclass(slots=True)
class _Engines:
    """What one process asks by: boto3 always, obstore where it is of use."""

    pid: int
    boto: BotoEngine
    fast: Engine | None


class S3Store:
    """Objects in a bucket, under a prefix. Thread-safe; a child after a fork makes connections of its own, by boto3.

    Args:
        bucket: Its name; it must exist.
        prefix: What all keys start with, without slashes at its ends; may be empty.
        endpoint_url: Where the server is, if it is not AWS and the environment does not say so.
        region: The bucket's region, if the environment does not say so.
        profile: A profile of the AWS config files, if not the default one.
        etag_quotes: Whether conditions name ETags in quotes, as HTTP wants it; `probe.py` finds out.
        engine: "boto3" to have every request made by boto3; by default obstore makes those that it can.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        etag_quotes: bool = True,
        engine: str | None = None,
    ) -> None:
        if engine not in (None, "boto3"):
            raise ConfigError(f"an S3 store's engine can be chosen to be boto3, or is left out: engine={engine}")
        self.bucket = bucket
        self._etags = Etags(quotes=etag_quotes)
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._region = region
        self._profile = profile
        self._boto_only = engine == "boto3"
        self._lock = threading.Lock()  # guards _made, while engines are made
        self._lock_pid = os.getpid()
        self._made: _Engines | None = None
        self._inherited: _Engines | None = None

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        """The store of `s3://bucket/prefix?endpoint_url=…&region=…&profile=…&engine=…`. Raises: ConfigError."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.fragment:
            raise ConfigError("an S3 store's URL is s3://bucket/prefix, without credentials")
        query = dict(parse_qsl(parts.query))
        if unknown := sorted(query.keys() - set(_QUERY)):
            raise ConfigError(f"an S3 store's URL takes {', '.join(_QUERY)}: not {', '.join(unknown)}")
        return cls(
            parts.netloc,
            parts.path.strip("/"),
            endpoint_url=query.get("endpoint_url"),
            region=query.get("region"),
            profile=query.get("profile"),
            etag_quotes=query.get("etag_quotes") != "no",
            engine=query.get("engine"),
        )

    def __repr__(self) -> str:
        return f"S3Store({self.bucket!r}, {self._prefix.rstrip('/')!r})"

    @property
    def url(self) -> str:
        meta = self._engines().boto.client.meta
        query = {
            "endpoint_url": None if self.is_aws else meta.endpoint_url,
            "region": None if meta.region_name == "aws-global" else meta.region_name,
            "profile": self._profile,
            "etag_quotes": None if self.etag_quotes else "no",
            "engine": "boto3" if self._boto_only else None,
        }
        place = f"s3://{self.bucket}/{self._prefix}".rstrip("/")
        asked = urlencode({name: value for name, value in query.items() if value}, safe=":/")
        return f"{place}?{asked}" if asked else place

    @property
    def endpoint_url(self) -> str:
        """Where requests go."""
        return str(self._engines().boto.client.meta.endpoint_url)

    @property
    def is_aws(self) -> bool:
        """Whether Amazon answers, whose conditional writes need no proof."""
        # Loaded by then: boto3 says where requests go.
        from starburst_executor.store.s3.boto import AWS_HOSTS

        return (urlsplit(self.endpoint_url).hostname or "").endswith(AWS_HOSTS)

    @property
    def etag_quotes(self) -> bool:
        """Whether conditions name ETags in quotes."""
        return self._etags.quotes

    @etag_quotes.setter
    def etag_quotes(self, quotes: bool) -> None:
        self._etags.quotes = quotes

    @property
    def engine(self) -> str:
        """What small objects are read and written by in this process: "obstore" or "boto3"."""
        engines = self._engines()
        return (engines.fast or engines.boto).name

    def get(self, key: str, *, unless: str | None = None, start: int = 0, length: int | None = None) -> Stored | None:
        whole = self._prefix + key
        return self._ask(lambda engine: engine.get(whole, unless=unless, start=start, length=length))

    def create(self, key: str, body: Body) -> str:
        return self._ask(lambda engine: engine.write(self._prefix + key, body, absent=True))

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._ask(lambda engine: engine.write(self._prefix + key, body, expected=expected))

    def put(self, key: str, body: Body) -> str:
        return self._ask(lambda engine: engine.write(self._prefix + key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return sorted(set(self._engines().boto.folders(self._prefix + prefix)))

    def list(self, prefix: str) -> list[Listed]:
        at = len(self._prefix)
        lines = self._engines().boto.list(self._prefix + prefix)
        return sorted(Listed(key[at:], size, etag, modified_at) for key, size, etag, modified_at in lines)

    def delete(self, keys: Iterable[str]) -> None:
        self._engines().boto.delete(self._prefix + key for key in keys)

    def close(self) -> None:
        with self._lock:
            made, self._made = self._made, None
        if made is not None and made.pid == os.getpid():
            made.boto.close()
        elif made is not None:
            self._inherited = made

    def _ask(self, ask: Callable[[Engine], _T]) -> _T:
        """Ask obstore where it is of use, and boto3 what obstore declines.

        # Guarantee: still one try. What was declined is not sent, or refused, so that it was not done; or it only reads.
        """
        engines = self._engines()
        if (fast := engines.fast) is not None:
            try:
                return ask(fast)
            except Declined as declined:
                if declined.for_good:
                    _log.info("boto3 makes all requests from now on: %s", declined)
                    engines.fast = None
        return ask(engines.boto)

    def _engines(self) -> _Engines:
        """This process's engines: a connection shared with a parent would mix up their answers."""
        made = self._made
        if made is not None and made.pid == os.getpid():
            return made
        if self._lock_pid != os.getpid():
            self._lock = threading.Lock()  # the parent's may have been held as it forked
            self._lock_pid = os.getpid()
        with self._lock:
            if self._made is None or self._made.pid != os.getpid():
                # The parent's are kept for good: taking them apart would wake threads that are not here.
                self._inherited = self._made or self._inherited
                self._made = self._new_engines()
            return self._made

    def _new_engines(self) -> _Engines:
        # Loaded by the first request: boto3 takes longer to import than everything else together.
        from starburst_executor.store.s3.boto import BotoEngine

        boto = BotoEngine(
            self.bucket, self._etags, endpoint_url=self._endpoint_url, region=self._region, profile=self._profile
        )
        return _Engines(os.getpid(), boto, None if self._boto_only else self._fast(boto))

    def _fast(self, boto: BotoEngine) -> Engine | None:
        try:
            from starburst_executor.store.s3.obstore import ObstoreEngine
        except ImportError:
            _log.info("boto3 makes all requests: obstore is not installed")
            return None
        try:
            return ObstoreEngine(boto, self._etags)
        except Declined as declined:
            _log.info("boto3 makes all requests: %s", declined)
            return None


def preload() -> None:
    """Load what the first client needs, once for all forks of this process. No engine is made, no credentials sought."""
    from starburst_executor.store.s3 import boto as s3_boto

    s3_boto.preload()
    with suppress(ImportError):
        from starburst_executor.store.s3 import obstore  # noqa: F401 - loaded for later

        say_unused(is_unused=True)
