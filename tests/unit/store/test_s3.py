"""S3Store as a whole: its options, big objects, forks, and the probe of other servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from starburst_executor.errors import AccessDenied, ConfigError, PreconditionFailed, StoreUnavailable
from starburst_executor.store.probe import probe_conditional_writes
from starburst_executor.store.s3 import boto as s3_boto
from starburst_executor.store.s3.store import S3Store
from tests.support.moto_server import MotoServer, moto_server
from tests.support.scripted_s3 import ScriptedServer, scripted_server

__all__ = ["moto_server"]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as made:
        yield made


@pytest.fixture
def store(server: ScriptedServer, moto_server: MotoServer) -> Iterator[S3Store]:
    made = S3Store("bucket", "prefix", endpoint_url=server.url)
    yield made
    made.close()


def test_a_key_that_could_not_be_deleted(
    store: S3Store, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        store._connections.current().boto.client,
        "delete_objects",
        lambda **_: {"Errors": [{"Key": "prefix/b", "Code": "AccessDenied"}]},
    )
    with pytest.raises(AccessDenied, match="prefix/b"):
        store.delete(["a", "b"])


def test_no_credentials(server: ScriptedServer, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store("bucket", endpoint_url=server.url)
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
    monkeypatch.setattr(s3_boto, "_WHOLE_BYTES", 100)
    store = S3Store(moto_server.bucket, "changing", transport="boto3")
    store._connections.current().boto._write_parts("changing/key", memoryview(b"a" * 250), {})
    monkeypatch.setattr(s3_boto, "_PART_BYTES", 100)
    pour = s3_boto._pour

    def pour_and_replace(stream: Any, into: memoryview) -> None:
        monkeypatch.setattr(s3_boto, "_pour", pour)
        pour(stream, into)
        store._connections.current().boto.client.put_object(
            Bucket=moto_server.bucket, Key="changing/key", Body=b"b" * 250
        )

    monkeypatch.setattr(s3_boto, "_pour", pour_and_replace)
    with pytest.raises(StoreUnavailable, match="changed while it was read"):
        store.get("key")
    stored = store.get("key")
    assert stored is not None
    assert stored.body == b"b" * 250
    store.close()


def test_a_refused_upload_leaves_no_parts(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_boto, "_WHOLE_BYTES", 6 << 20)
    monkeypatch.setattr(s3_boto, "_PART_BYTES", 5 << 20)
    store = S3Store(moto_server.bucket, "refused-upload")
    etag = store.create("key", b"small")
    store.swap("key", b"other", etag)
    with pytest.raises(PreconditionFailed):
        store.swap("key", b"x" * (11 << 20), etag)
    assert "Uploads" not in store._connections.current().boto.client.list_multipart_uploads(
        Bucket=moto_server.bucket, Prefix="refused-upload"
    )
    store.close()


# ----------------------------------------------------------------------------------------------------------- probe


@pytest.mark.parametrize(
    ("dialect", "quotes", "n_requests"), [("plain", True, 6), ("odd", False, 7), ("rude", True, 8)]
)
def test_the_probe_finds_the_style_of_etags(
    moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch, dialect: str, quotes: bool, n_requests: int
) -> None:
    store = S3Store(moto_server.bucket, "probed", endpoint_url=moto_server.endpoints[dialect])
    requests: list[str] = []
    for name in ("create", "swap", "get", "get_if_changed", "delete"):
        method = getattr(S3Store, name)

        def counted(*args: Any, _name: str = name, _method: Callable[..., Any] = method, **kwargs: Any) -> Any:
            requests.append(_name)
            return _method(*args, **kwargs)

        monkeypatch.setattr(S3Store, name, counted)
    probe_conditional_writes(store)
    assert len(requests) == n_requests, requests
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


@pytest.mark.parametrize("error", [StoreUnavailable("away"), AccessDenied("no PutObject")])
def test_an_error_of_the_probe_is_not_hidden_by_that_of_its_clean_up(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    deleted: list[list[str]] = []

    def refuse(*_: object) -> str:
        raise error

    def delete(keys: list[str]) -> None:
        deleted.append(keys)
        raise AccessDenied("no DeleteObject")

    monkeypatch.setattr(store, "create", refuse)
    monkeypatch.setattr(store, "delete", delete)
    with pytest.raises(type(error)) as raised:
        probe_conditional_writes(store)
    assert raised.value is error
    # While the store is away, the user would wait for this request too.
    assert bool(deleted) == isinstance(error, AccessDenied)


def test_the_probe_trusts_amazon() -> None:
    store = S3Store("bucket", endpoint_url="https://s3.eu-west-1.amazonaws.com", region="eu-west-1")
    probe_conditional_writes(store)  # would fail: there is no such bucket, and no network is asked
    store.close()
