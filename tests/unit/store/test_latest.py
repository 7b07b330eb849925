"""The newest known version of an object: conditional reads, and answers that arrive in another order than they were asked for."""

from __future__ import annotations

from typing import Any

import pytest

from starburst_executor.errors import ObjectNotFound, RecordInvalid
from starburst_executor.store.latest import Latest, Version
from starburst_executor.testing import MemoryStore


def decoded(body: bytes) -> str:
    if body == b"broken":
        raise RecordInvalid("not text")
    return body.decode()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(request.node.name)


def test_an_unchanged_object_is_the_same_value(store: MemoryStore) -> None:
    latest: Latest[str] = Latest(store, "key", decoded)
    with pytest.raises(ObjectNotFound):
        latest.read()
    assert latest.value is None
    store.create("key", b"one")
    first = latest.read()
    assert (first.value, first.body, latest.value) == ("one", b"one", "one")
    assert latest.read() is first
    store.put("key", b"two")
    assert latest.read().value == latest.value == "two"
    latest.forget()
    assert latest.version is None


def test_what_cannot_be_decoded_changes_nothing(store: MemoryStore) -> None:
    latest: Latest[str] = Latest(store, "key", decoded)
    store.put("key", b"one")
    first = latest.read()
    store.put("key", b"broken")
    with pytest.raises(RecordInvalid):
        latest.read()
    assert latest.version is first


def test_a_late_answer_does_not_hide_a_newer_version(store: MemoryStore) -> None:
    store.put("key", b"one")

    class Slow:
        """While a read is on its way, this process writes."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def get_if_changed(self, key: str, etag: str) -> Any:
            store.put("key", b"two")
            stored = store.get_if_changed(key, etag)
            newest = Version("three", store.swap("key", b"three", stored.etag), b"three")
            latest.remember(newest, after=first)
            return stored

    latest: Latest[str] = Latest(Slow(), "key", decoded)  # type: ignore[arg-type]  # a store for what is used
    first = latest.read()
    assert latest.read().value == "two"
    assert latest.value == "three"
