"""The part of an executor that shares values: `put` stores one once, for all calls of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starburst_executor.errors import ExecutorBroken

if TYPE_CHECKING:
    from starburst_executor.client.engine import Engine
    from starburst_executor.protocol.references import SharedRef

__all__ = ["Putting"]


class Putting:
    """What an executor offers to share a value among tasks."""

    _engine: Engine

    def put(self, value: object) -> SharedRef:
        """Store a value once for the tasks of this session, and return its ref, which calls may contain anywhere.

        A task finds the value where its call contains the ref. A worker reads a value once, however many of its processes need it.
        NumPy arrays, and objects that consist of them, are mapped from a file and read-only: no process copies them. Any other value is
        loaded once for each worker process; its tasks share it, so they must not change it.

        Returns when the value is stored; it exists until the session's end, or `ref.delete()`. Equal values are stored once.
        Memory: while it is sent, up to 256 MB more than the value.

        Raises: any exception of pickling; ValueError: the value contains another ref; RuntimeError after `shutdown`; ExecutorBroken,
            SessionExpired.
        Store: 1 create for each 16 MB, up to 16 at the same time; 1 LIST if there are more than 16 MB.
        """
        from starburst_executor.session import shared  # loads what many executors never need

        engine = self._engine
        if not engine.is_of_this_process():
            raise ExecutorBroken(
                "this executor was made in another process; make one here, or reattach to a detached session"
            )
        session, state = engine.session, engine.parts.state
        state.check_open(session.manifest.current)

        def delete(ref: SharedRef) -> None:
            if not state.ended.is_set():  # otherwise the session's objects are gone, or belong to other clients
                shared.delete(session, ref)

        return shared.put(session, value, delete)
