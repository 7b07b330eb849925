"""What S3's answers become, one try each, and what the probe makes of servers that bend the rules."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    ObjectNotFound,
    PreconditionFailed,
    StarburstError,
    StoreUnavailable,
)
from starburst_executor.store import s3
from starburst_executor.store.probe import probe_conditional_writes
from starburst_executor.store.s3 import S3Store
from tests.moto_server import MotoServer, moto_server

__all__ = ["moto_server"]


class Scripted(BaseHTTPRequestHandler):
    """Answers every request with the server's `status`, `code` and `cut`."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server = self.server
        assert isinstance(server, ScriptedServer)
        server.asked.append(self.command)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if server.status == 0:
            self.close_connection = True
            return
        body = f"<Error><Code>{server.code}</Code><Message>no</Message></Error>".encode() if server.code else b"body"
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(body) + server.cut))
        self.send_header("ETag", '"etag"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = self.close_connection or bool(server.cut)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, *args: object) -> None:
        pass


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Scripted)
        self.status, self.code, self.cut = 200, "", 0
        self.asked: list[str] = []


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def store(server: ScriptedServer, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    made = S3Store("bucket", "prefix", endpoint_url=f"http://127.0.0.1:{server.server_port}")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (412, "PreconditionFailed", PreconditionFailed),
        (404, "NoSuchKey", ObjectNotFound),
        (404, "NoSuchBucket", AccessDenied),
        (409, "ConditionalRequestConflict", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable),
        (429, "TooManyRequests", StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
        (502, "", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (503, "ServiceUnavailable", StoreUnavailable),
        (0, "reset", StoreUnavailable),
        (501, "NotImplemented", ConfigError),
        (403, "AccessDenied", AccessDenied),
        (403, "InvalidAccessKeyId", AccessDenied),
        (403, "SignatureDoesNotMatch", AccessDenied),
        (403, "RequestTimeTooSkewed", AccessDenied),
        (400, "ExpiredToken", AccessDenied),
        (400, "AuthorizationHeaderMalformed", AccessDenied),
    ],
)
def test_one_try_and_one_meaning(
    store: S3Store, server: ScriptedServer, status: int, code: str, meaning: type[StarburstError]
) -> None:
    server.status, server.code = status, code
    for ask in (
        lambda: store.get("key"),
        lambda: store.swap("key", b"x", "etag"),
        lambda: store.create("key", b"x"),
        lambda: store.put("key", b"x"),
        lambda: store.list("sessions/"),
        lambda: store.delete(["key"]),
    ):
        server.asked.clear()
        with pytest.raises(meaning) as raised:
            ask()
        # The SDK asks a bucket for its region when a region seems wrong; that is no second try.
        assert len([method for method in server.asked if method != "HEAD"]) == 1
        assert "bucket/prefix/" in str(raised.value)
        assert raised.value.__cause__ is not None
        assert "testing" not in str(raised.value)
        if meaning is AccessDenied:
            assert f"http://127.0.0.1:{server.server_port}" in str(raised.value)
            assert "credentials=env" in str(raised.value)
            assert code in str(raised.value)


def test_an_answer_that_is_cut_short(store: S3Store, server: ScriptedServer) -> None:
    server.cut = 10
    with pytest.raises(StoreUnavailable):
        store.get("key")
    assert server.asked == ["GET"]


def test_nobody_there(store: S3Store, server: ScriptedServer) -> None:
    server.server_close()
    with pytest.raises(StoreUnavailable, match="EndpointConnectionError"):
        store.put("key", b"x")


def test_a_key_that_could_not_be_deleted(
    store: S3Store, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        store._client(), "delete_objects", lambda **_: {"Errors": [{"Key": "prefix/b", "Code": "AccessDenied"}]}
    )
    with pytest.raises(AccessDenied, match="prefix/b"):
        store.delete(["a", "b"])


def test_no_credentials(server: ScriptedServer, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store("bucket", endpoint_url=f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(AccessDenied, match=r"provide credentials .*profile=default, credentials=none found"):
        store.get("key")
    store.close()


def test_no_such_profile(moto_server: MotoServer) -> None:
    with pytest.raises(AccessDenied, match="profile=nobody"):
        S3Store("bucket", profile="nobody").get("key")


def test_no_such_bucket(moto_server: MotoServer) -> None:
    store = S3Store("another-bucket")
    for ask in (lambda: store.get("key"), lambda: store.put("key", b"x"), lambda: store.list("sessions/")):
        with pytest.raises(AccessDenied, match=r"create the bucket .*s3://another-bucket/"):
            ask()
    store.close()


def test_an_endpoint_that_is_no_url(moto_server: MotoServer) -> None:
    with pytest.raises(ConfigError):
        S3Store("bucket", endpoint_url="nonsense").get("key")


def test_a_big_object_that_changes_while_it_is_read(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_WHOLE_BYTES", 100)
    store = S3Store(moto_server.bucket, "changing")
    store._write_parts("key", memoryview(b"a" * 250), {})
    monkeypatch.setattr(s3, "_PART_BYTES", 100)
    pour = s3._pour

    def pour_and_replace(stream: Any, into: memoryview) -> None:
        monkeypatch.setattr(s3, "_pour", pour)
        pour(stream, into)
        store._client().put_object(Bucket=moto_server.bucket, Key="changing/key", Body=b"b" * 250)

    monkeypatch.setattr(s3, "_pour", pour_and_replace)
    with pytest.raises(StoreUnavailable, match="changed while it was read"):
        store.get("key")
    stored = store.get("key")
    assert stored is not None
    assert stored.body == b"b" * 250
    store.close()


def test_a_child_makes_connections_of_its_own(moto_server: MotoServer) -> None:
    store = S3Store(moto_server.bucket, "forked")
    store.put("key", b"parent")
    parents = store._client()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if store._client() is store._client() is not parents else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert store._client() is parents
    store.close()


def test_a_refused_upload_leaves_no_parts(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_WHOLE_BYTES", 6 << 20)
    monkeypatch.setattr(s3, "_PART_BYTES", 5 << 20)
    store = S3Store(moto_server.bucket, "refused-upload")
    etag = store.create("key", b"small")
    store.swap("key", b"other", etag)
    with pytest.raises(PreconditionFailed):
        store.swap("key", b"x" * (11 << 20), etag)
    assert "Uploads" not in store._client().list_multipart_uploads(Bucket=moto_server.bucket, Prefix="refused-upload")
    store.close()


# ----------------------------------------------------------------------------------------------------------- probe


@pytest.mark.parametrize(("dialect", "quotes"), [("plain", True), ("odd", False), ("rude", True)])
def test_the_probe_finds_the_style_of_etags(moto_server: MotoServer, dialect: str, quotes: bool) -> None:
    store = S3Store(moto_server.bucket, "probed", endpoint_url=moto_server.endpoints[dialect])
    probe_conditional_writes(store)
    assert store.etag_quotes is quotes
    assert ("etag_quotes=no" in store.url) is not quotes
    assert store.list("probes/") == []
    store.close()


def test_the_probe_refuses_a_server_that_ignores_conditions(moto_server: MotoServer) -> None:
    store = S3Store(moto_server.bucket, "probed", endpoint_url=moto_server.endpoints["lawless"])
    with pytest.raises(ConfigError, match=rf"If-None-Match.*endpoint={moto_server.endpoints['lawless']}"):
        probe_conditional_writes(store)
    assert store.list("probes/") == []
    store.close()


def test_the_probe_trusts_amazon() -> None:
    store = S3Store("bucket", endpoint_url="https://s3.eu-west-1.amazonaws.com", region="eu-west-1")
    probe_conditional_writes(store)  # would fail: there is no such bucket, and no network is asked
    store.close()


@pytest.mark.parametrize(
    "sent",
    ["2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000000Z", "2026-01-02T03:04:05+00:00"],
)
def test_times_of_listings_are_understood_as_servers_write_them(sent: str) -> None:
    assert s3._epoch_s(sent) == 1767323045.0
