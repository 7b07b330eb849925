"""S3Store: objects in one bucket of Amazon S3, or of a server that speaks its protocol and honours conditional writes.

Guarantee: one call is one try (the SDK's own retries are off), and its answer is one of those that `s3_errors.py`
lists. What comes of an unclear one is decided in `patient.py`.

Credentials, region, profile and endpoint are found as boto3 finds them everywhere else. What a machine elsewhere
cannot find for itself (an endpoint that is not AWS, a region, a profile, the style of ETags) is part of `url`.

Bodies above 64 MB travel in parts, a few at once: up as a multipart upload whose completion bears the condition, down
as ranges of one ETag.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.utils import parse_timestamp

from starburst_executor.errors import ConfigError, PreconditionFailed, StarburstError, StoreUnavailable
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.s3_errors import FOREIGN, error_code, meaning, meaning_of_code

__all__ = ["S3Store"]

_CONNECT_S = 5.0
_READ_S = 60.0
_POOL = 64  # the submitter's 16 requests in flight and the collector's, with room for parts
_WHOLE_BYTES = 64 << 20
_PART_BYTES = 16 << 20
_PARTS_MOST = 9_000  # S3 takes 10,000
_PARTS_AT_ONCE = 4
_KEYS_AT_ONCE = 1_000  # S3's limit, of a listing's page and of DeleteObjects
_PIECE_BYTES = 1 << 20
_QUERY = ("endpoint_url", "etag_quotes", "profile", "region")
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


class S3Store:
    """Objects in a bucket, under a prefix. Thread-safe; a child after a fork makes connections of its own.

    Args:
        bucket: Its name; it must exist.
        prefix: What all keys start with, without slashes at its ends; may be empty.
        endpoint_url: Where the server is, if it is not AWS and the environment does not say so.
        region: The bucket's region, if the environment does not say so.
        profile: A profile of the AWS config files, if not the default one.
        etag_quotes: Whether conditions name ETags in quotes, as HTTP wants it; `probe.py` finds out.
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
    ) -> None:
        self.bucket = bucket
        self.etag_quotes = etag_quotes
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._region = region
        self._profile = profile
        self._lock = threading.Lock()  # guards _made, while a client is made
        self._made: tuple[int, Any, str] | None = None

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        """The store of `s3://bucket/prefix?endpoint_url=…&region=…&profile=…`. Raises: ConfigError."""
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
        )

    def __repr__(self) -> str:
        return f"S3Store({self.bucket!r}, {self._prefix.rstrip('/')!r})"

    @property
    def url(self) -> str:
        meta = self._client().meta
        query = {
            "endpoint_url": None if self.is_aws else meta.endpoint_url,
            "region": None if meta.region_name == "aws-global" else meta.region_name,
            "profile": self._profile,
            "etag_quotes": None if self.etag_quotes else "no",
        }
        place = f"s3://{self.bucket}/{self._prefix}".rstrip("/")
        asked = urlencode({name: value for name, value in query.items() if value}, safe=":/")
        return f"{place}?{asked}" if asked else place

    @property
    def endpoint_url(self) -> str:
        """Where requests go."""
        return str(self._client().meta.endpoint_url)

    @property
    def is_aws(self) -> bool:
        """Whether Amazon answers, whose conditional writes need no proof."""
        return (urlsplit(self.endpoint_url).hostname or "").endswith(_AWS_HOSTS)

    def get(self, key: str, *, unless: str | None = None, start: int = 0, length: int | None = None) -> Stored | None:
        # S3 has no empty ranges: the first byte is asked for and thrown away.
        end = None if length is None else start + max(1, length)
        asked = {} if start == 0 and end is None else {"Range": _range(start, end)}
        if unless is not None:
            asked["IfNoneMatch"] = self._condition(unless)
        try:
            response = self._client().get_object(**self._object(key), **asked)
            stored = self._read(key, response, start)
        except FOREIGN as error:
            if error_code(error) == "304":
                return None
            if error_code(error) == "InvalidRange":  # it starts behind the end
                return Stored(b"", self._etag(key))
            raise self._meaning(error, key) from error
        return Stored(b"", stored.etag) if length == 0 else stored

    def create(self, key: str, body: Body) -> str:
        return self._write(key, body, {"IfNoneMatch": "*"})

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._write(key, body, {"IfMatch": self._condition(expected)})

    def put(self, key: str, body: Body) -> str:
        return self._write(key, body, {})

    def list_folders(self, prefix: str) -> list[str]:
        start = self._prefix + prefix
        pages = self._pages(prefix, Delimiter="/")
        return sorted({line["Prefix"][len(start) : -1] for page in pages for line in page.get("CommonPrefixes", ())})

    def list(self, prefix: str) -> list[Listed]:
        return sorted(
            Listed(
                line["Key"][len(self._prefix) :], line["Size"], _opaque(line["ETag"]), _epoch_s(line["LastModified"])
            )
            for page in self._pages(prefix)
            for line in page.get("Contents", ())
        )

    def delete(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        while batch := [*islice(rest, _KEYS_AT_ONCE)]:
            named = [{"Key": self._prefix + key} for key in batch]
            try:
                response = self._client().delete_objects(Bucket=self.bucket, Delete={"Objects": named, "Quiet": True})
            except FOREIGN as error:
                raise self._meaning(error, batch[0]) from error
            for failed in response.get("Errors", ()):
                place = f"s3://{self.bucket}/{failed['Key']}"
                raise meaning_of_code(failed["Code"], 0, place, self._how())

    def close(self) -> None:
        with self._lock:
            made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            made[1].close()

    def _client(self) -> Any:
        """This process's client: a connection shared with a parent would mix up their answers."""
        made = self._made
        if made is not None and made[0] == os.getpid():
            return made[1]
        if made is not None:
            self._lock = threading.Lock()  # the parent's may have been held as it forked
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = self._new_client()
            return self._made[1]

    def _new_client(self) -> tuple[int, Any, str]:
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_POOL,
            signature_version="s3v4",
            tcp_keepalive=True,
            # Bodies are signed by their SHA-256 already, and not every server knows the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            core = botocore.session.get_session()
            # Times stay as they were sent: the SDK's parser takes nine tenths of what a listing costs, and one in ten of
            # what a GET does, whose time nobody reads.
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
            session = boto3.Session(profile_name=self._profile, botocore_session=core)
            client = session.client("s3", endpoint_url=self._endpoint_url, region_name=self._region, config=config)
            credentials = session.get_credentials()
        except (*FOREIGN, ValueError) as error:  # a ValueError: the endpoint is no URL
            how = f"endpoint={self._endpoint_url or 'default'}, profile={self._profile or 'default'}"
            raise meaning(error, f"s3://{self.bucket}", how) from error
        return os.getpid(), client, str(credentials.method) if credentials else "none found"

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + key}

    def _condition(self, etag: str) -> str:
        return f'"{etag}"' if self.etag_quotes else etag

    def _etag(self, key: str) -> str:
        try:
            return _opaque(self._client().head_object(**self._object(key))["ETag"])
        except FOREIGN as error:
            raise self._meaning(error, key) from error

    def _read(self, key: str, response: dict[str, Any], start: int) -> Stored:
        etag, size, stream = _opaque(response["ETag"]), int(response["ContentLength"]), response["Body"]
        with stream:
            if size <= _WHOLE_BYTES:
                return Stored(stream.read(), etag)
            # Its value is its buffer, so that gigabytes are held once, not twice.
            whole = io.BytesIO(bytes(size))
            with whole.getbuffer() as view:
                _pour(stream, view[:_PART_BYTES])
                stream.close()
                self._read_parts(key, etag, start, view)
        return Stored(whole.getvalue(), etag)

    def _read_parts(self, key: str, etag: str, start: int, view: memoryview) -> None:
        """Fill the rest of `view`, which begins at `start` of the object."""

        def read_part(first: int) -> None:
            part = view[first : first + _PART_BYTES]
            asked = {"Range": _range(start + first, start + first + len(part)), "IfMatch": self._condition(etag)}
            with self._client().get_object(**self._object(key), **asked)["Body"] as stream:
                _pour(stream, part)

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE, "starburst-s3-part") as pool:
                for _ in pool.map(read_part, range(_PART_BYTES, len(view), _PART_BYTES)):
                    pass
        except FOREIGN as error:
            told = self._meaning(error, key)
            if isinstance(told, PreconditionFailed):
                told = StoreUnavailable(f"the object changed while it was read: s3://{self.bucket}/{self._prefix}{key}")
            raise told from error

    def _write(self, key: str, body: Body, condition: dict[str, str]) -> str:
        try:
            if len(body) > _WHOLE_BYTES:
                return self._write_parts(key, memoryview(body), condition)
            whole = bytes(body) if isinstance(body, memoryview) else body
            return _opaque(self._client().put_object(**self._object(key), Body=whole, **condition)["ETag"])
        except FOREIGN as error:
            raise self._meaning(error, key) from error

    def _write_parts(self, key: str, view: memoryview, condition: dict[str, str]) -> str:
        """Upload in parts; nothing is there until the completion, which bears the condition.

        # Crash here: parts without an object, which cost money until a lifecycle rule of the bucket removes them.
        """
        client = self._client()
        part_bytes = max(_PART_BYTES, -(-len(view) // _PARTS_MOST))
        upload = {**self._object(key), "UploadId": client.create_multipart_upload(**self._object(key))["UploadId"]}

        def write_part(number: int) -> dict[str, Any]:
            part = bytes(view[(number - 1) * part_bytes : number * part_bytes])
            return {"PartNumber": number, "ETag": client.upload_part(**upload, PartNumber=number, Body=part)["ETag"]}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE, "starburst-s3-part") as pool:
                parts = [*pool.map(write_part, range(1, -(-len(view) // part_bytes) + 1))]
            done = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)
        except BaseException:
            with suppress(*FOREIGN):
                client.abort_multipart_upload(**upload)
            raise
        return _opaque(done["ETag"])

    def _pages(self, prefix: str, **asked: str) -> Iterator[dict[str, Any]]:
        asked |= {"Bucket": self.bucket, "Prefix": self._prefix + prefix}
        while True:
            try:
                page = self._client().list_objects_v2(**asked)
            except FOREIGN as error:
                raise self._meaning(error, prefix) from error
            yield page
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _meaning(self, error: Exception, key: str) -> StarburstError:
        return meaning(error, f"s3://{self.bucket}/{self._prefix}{key}", self._how())

    def _how(self) -> str:
        made = self._made
        endpoint = made[1].meta.endpoint_url if made else self._endpoint_url
        found = made[2] if made else "not looked for"
        return f"endpoint={endpoint}, profile={self._profile or 'default'}, credentials={found}"


def _opaque(etag: str) -> str:
    """An ETag as we keep it; servers differ in whether it comes in quotes."""
    return etag.strip('"')


def _epoch_s(sent: str) -> float:
    """A listing's time: `2009-10-12T17:50:30.000Z`, or what else a server takes for ISO 8601."""
    try:
        return datetime.fromisoformat(sent.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return parse_timestamp(sent).timestamp()


def _range(start: int, end: int | None) -> str:
    return f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"


def _pour(stream: Any, into: memoryview) -> None:
    """Read exactly as much as there is room for."""
    at = 0
    while at < len(into):
        piece = stream.read(min(_PIECE_BYTES, len(into) - at))
        if not piece:
            raise StoreUnavailable(f"the answer was cut short: expected={len(into)} bytes, got={at}")
        into[at : at + len(piece)] = piece
        at += len(piece)
