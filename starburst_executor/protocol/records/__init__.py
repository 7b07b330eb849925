"""Manifest, beats, bell, names and the log of keys, to and from msgpack.

Guarantee: decoding never runs code and, for any bytes, raises only `RecordInvalid` or `VersionMismatch`.

Every record contains `format`, the number of the session's format, and a fresh `nonce`, so that ETags never repeat. A beat
is padded so that `len % 8` is its writer's state (`state_of`): a listing shows which workers have left.
"""

from __future__ import annotations

from starburst_executor.protocol.records.beats import (
    NOTE_CHARS,
    ClientBeat,
    Latency,
    Running,
    WorkerBeat,
    WorkerState,
    decode_beat,
    decode_client_beat,
    one_line,
    state_of,
)
from starburst_executor.protocol.records.bell import Bell, decode_bell
from starburst_executor.protocol.records.encoding import encode
from starburst_executor.protocol.records.fields import FORMAT
from starburst_executor.protocol.records.limit import LimitRecord, decode_limit
from starburst_executor.protocol.records.manifest import (
    ATTACHED,
    DETACHED,
    Launch,
    Manifest,
    SessionState,
    Submitter,
    decode_manifest,
    settings_of,
)
from starburst_executor.protocol.records.name import Name, decode_name
from starburst_executor.protocol.records.once import OnceEntry, decode_once

__all__ = [
    "ATTACHED",
    "DETACHED",
    "FORMAT",
    "NOTE_CHARS",
    "Bell",
    "ClientBeat",
    "Latency",
    "Launch",
    "LimitRecord",
    "Manifest",
    "Name",
    "OnceEntry",
    "Running",
    "SessionState",
    "Submitter",
    "WorkerBeat",
    "WorkerState",
    "decode_beat",
    "decode_bell",
    "decode_client_beat",
    "decode_limit",
    "decode_manifest",
    "decode_name",
    "decode_once",
    "encode",
    "one_line",
    "settings_of",
    "state_of",
]
