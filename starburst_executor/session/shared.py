"""The shared values of one session: stores, reads and deletes their parts.

    value ──lay──► bytes ──16 MB each──► seal │ part ──create──► shared/<name>/0, 1, …     several at the same time

A value's name is its seal, so equal values have one name and are stored once. Each part has a seal of its own, which binds it to the name and to
its number: a reader verifies each part as it arrives, and never has more than a few in memory.

Guarantee: `put` returns a ref only when every part is acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from starburst_executor.errors import ObjectNotFound, PayloadError, PreconditionFailed, RecordInvalid
from starburst_executor.protocol import references
from starburst_executor.protocol.pieces import Shared
from starburst_executor.protocol.references import SharedRef
from starburst_executor.protocol.seal import SEAL_BYTES
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.store import SessionStore

__all__ = ["delete", "put", "read_part"]

_KIND, _PART_KIND = "shared", "shared part"


def put(
    session: SessionStore,
    value: object,
    delete_value: Callable[[SharedRef], None],
    *,
    part_bytes: int = references.PART_BYTES,
) -> SharedRef:
    """Store a value and return its ref.

    Raises: any exception of pickling; ValueError: the value contains a ref.
    Store: 1 create for each part that is not stored yet; 1 LIST if there is more than one.
    """
    laid = references.lay(value)
    name = session.sealer.seal(_KIND, "", *laid.views).hex()
    ref = SharedRef(session.session_id, name, laid.n_bytes, part_bytes, delete_value)
    # Assumes: parts of the same name are the same bytes, so those of a put that was interrupted, or of another client, can stay.
    stored = {line.key for line in session.store.list(session.keys.shared(name))} if ref.n_parts > 1 else set()

    def write(number: int) -> None:
        key = session.keys.shared(name, number)
        if key in stored:
            return
        views = list(laid.part(number * part_bytes, (number + 1) * part_bytes))
        seal = session.sealer.seal(_PART_KIND, _label(name, number), *views)
        # Crash here: parts to which no call refers; the session's cleanup deletes them, or the same value is put again.
        with suppress(PreconditionFailed):
            session.store.create(key, b"".join([seal, *views]))

    fan_out(session.store, write, range(ref.n_parts))
    return ref


def read_part(session: SessionStore, shared: Shared, number: int) -> memoryview:
    """Read one part of a value and verify its seal. Raises: PayloadError: it is gone; RecordInvalid. Store: 1 GET."""
    name = shared.name.hex()
    if shared.session_id != session.session_id:
        raise PayloadError(
            f"a shared value of another session: {name[:12]}, put in {shared.session_id}, used in {session.session_id}; put it with "
            "this session's executor"
        )
    try:
        body = session.store.get(session.keys.shared(name, number)).body
    except ObjectNotFound as error:
        raise PayloadError(
            f"a shared value is gone: {name[:12]}, bytes={shared.n_bytes:,}; it was deleted by `ref.delete()` before this task read it; "
            "put it again and submit the task with the new ref"
        ) from error
    start = number * shared.part_bytes
    n_bytes = min(shared.part_bytes, shared.n_bytes - start)
    if len(body) != SEAL_BYTES + n_bytes:
        raise RecordInvalid(
            f"a part of a shared value has a wrong length: {name[:12]}, part={number}, bytes={len(body)}"
        )
    return session.sealer.open_sealed(_PART_KIND, _label(name, number), body)


def delete(session: SessionStore, ref: SharedRef) -> None:
    """Delete a value's parts. Harmless if they are gone. Store: 1 delete for up to 1,000 parts."""
    session.store.delete(session.keys.shared(ref.name, number) for number in range(ref.n_parts))


def _label(name: str, number: int) -> str:
    return f"{name}/{number}"
