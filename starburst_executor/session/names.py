"""The names of sessions in one store: each says which session has it. Every change is conditional, and no name is ever deleted.

    absent ──create──► session S ──swap: S is over, or deleted──► session T
                           └──swap: S is being deleted──► free ──swap──► session U

A deletion is not conditional: it could remove the name of a session that another client has just begun. So a name that nothing needs any
more stays as a few bytes that say so.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid, VersionMismatch
from starburst_executor.protocol import records
from starburst_executor.protocol.keys import NAMES, is_name, is_session_id, name_key
from starburst_executor.protocol.records import Name
from starburst_executor.session.fan_out import fan_out
from starburst_executor.store.base import ObjectStore

__all__ = ["Holder", "Names"]


class Holder(NamedTuple):
    """The session that has a name, empty if it is free, and the ETag of the name."""

    session_id: str
    etag: str


class Names:
    """The names in one store. Thread-safe."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def holder(self, name: str) -> Holder | None:
        """Return who has a name; None if it was never used. Raises: ConfigError, RecordInvalid, VersionMismatch. Store: 1 GET."""
        try:
            stored = self._store.get(name_key(name))
        except ObjectNotFound:
            return None
        try:
            session_id = records.decode_name(stored.body).session_id
        except (RecordInvalid, VersionMismatch) as error:
            raise type(error)(f"{error}: name={name}") from error
        if session_id and not is_session_id(session_id):
            raise RecordInvalid(f"a name of what is not a session's id: name={name}")
        return Holder(session_id, stored.etag)

    def take(self, name: str, session_id: str, before: Holder | None) -> bool:
        """Give a name to a session; return whether this succeeded, which it does only if the name did not change since `before`.

        Store: 1 create or swap.
        """
        body = records.encode(Name(session_id, self._clock.now()), self._clock.new_id())
        try:
            if before is None:
                self._store.create(name_key(name), body)
            else:
                self._store.swap(name_key(name), body, before.etag)
        except (PreconditionFailed, ObjectNotFound):
            return False
        return True

    def free(self, name: str, session_id: str) -> None:
        """Free a name if this session has it. Harmless otherwise. Store: 1 GET, 1 swap."""
        holder = self.holder(name)
        if holder is not None and holder.session_id == session_id:
            self.take(name, "", holder)

    def all(self) -> dict[str, str]:
        """Return the session of each name that is not free. Store: 1 LIST, 1 GET a name."""
        names = [line.key.removeprefix(NAMES) for line in self._store.list(NAMES)]
        holders = fan_out(self._store, partial(_readable, self), [name for name in names if is_name(name)])
        return {name: session_id for name, session_id in holders if session_id}


def _readable(names: Names, name: str) -> tuple[str, str]:
    try:
        holder = names.holder(name)
    except (RecordInvalid, VersionMismatch):
        return name, ""
    return name, "" if holder is None else holder.session_id
