"""Encodes every record: its fields, the format and a nonce."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgpack

from starburst_executor.config import Timings
from starburst_executor.protocol.records.beats import ClientBeat, WorkerBeat, padded
from starburst_executor.protocol.records.bell import Bell
from starburst_executor.protocol.records.fields import ANY_BYTES, FORMAT
from starburst_executor.protocol.records.limit import LimitRecord
from starburst_executor.protocol.records.manifest import Launch, Manifest, Submitter
from starburst_executor.protocol.records.name import Name
from starburst_executor.protocol.records.once import OnceEntry

__all__ = ["encode"]


def encode(record: Manifest | WorkerBeat | ClientBeat | Bell | Name | OnceEntry | LimitRecord, nonce: str) -> bytes:
    """Return the bytes to store. `nonce` must be fresh for every write."""
    stored = record.stored() if isinstance(record, OnceEntry) else None
    fields = {name: _plain(getattr(record, name)) for name in stored or record.__dataclass_fields__}
    whole: dict[str, object] = {"format": FORMAT, "nonce": nonce, **fields}
    if isinstance(record, WorkerBeat | ClientBeat):
        return padded(msgpack.packb({**whole, "pad": b""}, unicode_errors=ANY_BYTES), record)
    packed: bytes = msgpack.packb(whole, unicode_errors=ANY_BYTES)
    return packed


def _plain(value: object) -> object:
    """Convert a field for msgpack; records within records become tuples of their fields."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Timings):
        return value.to_record()
    if isinstance(value, Submitter | Launch):
        return tuple(getattr(value, name) for name in value.__slots__)
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return dict(value) if isinstance(value, Mapping) else value
