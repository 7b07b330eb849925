"""The record of a limit: how many tasks may run at once, and which slots run one."""

from __future__ import annotations

from dataclasses import dataclass

from starburst_executor.protocol.records.fields import Fields, typed

__all__ = ["LimitRecord", "decode_limit"]


@dataclass(frozen=True, slots=True)
class LimitRecord:
    """One limit of a session.

    Attributes:
        most: How many tasks may run at once.
        holders: The permits that are held, oldest first: `<worker_id>.<slot>`.
    """

    most: int
    holders: tuple[str, ...] = ()

    def has(self, permit: str) -> bool:
        """Return whether this permit is held, and within the limit: a limit that was lowered leaves the oldest."""
        return permit in self.holders[: self.most]

    def without(self, permits: frozenset[str]) -> LimitRecord:
        """Return the record without these permits; the same one if it has none of them."""
        kept = tuple(holder for holder in self.holders if holder not in permits)
        return self if kept == self.holders else LimitRecord(self.most, kept)


def decode_limit(body: bytes) -> LimitRecord:
    """Decode a limit. Raises: RecordInvalid, VersionMismatch."""
    fields = Fields(body, "limit")
    return LimitRecord(
        fields.take("most", int),
        tuple(typed(holder, str, "limit, field holders") for holder in fields.take("holders", tuple)),
    )
