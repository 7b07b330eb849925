"""Reads the payloads of one session: functions, calls, code, outcomes and captured output. Seals are checked here.

A payload is written once, before the object that names it, so a missing one is an error and never a race.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgpack

from starburst_executor.errors import ObjectNotFound, PayloadError, RecordInvalid
from starburst_executor.protocol.keys import SessionKeys, code_digest, code_key
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import Located, OutcomeBlock, Status
from starburst_executor.store.base import ObjectStore

__all__ = ["Output", "SessionPayloads", "decode_output"]


class Output(NamedTuple):
    """What a task wrote to its standard output and standard error, and what it logged (`protocol/logged.py`)."""

    stdout: str
    stderr: str
    records: bytes


def decode_output(body: bytes, key: str) -> Output:
    """Decode the output of one task. Raises: RecordInvalid."""
    try:
        stdout, stderr, *records = msgpack.unpackb(body)
        return Output(stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"), b"".join(records))
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"captured output that cannot be read: key={key}") from error


class SessionPayloads:
    """The payloads of one session. Thread-safe."""

    def __init__(self, store: ObjectStore, keys: SessionKeys, sealer: Sealer) -> None:
        self._store = store
        self._keys = keys
        self._sealer = sealer

    def function(self, digest: str) -> bytes:
        """Read a stored function and verify its seal. Raises: PayloadError, RecordInvalid. Store: 1 GET."""
        body = self._payload(self._keys.function(digest), f"function {digest}")
        return bytes(self._sealer.open_sealed("function", digest, body))

    def initializer(self, digest: str) -> bytes:
        """Read an initializer like `function`. Its seal has its own kind, so that a task's function does not pass as one."""
        body = self._payload(self._keys.function(digest), f"initializer {digest}")
        return bytes(self._sealer.open_sealed("initializer", digest, body))

    def calls(self, status_id: str, start: int, length: int) -> bytes:
        """Read bytes of the calls of a status object that were too big to inline, unverified. Raises: PayloadError. Store: 1 GET."""
        return self._payload(self._keys.calls(status_id), "big calls", start, length)

    def code(self, name: str) -> bytes:
        """Read the zip of the user's own modules that a function names, and verify its digest. Store: 1 GET.

        The zip has no seal, since sessions share it; its digest is part of the function's record, which has one.

        Raises: PayloadError, RecordInvalid.
        """
        body = self._payload(code_key(name), "the modules that a function needs")
        if hashlib.sha256(body).hexdigest() != code_digest(name):
            raise RecordInvalid(f"code does not match its digest and was not run: key={code_key(name)}")
        return body

    def outcomes(self, status_id: str, status: Status, block: OutcomeBlock) -> list[bytes | memoryview]:
        """Read a block of outcomes and verify its seal; return the outcome of each of its tasks.

        Raises: PayloadError, RecordInvalid. Store: 1 GET if it was too big to inline.
        """
        body = block.place
        if isinstance(body, Located):
            key = self._keys.outcomes(status_id, body.part)
            body = self._payload(key, f"outcomes of {block.claim}", body.start, body.length)
        return blocks.open_outcomes(self._sealer, status, block, body)

    def output(self, status_id: str, log: Located | None) -> Output:
        """Read what a task that has ended wrote and logged. Store: 1 GET, or none if that is nothing."""
        if log is None:
            return Output("", "", b"")
        key = self._keys.logs(status_id, log.part)
        return decode_output(self._payload(key, "captured output", log.start, log.length), key)

    def outputs(self, status_id: str, places: Iterable[Located]) -> dict[Located, Output]:
        """Read what several tasks of one status object wrote. Store: 1 GET for each log object: its bytes from the first to the last."""
        by_part: dict[str, list[Located]] = {}
        for place in places:
            by_part.setdefault(place.part, []).append(place)
        outputs = {}
        for part, located in by_part.items():
            key = self._keys.logs(status_id, part)
            start, end = min(place.start for place in located), max(place.start + place.length for place in located)
            body = self._payload(key, "captured output", start, end - start)
            for place in located:
                outputs[place] = decode_output(body[place.start - start :][: place.length], key)
        return outputs

    def _payload(self, key: str, what: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            stored = self._store.get(key, start=start, length=length)
        except ObjectNotFound as error:
            raise PayloadError(
                f"a stored payload is missing: {what}, key={key}; was the session cleaned up?"
            ) from error
        return stored.body
