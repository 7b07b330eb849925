"""The results of tasks that calls of other tasks get as arguments: read from where the tasks' own workers have committed them.

    call ──names──► status object ──► outcome block ──seal checked──► its results, kept for calls that need them soon

Guarantee: a call gets the result of the task that its own, sealed record names. What the status object of the call says decides only when it
may run.
"""

from __future__ import annotations

import threading

from starburst_executor.errors import ObjectNotFound, PayloadError, RecordInvalid
from starburst_executor.protocol.keys import task_id
from starburst_executor.protocol.pieces import Result
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.recent import Recent

__all__ = ["Results"]

_KEPT_BYTES = 64 * 2**20
_VALUE = b"V"


class Results:
    """Reads results. Thread-safe."""

    def __init__(self, session: SessionStore, *, keep_bytes: int = _KEPT_BYTES) -> None:
        self._session = session
        self._lock = threading.Lock()  # guards: _kept
        self._kept: Recent[tuple[int, int], bytes] = Recent(keep_bytes)

    def get(self, wanted: Result) -> tuple[bytes, bytes]:
        """Return the name of a result among the pieces of a call, and its pickle.

        Raises: PayloadError: the task has no result; RecordInvalid. Store: 2 GETs at most, if it is not kept: results that are in one block,
        as those of tasks that ended together are, are read together.
        """
        with self._lock:
            kept = self._kept.get(wanted[:2])
        if kept is None:
            kept = self._read(wanted)
        return wanted.name, kept

    def _read(self, wanted: Result) -> bytes:
        session = self._session
        key = session.keys.statuses + wanted.place
        ref = session.keys.parse_status(key)
        position = -1 if ref is None else wanted.sequence - ref.first
        if ref is None or ref.ordinal != wanted.ordinal or not 0 <= position < ref.n_tasks:
            raise RecordInvalid(f"a call names a result at a place that cannot have it: {wanted}")
        try:
            status = session.statuses.read(key).status
        except ObjectNotFound as error:
            raise PayloadError(f"the task whose result a call needs is not stored: task={_id(wanted)}") from error
        block = status.entry(position).outcome
        if block is None:
            raise PayloadError(f"a call was started before the task whose result it needs: task={_id(wanted)}")
        found = b""
        for i, outcome in enumerate(session.payloads.outcomes(ref.status_id, status, block), ref.first + block.first):
            if bytes(outcome[:1]) == _VALUE:
                body = bytes(outcome[1:])
                with self._lock:
                    self._kept.add((ref.ordinal, i), body, len(body))
                found = body if i == wanted.sequence else found
        if not found:
            raise PayloadError(f"the task whose result a call needs has failed: task={_id(wanted)}")
        return found


def _id(wanted: Result) -> str:
    return task_id(wanted.ordinal, wanted.sequence)
