"""What S3 answers to conditional writes, in the stack's bucket: the protocol stands on nothing else."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from starburst_executor.aws.clients import Clients
from starburst_executor.aws.stack.outputs import Stack

pytestmark = pytest.mark.aws

FOLDER = "sessions/test-of-conditional-writes/clients/"


class Bucket:
    """Raw requests, tried once each; the status and the ETag, or the status and the error's code."""

    def __init__(self, clients: Clients, stack: Stack) -> None:
        self._s3, self._bucket = Clients(clients.settings, tries=1).get("s3"), stack.bucket

    def ask(self, verb: str, name: str, **how: Any) -> tuple[int, str]:
        try:
            answer = getattr(self._s3, verb)(Bucket=self._bucket, Key=FOLDER + name, **how)
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"], str(error.response["Error"]["Code"])
        return answer["ResponseMetadata"]["HTTPStatusCode"], str(answer.get("ETag", ""))

    def put(self, name: str, body: bytes = b"", **how: Any) -> tuple[int, str]:
        return self.ask("put_object", name, Body=body, **how)


@pytest.fixture
def bucket(clients: Clients, real: Stack) -> Any:
    found = Bucket(clients, real)
    names = ["one", "none", "gone", *(f"race-{i}" for i in range(20))]
    yield found
    for name in names:
        found.ask("delete_object", name)


def test_create_and_swap(bucket: Bucket) -> None:
    status, first = bucket.put("one", b"first", IfNoneMatch="*")
    assert (status, first) == (200, f'"{hashlib.md5(b"first", usedforsecurity=False).hexdigest()}"'), "SSE-S3"
    assert bucket.put("one", b"again", IfNoneMatch="*") == (412, "PreconditionFailed")
    status, second = bucket.put("one", b"second", IfMatch=first)
    assert status == 200
    assert second != first
    assert bucket.put("one", b"late", IfMatch=first) == (412, "PreconditionFailed")
    assert bucket.put("none", b"", IfMatch=first) == (404, "NoSuchKey")
    assert bucket.ask("get_object", "one", IfNoneMatch=second)[0] == 304
    assert bucket.ask("get_object", "one", IfMatch=first)[0] == 412


def test_a_write_without_a_condition_is_refused_by_the_bucket(bucket: Bucket) -> None:
    assert bucket.put("one", b"blind") == (403, "AccessDenied")


def test_an_object_that_is_not_there_is_404_and_not_403(bucket: Bucket) -> None:
    assert bucket.ask("get_object", "gone") == (404, "NoSuchKey")


@pytest.mark.parametrize("is_swap", [False, True], ids=["create", "swap"])
def test_of_many_writers_at_once_one_wins(bucket: Bucket, is_swap: bool) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    with ThreadPoolExecutor(16) as pool:
        for i in range(10):
            name = f"race-{i + 10 * is_swap}"
            how = {"IfMatch": bucket.put(name, b"first", IfNoneMatch="*")[1]} if is_swap else {"IfNoneMatch": "*"}
            answers = list(pool.map(lambda n, name=name, how=how: bucket.put(name, b"%d" % n, **how), range(16)))
            won = [etag for status, etag in answers if status == 200]
            assert len(won) == 1
            assert bucket.ask("get_object", name)[1] == won[0]
            seen.update((status, "" if status == 200 else code) for status, code in answers)
    print(f"answers to 160 writers: {dict(seen)}")
    assert set(seen) <= {(200, ""), (412, "PreconditionFailed"), (409, "ConditionalRequestConflict")}
