"""Both transports are asked the same and mean the same, answer by answer; and where obstore stands back for boto3."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import botocore.exceptions
import obstore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    ObjectNotFound,
    PreconditionFailed,
    StarburstError,
    StoreUnavailable,
)
from starburst_executor.store.base import Listed, Stored
from starburst_executor.store.s3 import boto as s3_boto
from starburst_executor.store.s3 import errors as s3_errors
from starburst_executor.store.s3 import obstore as s3_obstore
from starburst_executor.store.s3 import transport as s3_transport
from starburst_executor.store.s3.obstore import address_of
from starburst_executor.store.s3.store import S3Store
from tests.sessions import wait_until
from tests.support.moto_server import MotoServer, moto_server
from tests.support.scripted_s3 import Asked, ScriptedServer, scripted_server

__all__ = ["moto_server"]

TRANSPORTS = ("obstore", "boto3")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of no user, and no other variable that either transport reads."""
    for name in [*os.environ]:
        if name.startswith("AWS_") or name == "REQUESTS_CA_BUNDLE" or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in MotoServer({"plain": ""}).environment.items():
        if value:
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def one_server() -> Iterator[ScriptedServer]:
    with scripted_server() as made:
        yield made


@pytest.fixture
def server(one_server: ScriptedServer) -> ScriptedServer:
    one_server.forget()
    return one_server


def store_by(transport: str, endpoint_url: str | None = None, **more: Any) -> S3Store:
    more = {"endpoint_url": endpoint_url, **more}
    made = S3Store("bucket", "prefix", transport="boto3" if transport == "boto3" else None, **more)
    assert made.transport == transport
    return made


@pytest.fixture(scope="module")
def shared(one_server: ScriptedServer) -> Iterator[Callable[[str], S3Store]]:
    """A store by each transport, for many tests: a client of boto3's takes a tenth of a second to make."""
    made: dict[str, S3Store] = {}

    def store_of(transport: str) -> S3Store:
        if transport not in made:
            made[transport] = store_by(transport, one_server.url)
        return made[transport]

    yield store_of
    for store in made.values():
        store.close()


@pytest.fixture(params=TRANSPORTS)
def store(request: pytest.FixtureRequest, server: ScriptedServer, shared: Callable[[str], S3Store]) -> S3Store:
    return shared(request.param)


READS: dict[str, Callable[[S3Store], Any]] = {
    "get": lambda store: store.get("key"),
    "get-unless": lambda store: store.get_if_changed("key", "old"),
    "get-range": lambda store: store.get("key", start=1, length=2),
}
WRITES: dict[str, Callable[[S3Store], Any]] = {
    "create": lambda store: store.create("key", b"x"),
    "swap": lambda store: store.swap("key", b"x", "old"),
    "put": lambda store: store.put("key", b"x"),
}
OTHERS: dict[str, Callable[[S3Store], Any]] = {
    "list": lambda store: store.list("sessions/"),
    "list-folders": lambda store: store.list_folders("sessions/"),
    "delete": lambda store: store.delete(["key"]),
}
ASKS = {**READS, **WRITES, **OTHERS}


