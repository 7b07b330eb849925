"""S3Store: objects in one bucket of Amazon S3, or of a compatible server that honours conditional writes.

Guarantee: one call is one try (no transport retries), and its answer is one that `errors.py` lists. `store/patient.py`
resolves unclear answers.

`url` carries the settings that another machine cannot find for itself: an endpoint outside AWS, a region, a profile, the
style of ETags, a chosen transport.

boto3 finds credentials and addresses and can make every request; obstore reads and writes small objects for a twentieth
of the CPU time, wherever the result is certainly the same (`obstore.py`). boto3 makes the requests that obstore declines.
Source: docs/design/0004-s3-transports.md
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit

from starburst_executor.config import endpoint_in_environment
from starburst_executor.errors import ConfigError
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.limiter import Limiter, limiter_of
from starburst_executor.store.s3.connections import Connections
from starburst_executor.store.s3.transport import Etags

__all__ = ["S3Store"]

_QUERY = ("endpoint_url", "transport", "etag_quotes", "profile", "region")


class S3Store:
    """Objects in a bucket, under a prefix. Thread-safe; a child after a fork opens its own connections, by boto3.

    Args:
        bucket: Its name; it must exist.
        prefix: The prefix of all keys, without slashes at its ends; may be empty.
        endpoint_url: The server's address, if it is not AWS and the environment does not name it.
        region: The bucket's region, if the environment does not name it.
        profile: A profile of the AWS config files; the default profile if None.
        etag_quotes: Whether conditions name ETags in quotes, as HTTP requires; `probe.py` detects it.
        transport: "boto3" to make every request with boto3; by default obstore makes the requests that it supports.
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
        transport: str | None = None,
    ) -> None:
        if transport not in (None, "boto3"):
            raise ConfigError(f"an S3 store's transport must be boto3, or be left out: transport={transport}")
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._profile = profile
        self._boto_only = transport == "boto3"
        self._etags = Etags(quotes=etag_quotes)
        # All prefixes of a bucket share one limiter: S3 divides a busy bucket, but not where prefixes begin.
        self._limiter = limiter_of(f"{endpoint_url or endpoint_in_environment()}/{bucket}")
        self._connections = Connections(
            bucket, self._etags, endpoint_url=endpoint_url, region=region, profile=profile, boto_only=self._boto_only
        )

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        """Return the store for `s3://bucket/prefix?endpoint_url=…&region=…&profile=…&transport=…`. Raises: ConfigError."""
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
            transport=query.get("transport"),
        )

    def __repr__(self) -> str:
        return f"S3Store({self.bucket!r}, {self._prefix.rstrip('/')!r})"

    @property
    def url(self) -> str:
        meta = self._connections.current().boto.client.meta
        query = {
            "endpoint_url": None if self.is_aws else meta.endpoint_url,
            "region": None if meta.region_name == "aws-global" else meta.region_name,
            "profile": self._profile,
            "etag_quotes": None if self.etag_quotes else "no",
            "transport": "boto3" if self._boto_only else None,
        }
        place = f"s3://{self.bucket}/{self._prefix}".rstrip("/")
        settings = urlencode({name: value for name, value in query.items() if value}, safe=":/")
        return f"{place}?{settings}" if settings else place

    @property
    def limiter(self) -> Limiter:
        return self._limiter

    @property
    def endpoint_url(self) -> str:
        """The address to which requests are sent."""
        return str(self._connections.current().boto.client.meta.endpoint_url)

    @property
    def is_aws(self) -> bool:
        """Whether the server is Amazon S3, whose conditional writes need no proof."""
        # Already loaded: `endpoint_url` comes from boto3.
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
    def transport(self) -> str:
        """The transport that reads and writes small objects in this process: "obstore" or "boto3"."""
        transports = self._connections.current()
        return (transports.fast or transports.boto).name

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        whole = self._prefix + key
        return self._connections.ask(lambda transport: transport.get(whole, start=start, length=length))

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        whole = self._prefix + key
        return self._connections.ask(
            lambda transport: transport.get_if_changed(whole, etag, start=start, length=length)
        )

    def create(self, key: str, body: Body) -> str:
        return self._connections.ask(lambda transport: transport.write(self._prefix + key, body, absent=True))

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._connections.ask(lambda transport: transport.write(self._prefix + key, body, expected=expected))

    def put(self, key: str, body: Body) -> str:
        return self._connections.ask(lambda transport: transport.write(self._prefix + key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return sorted(set(self._connections.current().boto.folders(self._prefix + prefix)))

    def list(self, prefix: str) -> list[Listed]:
        at = len(self._prefix)
        lines = self._connections.current().boto.list(self._prefix + prefix)
        return sorted(Listed(key[at:], size, etag, modified_at) for key, size, etag, modified_at in lines)

    def delete(self, keys: Iterable[str]) -> None:
        self._connections.current().boto.delete(self._prefix + key for key in keys)

    def close(self) -> None:
        self._connections.close()
