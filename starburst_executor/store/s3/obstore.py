"""ObstoreTransport: small objects by obstore, a client in Rust that needs a twentieth of boto3's CPU time per request.

Guarantee: each answer is one that boto3 would have given too. Where that is not certain, the call is declined:

    before a request is sent    the key or body is not supported; no credentials are available
    refused                     credentials, rights, bucket, region: boto3 can follow a moved bucket, and decides
    unknown error               of a read; a write without a clear answer is unclear

Address and credentials come from boto3: the address from one request that boto3 signs and does not send, the
credentials anew for each request, so that boto3 refreshes them.

The constructor declines, and boto3 makes all requests, where the two clients would differ: with a proxy, with the user's
own certificates, with `AWS_*` variables that obstore reads and boto3 does not, with another kind of signature, with a
version of obstore whose error texts are not known, and in a child after a fork, which lacks obstore's threads.

Source: docs/design/0004-s3-transports.md
"""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import obstore
from obstore.exceptions import BaseError, NotModifiedError, UnknownConfigurationKeyError
from obstore.store import S3Store as Connection

from starburst_executor.config import variable_names
from starburst_executor.errors import AccessDenied, ConfigError, StarburstError, StoreUnavailable
from starburst_executor.store.base import Body, Stored
from starburst_executor.store.s3.boto import BotoTransport
from starburst_executor.store.s3.errors import FOREIGN, meaning_of_code
from starburst_executor.store.s3.transport import (
    Declined,
    Etags,
    Unchanged,
    is_foreign_body,
    may_be_forked,
    range_end,
    say_unused,
)

__all__ = ["Address", "ObstoreTransport", "address_of"]

