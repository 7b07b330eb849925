"""The bell: a hint to idle workers."""

from __future__ import annotations

from dataclasses import dataclass

from starburst_executor.protocol.records.fields import Fields, typed

__all__ = ["Bell", "decode_bell"]


@dataclass(frozen=True, slots=True)
class Bell:
    """Wakes idle workers. It is only a hint: correctness does not depend on it.

    Attributes:
        keys: The newest status objects with pending tasks, newest last.
        n_tasks: Approximate number of tasks that became pending since the previous ring; 0 with a key is the answer to the
            ring for that key: its tasks have been claimed.
    """

    keys: tuple[str, ...] = ()
    n_tasks: int = 0


def decode_bell(body: bytes) -> Bell:
    """Decode a bell. Raises: RecordInvalid, VersionMismatch."""
    fields = Fields(body, "bell")
    keys = tuple(typed(key, str, "bell") for key in fields.take("keys", tuple))
    return Bell(keys, fields.take("n_tasks", int))
