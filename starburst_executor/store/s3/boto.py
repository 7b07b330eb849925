"""BotoTransport: all requests to S3, by boto3. The reference implementation for the other transport.

boto3 finds credentials, region, profile and endpoint by its usual rules. Its own retries are off.

Bodies above 64 MB travel in parts, a few in parallel: uploads as a multipart upload whose completion carries the
condition, downloads as ranges of one ETag.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from botocore.config import Config

from starburst_executor.errors import ConfigError, PreconditionFailed, StarburstError, StoreUnavailable
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.s3.errors import FOREIGN, error_code, is_nowhere, meaning, meaning_of_code
from starburst_executor.store.s3.listing import (
    EVENT,
    EVENT_OF_DELETION,
    is_deletion,
    is_page,
    lines_of,
    note_root,
    take_lines,
)
from starburst_executor.store.s3.sdk import new_core, new_session, session_of
from starburst_executor.store.s3.transport import Etags, Unchanged, is_foreign_body, range_end

__all__ = ["BotoTransport", "is_directory_bucket"]

AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_CONNECT_S = 5.0
_READ_S = 60.0
_POOL = 64  # the submitter's 16 requests in flight and the collector's, with spare ones for parts
_WHOLE_BYTES = 64 << 20
_PART_BYTES = 16 << 20
_PARTS_MOST = 9_000  # S3 allows 10,000
_PARTS_AT_ONCE = 4
_KEYS_AT_ONCE = 1_000  # S3's limit for a page of a listing and for DeleteObjects
_PIECE_BYTES = 1 << 20
_PARTIAL = 206


class BotoTransport:
    """A boto3 client for one bucket.

    Attributes:
        client: The boto3 client.
        credentials: botocore's credentials, which refresh themselves; None if none were found.
        ca_bundle: The configured file or folder of certificates, if any.
        how: Endpoint, profile and source of the credentials, for messages.
    """

    name = "boto3"

    def __init__(
        self, bucket: str, etags: Etags, *, endpoint_url: str | None, region: str | None, profile: str | None
    ) -> None:
        self.bucket = bucket
        self._etags = etags
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_POOL,
            # A directory bucket has its own kind of signature, made with session credentials that boto3 renews.
            # Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-create-session.html
            signature_version=None if is_directory_bucket(bucket) else "s3v4",
            tcp_keepalive=True,
            # The signature already covers the body's SHA-256, and some servers do not support the newer headers for it.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            core = new_core(profile)
            session = session_of(core)
            self.client: Any = session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
            self.credentials: Any = session.get_credentials()
            self.ca_bundle: str | None = core.get_config_variable("ca_bundle")
        except FOREIGN as error:
            how = f"endpoint={endpoint_url or 'default'}, profile={profile or 'default'}"
            raise meaning(error, f"s3://{bucket}", how) from error
        self.client.meta.events.register(EVENT, take_lines)
        self.client.meta.events.register(EVENT_OF_DELETION, note_root)
        source = self.credentials.method if self.credentials else "none found"
        self.how = f"endpoint={self.client.meta.endpoint_url}, profile={profile or 'default'}, credentials={source}"

    def close(self) -> None:
        self.client.close()

    def get(self, key: str, *, start: int, length: int | None) -> Stored:
        return self._get(key, {}, start, length)

    def get_if_changed(self, key: str, etag: str, *, start: int, length: int | None) -> Stored | None:
        try:
            return self._get(key, {"IfNoneMatch": self._etags.header(etag)}, start, length)
        except Unchanged:
            return None

    def _get(self, key: str, condition: dict[str, str], start: int, length: int | None) -> Stored:
        end = range_end(start, length)
        params = condition if start == 0 and end is None else {**condition, "Range": _range(start, end)}
        try:
            response = self.client.get_object(**self._object(key), **params)
            stored = self._read(key, response, start, is_range="Range" in params)
        except StarburstError:
            raise
        except FOREIGN as error:
            if error_code(error) == "304" and condition:
                raise Unchanged from error
            if error_code(error) == "InvalidRange":  # the range starts after the end of the object
                return Stored(b"", self._asked_etag(key))
            raise self._meaning(error, key) from error
        return Stored(b"", stored.etag) if length == 0 else stored

    def write(self, key: str, body: Body, *, absent: bool = False, expected: str | None = None) -> str:
        condition = {"IfNoneMatch": "*"} if absent else {}
        if expected is not None:
            condition["IfMatch"] = self._etags.header(expected)
        try:
            if len(body) > _WHOLE_BYTES:
                return self._write_parts(key, memoryview(body), condition)
            whole = bytes(body) if isinstance(body, memoryview) else body
            return self._etag_of(key, self.client.put_object(**self._object(key), Body=whole, **condition))
        except StarburstError:
            raise
        except FOREIGN as error:
            raise self._meaning(error, key) from error

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names between `prefix` and the next "/", unordered."""
        pages = self._pages(prefix, Delimiter="/")
        for line in (line for page in pages for line in page.get("CommonPrefixes", ())):
            name = line.get("Prefix", "")
            if not name.startswith(prefix):
                raise self._no_answer(prefix, "a listing of something else")
            yield name[len(prefix) : -1]

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield every object whose key starts with `prefix`, unordered."""
        for page in self._pages(prefix):
            try:
                lines = lines_of(page)
            except FOREIGN as error:
                raise self._meaning(error, prefix) from error
            if not all(line.key.startswith(prefix) for line in lines):
                raise self._no_answer(prefix, "a listing of something else")
            yield from lines

    def delete(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        while batch := [*islice(rest, _KEYS_AT_ONCE)]:
            named = [{"Key": key} for key in batch]
            try:
                response = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": named, "Quiet": True})
            except FOREIGN as error:
                raise self._meaning(error, batch[0]) from error
            if not is_deletion(response):
                raise self._no_answer(batch[0], "not a response to a deletion")
            for failed in response.get("Errors", ()):
                raise meaning_of_code(failed["Code"], 0, f"s3://{self.bucket}/{failed['Key']}", self.how)

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": key}

    def _asked_etag(self, key: str) -> str:
        try:
            return self._etag_of(key, self.client.head_object(**self._object(key)))
        except StarburstError:
            raise
        except FOREIGN as error:
            raise self._meaning(error, key) from error

    def _read(self, key: str, response: dict[str, Any], start: int, *, is_range: bool) -> Stored:
        size, stream = int(response["ContentLength"]), response["Body"]
        with stream:
            etag = self._etag_of(key, response)
            if is_foreign_body(response.get("ContentType")):
                raise self._no_answer(key, "an HTML page")
            if is_range and response["ResponseMetadata"]["HTTPStatusCode"] != _PARTIAL:
                raise self._no_answer(key, "a whole object instead of the requested range")
            if size <= _WHOLE_BYTES:
                return Stored(stream.read(), etag)
            # `getvalue` returns the buffer itself, so that a body of gigabytes is in memory once, not twice.
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
            params = {"Range": _range(start + first, start + first + len(part)), "IfMatch": self._etags.header(etag)}
            with self.client.get_object(**self._object(key), **params)["Body"] as stream:
                _pour(stream, part)

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE, "starburst-s3-part") as pool:
                for _ in pool.map(read_part, range(_PART_BYTES, len(view), _PART_BYTES)):
                    pass
        except StarburstError:
            raise
        except FOREIGN as error:
            failure = self._meaning(error, key)
            if isinstance(failure, PreconditionFailed):
                failure = StoreUnavailable(f"the object changed while it was read: s3://{self.bucket}/{key}")
            raise failure from error

    def _write_parts(self, key: str, view: memoryview, condition: dict[str, str]) -> str:
        """Upload in parts. The object appears with the completion, which carries the condition.

        Crash here: uploaded parts without an object cost money until a lifecycle rule of the bucket removes them.
        """
        client = self.client
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
        return self._etag_of(key, done)

    def _etag_of(self, key: str, answer: dict[str, Any]) -> str:
        if etag := Etags.opaque(answer.get("ETag", "")):
            return etag
        raise self._no_answer(key, "an answer without an ETag")

    def _no_answer(self, key: str, what: str) -> StoreUnavailable:
        """The error for status 200 with a body that S3 never sends. The outcome is unknown, as after a lost answer."""
        return StoreUnavailable(f"the answer did not come from S3: {what}: s3://{self.bucket}/{key}, {self.how}")

    def _pages(self, prefix: str, **params: str) -> Iterator[dict[str, Any]]:
        params |= {"Bucket": self.bucket, "Prefix": prefix}
        while True:
            try:
                page = self.client.list_objects_v2(**params)
            except FOREIGN as error:
                raise self._meaning(error, prefix) from error
            if not is_page(page):
                raise self._no_answer(prefix, "not a page of a listing")
            yield page
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == params.get("ContinuationToken"):
                raise self._no_answer(prefix, "a truncated page without a token for the next one")
            params["ContinuationToken"] = token

    def _meaning(self, error: Exception, key: str) -> StarburstError:
        return (is_nowhere(error) and self.no_such_region(key)) or meaning(error, f"s3://{self.bucket}/{key}", self.how)

    def no_such_region(self, key: str) -> ConfigError | None:
        """Return the error for a region that does not exist: unknown to the SDK, and its host name does not resolve; else None."""
        if not self._unknown_region:
            return None
        try:
            socket.getaddrinfo(urlsplit(self.client.meta.endpoint_url).hostname, None)
        except OSError as error:
            place = f"s3://{self.bucket}/{key}"
            return ConfigError(
                f"the region does not exist, correct it: region={self._unknown_region}: {place}: {error}"
            )
        return None

    @cached_property
    def _unknown_region(self) -> str:
        """The region if requests go to Amazon and the SDK does not list it, else "". It may be newer than the SDK."""
        region, host = str(self.client.meta.region_name), urlsplit(self.client.meta.endpoint_url).hostname or ""
        if not host.endswith(AWS_HOSTS) or region == "aws-global":
            return ""
        sdk = new_session(None)
        partitions = sdk.get_available_partitions()
        regions = [name for partition in partitions for name in sdk.get_available_regions("s3", partition)]
        return "" if region in regions else region


def _range(start: int, end: int | None) -> str:
    return f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"


def _pour(stream: Any, into: memoryview) -> None:
    """Fill `into` from the stream. Raises: StoreUnavailable if the stream ends before."""
    at = 0
    while at < len(into):
        piece = stream.read(min(_PIECE_BYTES, len(into) - at))
        if not piece:
            raise StoreUnavailable(f"the answer was cut short: expected={len(into)} bytes, got={at}")
        into[at : at + len(piece)] = piece
        at += len(piece)


def is_directory_bucket(bucket: str) -> bool:
    """Whether the name is that of a directory bucket, of S3 Express One Zone.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/directory-bucket-naming-rules.html
    """
    return bucket.endswith("--x-s3")