# The texts of errors are parsed below; tests/unit/store/test_s3_transports.py checks those of these versions.
_VERSIONS = ("0.11.", "0.12.")
_PROBE_KEY = "k"
_WRITTEN_BYTES = 1 << 20  # the read timeout starts when sending starts: 30 s may be too short for a bigger body
_READ_BYTES = 64 << 20
_CLIENT = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(hours=1),  # for a whole answer; each read has its own
}
_NO_RETRIES = {"max_retries": 0, "retry_timeout": timedelta(0)}
# Variables that obstore reads too, but whose values we pass explicitly, as boto3 resolved them.
_PASSED = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_BUCKET",
        "AWS_BUCKET_NAME",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    }
)
# Answers to a request that was signed for another region than the bucket's; boto3 finds the right one.
_MOVED = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "301"})
_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d+/(?P<region>[\w-]+)/s3/aws4_request,")
_STATUS = re.compile(r" - Server returned non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_NO_ANSWER = "HTTP error: "
_REDIRECTED = "error following redirect"
_MOVED_WORDS = "Received redirect without LOCATION"


class Address(NamedTuple):
    """The endpoint of a bucket, and the region for which requests are signed."""

    endpoint: str
    has_bucket: bool
    region: str


class ObstoreTransport:
    """Reads and writes small objects as `boto` would.

    Raises: Declined, if its requests would differ from those of boto3.
    """

    name = "obstore"

    def __init__(self, boto: BotoTransport, etags: Etags) -> None:
        if reason := _hindrance():
            raise Declined(reason)
        say_unused(is_unused=False)
        self._address = address_of(boto)
        if self._address.endpoint.startswith("https:") and (boto.ca_bundle or "REQUESTS_CA_BUNDLE" in variable_names()):
            raise Declined("a bundle of certificates is configured")
        self._boto = boto
        self._etags = etags
        self._lock = threading.Lock()  # guards: _made; while it is replaced
        self._made: tuple[Any, Connection] | None = None
        self._connection()

    def get(self, key: str, *, start: int, length: int | None) -> Stored:
        return self._get(key, {}, start, length)

    def get_if_changed(self, key: str, etag: str, *, start: int, length: int | None) -> Stored | None:
        try:
            return self._get(key, {"if_none_match": self._etags.header(etag)}, start, length)
        except Unchanged:
            return None

    def _get(self, key: str, condition: dict[str, str], start: int, length: int | None) -> Stored:
        path = _path(key)
        options: Any = {**condition}
        if start or length is not None:
            end = range_end(start, length)
            options["range"] = {"offset": start} if end is None else (start, end)
        try:
            answer = obstore.get(self._connection(), path, options=options or None)
            etag, (first, end) = answer.meta["e_tag"], answer.range
            if not etag or end - first > _READ_BYTES:
                raise Declined("a big object, or an answer without an ETag")
            if is_foreign_body(answer.attributes.get("Content-Type")):
                raise Declined("an HTML page")
            body = bytes(answer.bytes())
        except NotModifiedError as error:
            if not condition:
                raise Declined("status 304 without a condition") from error
            raise Unchanged from error
        except (BaseError, FileNotFoundError, ValueError) as error:
            raise self._meaning(error, key, is_read=True) from error
        return Stored(b"" if length == 0 else body, Etags.opaque(etag))

    def write(self, key: str, body: Body, *, absent: bool = False, expected: str | None = None) -> str:
        if len(body) > _WRITTEN_BYTES:
            raise Declined("a big object")
        path, mode = _path(key), "create" if absent else "overwrite"
        condition: Any = mode if expected is None else {"e_tag": self._etags.header(expected)}
        try:
            done = obstore.put(self._connection(), path, bytes(body), mode=condition, use_multipart=False)
        except (BaseError, FileNotFoundError, ValueError) as error:
            raise self._meaning(error, key, is_read=False) from error
        if etag := done["e_tag"]:
            return Etags.opaque(etag)
        raise StoreUnavailable(f"an answer without an ETag: s3://{self._boto.bucket}/{key}, {self._boto.how}")

    def _connection(self) -> Connection:
        """Return the client that signs with the current credentials."""
        try:
            now = self._boto.credentials.get_frozen_credentials()
        except FOREIGN as error:
            raise Declined(f"no credentials are available: {error}") from error
        latest = self._made  # unlocked: one reference, replaced as a whole
        if latest is not None and latest[0] == now:
            return latest[1]
        with self._lock:
            self._made = now, self._new_connection(now)
            return self._made[1]

    def _new_connection(self, credentials: Any) -> Connection:
        address = self._address
        options: Any = {**_CLIENT, "allow_http": address.endpoint.startswith("http:")}
        retries: Any = _NO_RETRIES
        signed_by: Any = {
            "access_key_id": credentials.access_key,
            "secret_access_key": credentials.secret_key,
            "token": credentials.token,
            "expires_at": None,
        }
        try:
            return Connection(
                self._boto.bucket,
                region=address.region,
                endpoint=address.endpoint,
                # The environment variable of this name would override `endpoint`.
                aws_endpoint_url_s3=address.endpoint,
                virtual_hosted_style_request=address.has_bucket,
                client_options=options,
                retry_config=retries,
                # Not as `access_key_id`: obstore would then add a token from the environment.
                credential_provider=lambda: signed_by,
            )
        except (BaseError, ValueError) as error:  # for example, the machine has no certificates
            raise Declined(f"obstore cannot be set up: {_first_words(error)}", for_good=True) from error

    def _meaning(self, error: Exception, key: str, *, is_read: bool) -> StarburstError | Declined:
        """Return the error of this package for an error of obstore. Parses its text: 409 and 412 have the same class."""
        text = str(error)
        words = _first_words(error)
        place = f"s3://{self._boto.bucket}/{key}"
        if status := _STATUS.search(words):
            code_match = _CODE.search(words, status.end())
            code = code_match[1] if code_match else status[1]
            failure = meaning_of_code(code, int(status[1]), place, self._boto.how)
            if isinstance(failure, (AccessDenied, ConfigError)):
                return Declined(words, for_good=code in _MOVED)
            return failure
        if "InvalidCertificate" in text:  # the request was not sent
            return Declined("obstore does not trust the server's certificate", for_good=True)
        if _MOVED_WORDS in words or _REDIRECTED in words:
            return Declined(words, for_good=_MOVED_WORDS in words)
        if is_read and _NO_ANSWER not in words:
            return Declined(words)
        return self._boto.no_such_region(key) or StoreUnavailable(
            f"no answer from S3: {place}, {self._boto.how}: {type(error).__name__}: {words}"
        )


class _Ready(Exception):
    """Carries a signed request out of boto3 before it is sent."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


def address_of(boto: BotoTransport) -> Address:
    """Return the address to which boto3 sends requests for its bucket, taken from a signed request that is not sent.

    Presigned URLs do not help: they name other hosts. Raises: Declined.
    """
    events, event = boto.client.meta.events, "before-send.s3.GetObject"
    events.register(event, _stop)
    try:
        boto.client.get_object(Bucket=boto.bucket, Key=_PROBE_KEY)
    except _Ready as ready:
        return _address_in(boto.bucket, ready.request.url, ready.request.headers)
    except FOREIGN as error:
        raise Declined(f"boto3 cannot sign: {error}") from error
    finally:
        events.unregister(event, _stop)
    raise Declined("boto3 does not show its requests")


def _stop(request: Any, **_: object) -> None:
    raise _Ready(request)


def _address_in(bucket: str, url: str, headers: Any) -> Address:
    signed, parts = headers.get("Authorization", b""), urlsplit(url)
    signature = _SIGNED.match(signed.decode() if isinstance(signed, bytes) else signed)
    if signature is None:
        raise Declined("requests have another kind of signature")
    in_path = f"/{bucket}/{_PROBE_KEY}"
    server, path = f"{parts.scheme}://{parts.netloc}", unquote(parts.path)
    if path.endswith(in_path):
        return Address(server + path.removesuffix(in_path), False, signature["region"])
    if path == f"/{_PROBE_KEY}" and parts.netloc.startswith(f"{bucket}."):
        return Address(server, True, signature["region"])
    raise Declined("the bucket's address has an unknown form")


def _hindrance() -> str:
    """Return the reason why obstore cannot be used in this process; empty if it can."""
    if not obstore.__version__.startswith(_VERSIONS):
        return f"obstore {obstore.__version__} is not a known version"
    if may_be_forked():
        return "obstore does not survive a fork"
    if {"http", "https", "all"} & getproxies().keys():
        return "a proxy is configured"
    if read_by_obstore := sorted(filter(_is_read, variable_names() - _PASSED)):
        return f"obstore would read {', '.join(read_by_obstore)}, and boto3 would not"
    return ""


def _is_read(variable: str) -> bool:
    """Whether obstore reads a setting from this variable."""
    if not variable.startswith("AWS_"):
        return False
    setting: Any = {variable.lower(): ""}
    try:
        Connection("bucket", config=setting)
    except UnknownConfigurationKeyError:
        return False
    except (BaseError, ValueError):
        return True
    return True


def _path(key: str) -> str:
    """Return the key, if obstore can encode it. Raises: Declined."""
    if key.isprintable() and not {"", ".", ".."} & set(key.split("/")):
        return key
    raise Declined("obstore cannot encode the key")


def _first_words(error: Exception) -> str:
    """Return the error's text without the debug output that obstore appends."""
    return str(error).split("\n\nDebug source", 1)[0]