# ------------------------------------------------------------------------------------------------ what answers mean


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (412, "PreconditionFailed", PreconditionFailed),
        (412, "", PreconditionFailed),
        (404, "NoSuchKey", ObjectNotFound),
        (404, "", ObjectNotFound),
        (404, "NoSuchBucket", AccessDenied),
        (408, "RequestTimeout", StoreUnavailable),
        (409, "ConditionalRequestConflict", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (409, "", StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable),
        (400, "BadDigest", StoreUnavailable),
        (429, "TooManyRequests", StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
        (502, "", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (503, "ServiceUnavailable", StoreUnavailable),
        (504, "GatewayTimeout", StoreUnavailable),
        (501, "NotImplemented", ConfigError),
        (401, "Unauthorized", AccessDenied),
        (403, "AccessDenied", AccessDenied),
        (403, "", AccessDenied),
        (403, "InvalidAccessKeyId", AccessDenied),
        (403, "SignatureDoesNotMatch", AccessDenied),
        (403, "RequestTimeTooSkewed", AccessDenied),
        (400, "ExpiredToken", AccessDenied),
        (400, "AuthorizationHeaderMalformed", AccessDenied),
        ("close", "", StoreUnavailable),
        ("reset", "", StoreUnavailable),
    ],
)
def test_one_try_and_one_meaning(
    store: S3Store, server: ScriptedServer, status: int | str, code: str, meaning: type[StarburstError]
) -> None:
    server.status, server.code, server.body = status, code, b""
    has_declined = store.transport == "obstore" and meaning in (AccessDenied, ConfigError)
    for name, ask in ASKS.items():
        if (status, meaning) == (412, PreconditionFailed) and name in OTHERS:
            continue
        server.asked.clear()
        with pytest.raises(meaning) as raised:
            ask(store)
        assert type(raised.value) is meaning
        assert getattr(raised.value, "is_busy", False) == (status in (429, 503))
        # boto3 asks a bucket for its region when a region seems wrong; that is no second try. What obstore was refused
        # was not done, and boto3 is asked for the last word.
        n_tries = len([method for method in server.methods if method != "HEAD"])
        assert n_tries in ((1, 2) if has_declined and name not in OTHERS else (1,)), name
        assert "bucket/prefix/" in str(raised.value)
        assert raised.value.__cause__ is not None
        assert "testing" not in str(raised.value)
        if meaning is AccessDenied:
            assert server.url in str(raised.value)
            assert "credentials=env" in str(raised.value)
            assert code in str(raised.value)


def test_a_conflict_is_never_a_lost_race(store: S3Store, server: ScriptedServer) -> None:
    """The one that would cost results: obstore gives 409 and 412 to a create the same class."""
    server.status = 409
    for code in ("ConditionalRequestConflict", "PreconditionFailedNot", ""):
        server.code = code
        for ask in WRITES.values():
            with pytest.raises(StoreUnavailable):
                ask(store)


def test_what_is_unchanged_is_none(store: S3Store, server: ScriptedServer) -> None:
    server.status = 304
    assert store.get_if_changed("key", "old") is None
    assert server.methods == ["GET"]


def test_a_range_behind_the_end_is_empty(store: S3Store, server: ScriptedServer) -> None:
    server.status, server.code = 416, "InvalidRange"
    with pytest.raises(AccessDenied):  # so would HEAD be answered
        store.get("key", start=10)
    assert server.methods[-1] == "HEAD"


@pytest.mark.parametrize("name", READS)
def test_an_answer_that_is_cut_short(store: S3Store, server: ScriptedServer, name: str) -> None:
    server.cut = 10
    if name == "get-range":
        server.status, server.headers = 206, {"Content-Range": "bytes 1-2/20"}
        server.body, server.cut = b"b", 1
    with pytest.raises(StoreUnavailable):
        READS[name](store)
    assert server.methods == ["GET"]


@pytest.mark.parametrize("name", ["get", "create", "swap", "put", "list", "delete"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_does_not_answer(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, transport: str, name: str
) -> None:
    monkeypatch.setattr(s3_boto, "_READ_S", 0.1)
    monkeypatch.setitem(s3_obstore._CLIENT, "read_timeout", timedelta(seconds=0.1))
    store = store_by(transport, server.url)
    server.status = "stall"
    tries = 0

    def is_asked() -> bool:
        nonlocal tries
        tries += 1
        with pytest.raises(StoreUnavailable, match="no answer from S3"):
            ASKS[name](store)
        return bool(server.asked)

    wait_until(is_asked)  # on a busy machine the client gives up before the server has read, or before it is connected
    assert len(server.asked) <= tries
    store.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_there(transport: str) -> None:
    with scripted_server() as gone:
        store = store_by(transport, gone.url)
    for ask in ASKS.values():
        with pytest.raises(StoreUnavailable, match=re.escape(f"endpoint={gone.url}")):
            ask(store)
    store.close()


def test_an_error_in_an_answer_that_says_ok(store: S3Store, server: ScriptedServer) -> None:
    """S3 has begun to answer 200 and then fails. Read without care, that is an empty listing, or an object written."""
    server.code = "InternalError"
    with pytest.raises(StoreUnavailable):
        store.list("sessions/")
    with pytest.raises(StoreUnavailable):
        store.list_folders("sessions/")


ERROR = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
HTML = b"<!DOCTYPE html><html><head><title>Log in</title></head><body><p>Welcome<br>to the hotel</body></html>"
XHTML = b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>Back soon.</p></body></html>"
NO_PAGES = {
    "nothing": b"",
    "blanks": b"  \n",
    "html": HTML,
    "xhtml": XHTML,
    "error": ERROR,
    "json": b'{"message": "too many requests"}',
    "another answer": b"<ListAllMyBucketsResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListAllMyBucketsResult>",
    "cut": b'<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>pre',
    "cut at an edge": b"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>",
    "an empty page": b"<ListBucketResult/>",
    "no next page": b"<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated></ListBucketResult>",
    "another folder": b"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>other/k</Key>"
    b'<LastModified>2026-11-22T05:13:36Z</LastModified><ETag>"e"</ETag><Size>1</Size></Contents><CommonPrefixes><Prefix>'
    b"other/</Prefix></CommonPrefixes></ListBucketResult>",
    "half a line": b"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>prefix/sessions/k</Key>"
    b"</Contents><CommonPrefixes></CommonPrefixes></ListBucketResult>",
}


@pytest.mark.parametrize("how", NO_PAGES)
def test_what_is_no_page_is_no_empty_listing(
    server: ScriptedServer, shared: Callable[[str], S3Store], how: str
) -> None:
    """Read as one it would say that everything has been deleted."""
    store = shared("boto3")
    server.body = NO_PAGES[how]
    for ask in (OTHERS["list"], OTHERS["list-folders"]):
        with pytest.raises((StoreUnavailable, AccessDenied) if how == "error" else StoreUnavailable):
            ask(store)


@pytest.mark.parametrize("how", ["nothing", "html", "xhtml", "error", "json", "another answer", "cut"])
def test_what_is_no_answer_to_a_deletion_deletes_nothing(
    server: ScriptedServer, shared: Callable[[str], S3Store], how: str
) -> None:
    """Read as one, a session would be deleted without end: list, delete, list what is there still."""
    server.body = NO_PAGES[how]
    with pytest.raises((StoreUnavailable, AccessDenied) if how == "error" else StoreUnavailable):
        shared("boto3").delete(["key"])


def test_a_page_that_is_empty_is_an_empty_listing(server: ScriptedServer, shared: Callable[[str], S3Store]) -> None:
    store = shared("boto3")
    for more in ("", "<IsTruncated>false</IsTruncated>", "<KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys>"):
        server.body = page_of("", more=more)
        assert store.list("sessions/") == store.list_folders("sessions/") == []
    server.body = b'<?xml version="1.0"?><DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>'
    store.delete(["key"])


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "Application/XHTML+XML"])
def test_a_page_for_people_is_no_object(store: S3Store, server: ScriptedServer, name: str, kind: str) -> None:
    server.body, server.headers = HTML, {"Content-Type": kind}
    if name == "get-range":
        server.status, server.headers["Content-Range"] = 206, f"bytes 1-2/{len(HTML)}"
        server.body = HTML[1:3]
    with pytest.raises(StoreUnavailable):
        READS[name](store)


def test_a_whole_object_is_no_range(store: S3Store, server: ScriptedServer) -> None:
    server.status, server.body = 200, b"0123456789"
    with pytest.raises(StoreUnavailable):
        READS["get-range"](store)


def test_unchanged_is_no_answer_to_who_has_nothing(store: S3Store, server: ScriptedServer) -> None:
    server.status = 304
    with pytest.raises(StoreUnavailable):
        store.get("key")


def test_a_region_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server has such an address; while the network is away no other has one either, and that passes."""

    def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror("name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    for region, meaning in (("us-east-9", ConfigError), ("moon-1", ConfigError), ("eu-west-1", StoreUnavailable)):
        store = S3Store("bucket", region=region)
        for ask in (READS["get"], WRITES["create"], OTHERS["list"]):
            with pytest.raises(meaning, match=region):
                ask(store)
        store.close()


@pytest.mark.parametrize("etag", [None, ""])
def test_an_answer_without_an_etag_is_unclear(store: S3Store, server: ScriptedServer, etag: str | None) -> None:
    server.headers = {"ETag": etag}
    for ask in (*WRITES.values(), READS["get"]):
        with pytest.raises(StoreUnavailable):
            ask(store)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (307, "TemporaryRedirect")])
def test_a_bucket_somewhere_else(server: ScriptedServer, transport: str, status: int, code: str) -> None:
    """boto3 goes and looks there once, whatever the transport; here it is sent in circles."""
    store = store_by(transport, server.url)
    server.status, server.code, server.headers = status, code, {"x-amz-bucket-region": "eu-west-1"}
    for ask in ASKS.values():
        with pytest.raises(AccessDenied, match=code):
            ask(store)
        assert essence(server.asked[-1])["scope"][1] == "eu-west-1"
    assert store.transport == "boto3"
    store.close()


def test_other_words_of_a_write_are_unclear_and_of_a_read_left_to_boto3(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If obstore said it in another way."""
    store = store_by("obstore", server.url)
    monkeypatch.setattr(s3_obstore, "_STATUS", re.compile("never said"))
    monkeypatch.setattr(s3_obstore, "_NO_ANSWER", "never said")
    server.status, server.code = 412, "PreconditionFailed"
    for ask in WRITES.values():
        server.asked.clear()
        with pytest.raises(StoreUnavailable):
            ask(store)
        assert server.methods == ["PUT"]
    server.asked.clear()
    with pytest.raises(PreconditionFailed):
        store.get("key")
    assert server.methods == ["GET", "GET"]
    store.close()


# ------------------------------------------------------------------------------------------------- what is asked


def essence(asked: Asked) -> dict[str, Any]:
    """A request without what may differ: the time, the signature, the client's name."""
    kept = ("if-match", "if-none-match", "range", "x-amz-content-sha256", "x-amz-security-token", "content-length")
    scope = asked.headers["authorization"].partition("Credential=")[2].partition(",")[0].split("/")
    headers = {name: asked.headers[name] for name in kept if name in asked.headers}
    if asked.method == "GET":
        headers.pop("content-length", None)
    return {
        "method": asked.method,
        "path": asked.path,
        "host": asked.headers["host"],
        "body": asked.body,
        "scope": scope[:1] + scope[2:],
        "signed": sorted(name for name in kept if f"{name};" in asked.headers["authorization"]),
        **headers,
    }


KEYS = [
    "plain-_.~/key",
    "with space",
    "plus+percent%20",
    "ümläut/日本/😀",
    "quote'(b)!*",
    "hash#mark?amp&=",
    "a=b:c@d,e;f$",
    'a\\b[c]{d}<e>"f"|^`',
    "double//slash",
    "./dot",
    "up/../there",
    "ends/",
    "control\x01",
    "new\nline",
]


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_spelt_alike(server: ScriptedServer, shared: Callable[[str], S3Store], key: str) -> None:
    asked = []
    for transport in TRANSPORTS:
        store = shared(transport)
        server.asked.clear()
        assert store.get(key) == Stored(b"body", "etag")
        store.put(key, memoryview(b"text"))
        asked.append([essence(one) for one in server.asked])
    assert asked[0] == asked[1]


@pytest.mark.parametrize("quotes", [True, False])
@pytest.mark.parametrize("token", ["", "a-session-token"])
def test_requests_are_alike(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quotes: bool, token: str
) -> None:
    """With credentials of a profile, while the environment holds others that are not to be mixed in."""
    config = tmp_path / "config"
    session = f"aws_session_token = {token}\n" if token else ""
    config.write_text(
        f"[profile other]\naws_access_key_id = OTHER\naws_secret_access_key = secret\n{session}", encoding="utf-8"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    asked = []
    for transport in TRANSPORTS:
        store = store_by(transport, server.url, profile="other", etag_quotes=quotes, region="eu-west-1")
        server.asked.clear()
        for body in (b"", b"x" * 1_000, bytearray(b"abc"), memoryview(b"abcd")[1:]):
            store.create("key", body)
            store.swap("key", body, "old")
            store.put("key", body)
        server.status = 304
        store.get_if_changed("key", "old")
        server.status, server.headers, server.body = 206, {"Content-Range": "bytes 2-4/9"}, b"cde"
        assert store.get("key", start=2, length=3) == Stored(b"cde", "etag")
        server.headers = {"Content-Range": "bytes 6-8/9"}
        assert store.get("key", start=6) == Stored(b"cde", "etag")
        server.status, server.headers, server.body = 200, {}, b"body"
        asked.append([essence(one) for one in server.asked])
        store.close()
    assert asked[0] == asked[1]
    assert {one.get("x-amz-security-token", "") for one in asked[0]} == {token}
    assert asked[0][1]["if-match"] == ('"old"' if quotes else "old")
    assert asked[0][0]["scope"][0] == "OTHER"


@pytest.mark.parametrize(
    ("bucket", "region", "endpoint", "has_bucket", "signed_for"),
    [
        ("bucket", "eu-west-1", "https://bucket.s3.eu-west-1.amazonaws.com", True, "eu-west-1"),
        ("with.dots", "eu-west-1", "https://s3.eu-west-1.amazonaws.com", False, "eu-west-1"),
        ("bucket", "cn-north-1", "https://bucket.s3.cn-north-1.amazonaws.com.cn", True, "cn-north-1"),
    ],
)
def test_the_address_is_boto3s(
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    region: str,
    endpoint: str,
    has_bucket: bool,
    signed_for: str,
) -> None:
    store = S3Store(bucket, region=region)
    transports = store._connections.current()
    assert address_of(transports.boto) == (endpoint, has_bucket, signed_for)
    assert isinstance(transports.fast, s3_obstore.ObstoreTransport)
    url = obstore.sign(transports.fast._connection(), "GET", "a/key", timedelta(minutes=1))
    assert url.startswith(f"{endpoint}/{'' if has_bucket else bucket + '/'}a/key?")
    store.close()


def test_an_address_below_a_path(server: ScriptedServer) -> None:
    for transport in TRANSPORTS:
        store = store_by(transport, f"{server.url}/below/here")
        store.get("key")
        assert server.asked[-1].path == "/below/here/bucket/prefix/key"
        store.close()


# --------------------------------------------------------------------------------------------------------- listings


def page_of(lines: str, *, space: str = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', more: str = "") -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f"{head}<ListBucketResult{space}><Name>bucket</Name>{more}{lines}</ListBucketResult>".encode()


def line_of(key: str, modified: str) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>&quot;abc&quot;</ETag>"
        "<Size>17</Size><Owner><ID>x</ID></Owner></Contents>"
    )


@pytest.mark.parametrize("space", [' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', ""])
@pytest.mark.parametrize(
    ("spelt", "more", "key"),
    [
        ("prefix/a%2Bb+c%20d", "<EncodingType>url</EncodingType>", "a+b c d"),
        ("prefix/%F0%9F%98%80", "<EncodingType>url</EncodingType>", "😀"),
        ("prefix/a%2Bb&lt;", "", "a%2Bb<"),
    ],
)
@pytest.mark.parametrize("modified", ["2026-11-22T05:13:36.000Z", "2026-11-22T05:13:36Z", "2026-11-22T06:13:36+01:00"])
def test_lines_are_read_as_botocore_reads_them(
    server: ScriptedServer, shared: Callable[[str], S3Store], space: str, spelt: str, more: str, key: str, modified: str
) -> None:
    store = shared("boto3")
    events = store._connections.current().boto.client.meta.events
    server.headers = {"Content-Type": "application/xml"}
    server.body = page_of(line_of(spelt, modified) * 2, space=space, more=more)
    ours = store.list("")
    events.unregister(s3_boto.EVENT, s3_boto.take_lines)
    botocores = store.list("")
    events.register(s3_boto.EVENT, s3_boto.take_lines)
    assert ours == botocores == [Listed(key, 17, "abc", 1795324416.0)] * 2


def test_the_hook_is_there(server: ScriptedServer, shared: Callable[[str], S3Store]) -> None:
    """Listings would be right without it, and slow."""
    store = shared("boto3")
    server.body = page_of(line_of("prefix/a", "2026-11-22T05:13:36.000Z"))
    page = store._connections.current().boto.client.list_objects_v2(Bucket="bucket")
    assert "Contents" not in page
    assert page["Name"] == "bucket"


# ------------------------------------------------------------------------------------------------------ credentials


def credentials_by_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Temporary credentials that expire within the minutes in which botocore asks for new ones at every request."""
    program, config = tmp_path / "credentials.py", tmp_path / "config"
    program.write_text(script, encoding="utf-8")
    config.write_text(f"[default]\ncredential_process = {sys.executable} -SE {program}\n", encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def test_credentials_are_refreshed(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = tmp_path / "n"
    known = {"Version": 1, "SecretAccessKey": "secret", "SessionToken": "token"}
    credentials_by_process(
        tmp_path,
        monkeypatch,
        "import json, pathlib, time\n"
        f"counter = pathlib.Path({str(counter)!r})\n"
        "n = int(counter.read_text()) + 1 if counter.exists() else 1\n"
        "counter.write_text(str(n))\n"
        "soon = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + 300))\n"
        f"print(json.dumps({{**{json.dumps(known)}, 'AccessKeyId': f'KEY{{n}}', 'Expiration': soon}}))\n",
    )
    store = store_by("obstore", server.url)
    for _ in range(3):
        store.get("key")
    keys = [essence(one)["scope"][0] for one in server.asked]
    assert len(set(keys)) == 3
    assert keys[-1] == f"KEY{counter.read_text()}"
    assert {one.headers["x-amz-security-token"] for one in server.asked} == {"token"}
    store.close()


def test_credentials_that_cannot_be_refreshed(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials_by_process(tmp_path, monkeypatch, "raise SystemExit('log in again')")
    store = S3Store("bucket", endpoint_url=server.url)
    with pytest.raises(
        StoreUnavailable, match="log in again"
    ):  # or it has a bad moment: that is for patience to find out
        store.get("key")
    assert server.asked == []
    store.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "printed",
    ["not JSON", "[]", "null", "{}", '{"Version": 1}', "EXPIRED", "NO_DATE"],
)
def test_a_helper_that_hands_out_something_odd_has_a_bad_moment_or_has_expired(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, printed: str
) -> None:
    """botocore lets half of these through as they come: RuntimeError, AttributeError, a date that cannot be parsed.

    Credentials that are over are an answer, though: the helper's own session has ended, and a person has to log in.
    """
    known = {"Version": 1, "AccessKeyId": "KEY", "SecretAccessKey": "secret", "SessionToken": "token"}
    soon = (datetime.now(timezone.utc) + timedelta(minutes=5)).isoformat()
    odd = {"EXPIRED": {**known, "Expiration": "2020-01-01T00:00:00Z"}, "NO_DATE": {**known, "Expiration": "soon"}}
    printed = json.dumps(odd[printed]) if printed in odd else printed
    state = tmp_path / "printed"
    state.write_text(json.dumps({**known, "Expiration": soon}), encoding="utf-8")
    program = f"import pathlib\nprint(pathlib.Path({str(state)!r}).read_text())\n"
    credentials_by_process(tmp_path, monkeypatch, program)
    store = store_by(transport, server.url)
    assert store.get("key") == Stored(b"body", "etag")
    state.write_text(printed, encoding="utf-8")
    meaning, words = (AccessDenied, "log in again") if "2020" in printed else (StoreUnavailable, "S3")
    for ask in (WRITES["swap"], OTHERS["list"]):
        with pytest.raises(meaning, match=words):
            ask(store)
    state.write_text(json.dumps({**known, "Expiration": soon}), encoding="utf-8")
    assert store.get("key") == Stored(b"body", "etag")
    store.close()


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("NoCredentialsError", AccessDenied),
        ("PartialCredentialsError", AccessDenied),
        ("SSOTokenLoadError", AccessDenied),
        ("UnauthorizedSSOTokenError", AccessDenied),
        ("ProfileNotFound", AccessDenied),
        ("InvalidRegionError", ConfigError),
        ("InvalidConfigError", ConfigError),
        ("ConfigParseError", ConfigError),
        ("NoRegionError", ConfigError),
        ("EndpointResolutionError", ConfigError),
        ("CredentialRetrievalError", StoreUnavailable),
        ("MetadataRetrievalError", StoreUnavailable),
        ("TokenRetrievalError", StoreUnavailable),
        ("ConnectTimeoutError", StoreUnavailable),
        ("ReadTimeoutError", StoreUnavailable),
        ("EndpointConnectionError", StoreUnavailable),
        ("ProxyConnectionError", StoreUnavailable),
        ("ChecksumError", StoreUnavailable),
    ],
)
def test_what_passes_and_what_a_person_has_to_mend(name: str, meaning: type[StarburstError]) -> None:
    details: dict[str, Any] = dict.fromkeys(
        ("provider", "error_msg", "cred_var", "profile", "region_name", "path", "msg", "endpoint_url", "proxy_url"), "x"
    )
    details |= {"checksum_type": "x", "expected_checksum": "x", "actual_checksum": "x"}
    error = getattr(botocore.exceptions, name)(**details)
    assert type(s3_errors.meaning(error, "s3://bucket/key", "how")) is meaning


def test_what_the_sdk_raises_of_its_own_is_known() -> None:
    """A rename in botocore must not turn what a person has to mend into something that is waited for."""
    names = {*s3_errors._LOG_IN, *s3_errors._SET} - {"LoginError", "MissingDependencyException"}
    assert [name for name in sorted(names) if not hasattr(botocore.exceptions, name)] == []


# --------------------------------------------------------------------------------------------------- standing back


@pytest.mark.parametrize(
    ("variable", "value", "transport"),
    [
        ("AWS_SERVER_SIDE_ENCRYPTION", "AES256", "boto3"),
        ("AWS_REQUEST_PAYER", "requester", "boto3"),
        ("AWS_ALLOW_INVALID_CERTIFICATES", "true", "boto3"),
        ("AWS_SKIP_SIGNATURE", "true", "boto3"),
        ("HTTPS_PROXY", "http://127.0.0.1:9", "boto3"),
        ("http_proxy", "http://127.0.0.1:9", "boto3"),
        ("AWS_PAGER", "", "obstore"),
        ("AWS_VAULT", "work", "obstore"),
        ("NO_PROXY", "localhost", "obstore"),
    ],
)
def test_variables_that_only_obstore_heeds(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, transport: str
) -> None:
    monkeypatch.setenv(variable, value)
    store = S3Store("bucket", endpoint_url=server.url)
    assert store.transport == transport
    store.close()


def test_certificates_of_the_users_own(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert S3Store("bucket", endpoint_url="https://localhost:9").transport == "obstore"
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, __file__)
            assert S3Store("bucket", endpoint_url="https://localhost:9").transport == "boto3"
            assert S3Store("bucket", endpoint_url=server.url).transport == "obstore"


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[str]:
    """A server with an unsigned certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    both = tmp_path / "both.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    with ScriptedServer() as made:
        made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield f"https://localhost:{made.server_port}"
        made.shutdown()
        thread.join()


def test_a_certificate_that_obstore_does_not_trust(untrusted: str) -> None:
    """The user's own are found by boto3 alone; it is not the store that is away."""
    store = store_by("obstore", untrusted)
    with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        store.put("key", b"x")
    assert store.transport == "boto3"
    store.close()


def test_an_obstore_of_another_version(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstore, "__version__", "0.99.0")
    assert S3Store("bucket", endpoint_url=server.url).transport == "boto3"


def test_without_obstore(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starburst_executor.store.s3.obstore", None)
    store = S3Store("bucket", endpoint_url=server.url)
    assert store.transport == "boto3"
    assert store.get("key") == Stored(b"body", "etag")
    store.close()


def test_a_fork_of_multiprocessing_where_the_user_had_loaded_obstore(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_transport, "_was_obstore_loaded", True)
    assert S3Store("bucket", endpoint_url=server.url).transport == "obstore"
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    assert S3Store("bucket", endpoint_url=server.url).transport == "boto3"


def test_a_chosen_transport_stays_in_the_url(server: ScriptedServer) -> None:
    store = S3Store.from_url(f"s3://bucket/prefix?endpoint_url={server.url}&transport=boto3")
    assert store.transport == "boto3"
    assert store.url.endswith("&transport=boto3")
    with pytest.raises(ConfigError, match="transport=obstore"):
        S3Store.from_url("s3://bucket/prefix?transport=obstore")
    store.close()


def test_what_is_big_is_boto3s(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_obstore, "_WRITTEN_BYTES", 3)
    monkeypatch.setattr(s3_obstore, "_READ_BYTES", 3)
    store = store_by("obstore", server.url)
    store.put("key", b"1234")
    store.put("key", b"123")
    assert store.get("key") == Stored(b"body", "etag")
    by = ["boto3" if "Boto3" in asked.headers["user-agent"] else "obstore" for asked in server.asked]
    assert by == ["boto3", "obstore", "obstore", "boto3"]
    store.close()


# ------------------------------------------------------------------------------------------------------------ forks


def test_a_child_asks_by_boto3(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked from a thread, while others are in the middle of requests by obstore."""
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    store, other = S3Store(moto_server.bucket, "forked"), S3Store(moto_server.bucket, "forked-unused")
    etag = store.put("key", b"parent")
    parents = store._connections.current()
    assert store.transport == "obstore"
    ended = threading.Event()

    def ask_on() -> None:
        while not ended.is_set():
            store.get_if_changed("key", etag)

    def in_child() -> bool:
        stored = store.get("key")
        assert stored is not None
        mine = store.swap("key", b"child", stored.etag)
        assert store.get_if_changed("key", mine) is None
        assert [line.key for line in store.list("")] == ["key"]
        assert store._connections.current() is not parents
        transports = {store.transport, other.transport, S3Store(moto_server.bucket).transport}
        store.close()
        other.create(f"key-{os.getpid()}", b"child")
        return transports == {"boto3"}

    statuses = []

    def fork() -> None:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                try:
                    os._exit(0 if in_child() else 1)
                finally:
                    os._exit(2)
            statuses.append(os.waitpid(child, 0)[1])

    asking = [threading.Thread(target=ask_on) for _ in range(3)]
    forking = threading.Thread(target=fork)
    for thread in (*asking, forking):
        thread.start()
    forking.join()
    ended.set()
    for thread in asking:
        thread.join()
    assert statuses == [0, 0, 0]
    assert store._connections.current() is parents
    assert store.transport == "obstore"
    assert store.get_if_changed("key", etag) == Stored(b"child", store.list("")[0].etag)
    assert len(other.list("")) == 3
    store.close()
    other.close()


def test_a_child_of_a_process_that_only_loaded_obstore_asks_by_it(moto_server: MotoServer) -> None:
    """As an agent does: its fork server has loaded everything, and asked for nothing."""
    code = """
        import os, sys
        from starburst_executor.store.open import preload
        preload("s3://any/where")
        if (child := os.fork()) == 0:
            from starburst_executor.store.s3.store import S3Store
            store = S3Store(sys.argv[1], "preloaded")
            store.put("key", b"body")
            assert store.get("key").body == b"body"
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(int(S3Store(sys.argv[1], "preloaded").transport != "boto3"))
            ended = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
            os._exit(ended or int(store.transport != "obstore"))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), moto_server.bucket]
    subprocess.run(command, env={**os.environ, **moto_server.environment}, timeout=100, check=True)
