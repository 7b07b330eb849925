"""Sessions in a directory bucket of S3 Express One Zone, as AWS documents it: workers of their own, listings in no order."""

from __future__ import annotations

from contextlib import closing

import boto3

from starburst_executor import DetachedExecutor, StarburstExecutor
from starburst_executor.aws.stack.emptying import empty_express_bucket
from starburst_executor.store.open import open_store
from tests.sessions import REMOTE
from tests.support.express_bucket import DIRECTORY_BUCKET
from tests.support.moto_server import MotoServer, moto_server

__all__ = ["moto_server"]


def square(n: int) -> int:
    return n * n


def test_sessions_run_are_left_and_are_deleted(moto_server: MotoServer) -> None:
    store = f"s3://{DIRECTORY_BUCKET}/team?endpoint_url={moto_server.endpoints['express']}"
    with StarburstExecutor(workers=2, store=store, timings=REMOTE) as ex:
        assert list(ex.map(square, range(30), timeout=100)) == [n * n for n in range(30)]
    with DetachedExecutor(workers=2, store=store, timings=REMOTE) as left:
        for n in range(30):
            left.submit(square, n)
    again = DetachedExecutor.reattach(left.url, key=left.key)
    assert [one.value for one in again.collect(wait=True, timeout=100)] == [n * n for n in range(30)]
    assert [one.id for one in DetachedExecutor.list_sessions(store)] == [left.id]
    again.cleanup(force=True)
    assert DetachedExecutor.list_sessions(store) == []


def test_the_bucket_is_emptied_whatever_its_order(moto_server: MotoServer) -> None:
    s3 = boto3.client("s3", endpoint_url=moto_server.endpoints["express"])
    with closing(open_store(f"s3://{DIRECTORY_BUCKET}?endpoint_url={moto_server.endpoints['express']}")) as store:
        for i in range(25):
            store.create(f"emptied/{i}", b"x")
    # Several pages, of objects whose order is unknown.
    s3.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 10})
    s3.create_multipart_upload(Bucket=DIRECTORY_BUCKET, Key="emptied/big")
    assert empty_express_bucket(s3, DIRECTORY_BUCKET) >= 25
    assert "Contents" not in s3.list_objects_v2(Bucket=DIRECTORY_BUCKET)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=DIRECTORY_BUCKET)
