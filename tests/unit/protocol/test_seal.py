"""Seals: what is opened is what was sealed, with this key, for this place."""

from __future__ import annotations

import copy
import hmac
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.seal import SEAL_BYTES, Sealer

KEY = b"k" * 32
SEALER = Sealer(KEY, "a-session")


@given(st.binary(max_size=200), st.text("0123456789/-.", max_size=20))
@settings(max_examples=100)
def test_what_was_sealed_is_opened(payload: bytes, label: str) -> None:
    body = SEALER.sealed("call", label, payload)
    assert bytes(SEALER.open_sealed("call", label, body)) == payload
    assert body == SEALER.seal("call", label, payload) + payload
    assert len(body) == SEAL_BYTES + len(payload)


@given(st.binary(max_size=150), st.binary(max_size=200))
@settings(max_examples=100)
def test_a_seal_is_the_hmac_of_the_standard_library(key: bytes, payload: bytes) -> None:
    place = b"\0".join([b"a-session", b"call", b"0-1/f", b""])
    assert Sealer(key, "a-session").seal("call", "0-1/f", payload) == hmac.digest(key, place + payload, "sha256")


@given(st.binary(max_size=50), st.data())
@settings(max_examples=150)
def test_any_flipped_bit_is_noticed(payload: bytes, data: st.DataObject) -> None:
    body = bytearray(SEALER.sealed("call", "0-1/f", payload))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RecordInvalid, match="wrong seal"):
        SEALER.open_sealed("call", "0-1/f", bytes(body))


@pytest.mark.parametrize(
    ("sealer", "kind", "label"),
    [
        (SEALER, "outcome", "0-1/f"),
        (SEALER, "call", "0-2/f"),
        (SEALER, "call", ""),
        (Sealer(KEY, "another-session"), "call", "0-1/f"),
        (Sealer(b"other" * 8, "a-session"), "call", "0-1/f"),
        (Sealer(b"", "a-session"), "call", "0-1/f"),
    ],
)
def test_a_payload_fits_no_other_place(sealer: Sealer, kind: str, label: str) -> None:
    body = SEALER.sealed("call", "0-1/f", b"payload")
    with pytest.raises(RecordInvalid, match=r"wrong seal .* kind=|wrong seal"):
        sealer.open_sealed(kind, label, body)


@pytest.mark.parametrize("n_bytes", [0, 1, 31])
def test_a_short_body_is_refused(n_bytes: int) -> None:
    with pytest.raises(RecordInvalid, match=f"cut short.*bytes={n_bytes}"):
        SEALER.open_sealed("call", "0-1/f", b"x" * n_bytes)
    with pytest.raises(RecordInvalid, match="wrong seal"):
        SEALER.open_sealed("call", "0-1/f", SEALER.sealed("call", "0-1/f", b"payload")[:32])


def test_the_boundary_between_place_and_payload_cannot_be_moved() -> None:
    """Without this, a label read from the store could include the beginning of another payload."""
    body = SEALER.sealed("call", "0-1/f", b"abc\0rest")
    moved = body[:SEAL_BYTES] + b"rest"
    with pytest.raises(RecordInvalid):
        SEALER.open_sealed("call", "0-1/f\0abc", moved)


def test_nothing_shows_the_key() -> None:
    assert "k" * 8 not in repr(SEALER)
    assert repr(SEALER) == "Sealer(session_id='a-session')"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="holds a key"):
            leak(SEALER)
    assert not hasattr(SEALER, "__dict__")


def test_big_payloads_are_opened_without_a_copy() -> None:
    body = SEALER.sealed("call", "0-1/f", b"x" * 100)
    assert SEALER.open_sealed("call", "0-1/f", memoryview(body)).obj is body
