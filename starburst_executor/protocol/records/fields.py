"""The fields of a stored record: one msgpack map, read field by field, each with its type checked.

Guarantee: decoding never runs code and, for any bytes, raises only `RecordInvalid` or `VersionMismatch`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgpack

from starburst_executor.errors import RecordInvalid, VersionMismatch

__all__ = ["ANY_BYTES", "FORMAT", "Fields", "typed"]

# One format a session: an older worker must refuse the manifest, or it would pass, ignore every status object, and beat for ever.
FORMAT = 3
# Host names and other programs' messages may contain bytes that are not UTF-8; Python represents them as surrogates.
ANY_BYTES = "surrogateescape"
_T = TypeVar("_T")


class Fields:
    """Decodes one record, field by field, and checks each field's type."""

    def __init__(self, body: bytes, what: str) -> None:
        self._what = what
        try:
            record = msgpack.unpackb(body, use_list=False, unicode_errors=ANY_BYTES)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise RecordInvalid(f"not a {what}: {type(error).__name__}, bytes={len(body)}") from error
        if not isinstance(record, dict):
            raise RecordInvalid(f"not a {what}: no fields")
        self._record: dict[object, Any] = record
        if (stored := self.take("format", int)) != FORMAT:
            raise VersionMismatch(
                f"a {what} of a format that this version does not support: format={stored}, known={FORMAT}; "
                "use the version of starburst_executor that wrote it, or a newer one"
            )

    def take(self, name: str, kind: type[_T]) -> _T:
        return typed(self._record.get(name), kind, f"{self._what}, field {name}")

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        return None if self._record.get(name) is None else self.take(name, kind)

    def member(self, name: str, kind: type[_T]) -> _T:
        try:
            return kind(self.take(name, str))  # type: ignore[call-arg]  # an Enum is called with its value
        except ValueError as error:
            raise RecordInvalid(f"an unknown value in a {self._what}: field {name}") from error

    def mapping(self, name: str, kind: type[_T]) -> dict[str, _T]:
        where = f"{self._what}, field {name}"
        return {typed(k, str, where): typed(v, kind, where) for k, v in self.take(name, dict).items()}


def typed(value: object, kind: type[_T], where: str) -> _T:
    """Return the value. Raises: RecordInvalid if its type is another; an int is accepted as a float."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is int and value < 0):  # type: ignore[operator]  # an int here
        raise RecordInvalid(f"a wrong type in a {where}: expected {kind.__name__}, found {type(value).__name__}")
    return value
