"""The name of a session: which session has it."""

from __future__ import annotations

from dataclasses import dataclass

from starburst_executor.protocol.records.fields import Fields

__all__ = ["Name", "decode_name"]


@dataclass(frozen=True, slots=True)
class Name:
    """The holder of a name. The holder's manifest contains the name too, under its seal, so this record needs none.

    Attributes:
        session_id: The session that has the name, or is about to begin; empty if the name is free.
        at: When that was written, UTC epoch seconds, for people.
    """

    session_id: str
    at: float


def decode_name(body: bytes) -> Name:
    """Decode a name. Raises: RecordInvalid, VersionMismatch."""
    fields = Fields(body, "name")
    return Name(fields.take("session_id", str), fields.take("at", float))
