"""Lets failed tasks run again with another function: stores it, and seals their calls for it.

A call's seal names its function, so that no other program can pair a function with arguments that were not meant for it. A call that is too
big to be inline stays where it is: its new record refers to it as a piece.

Guarantee: the function is acknowledged before a status object names it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from starburst_executor.client.functions import Prepared
from starburst_executor.client.reading import Reading
from starburst_executor.errors import ConfigError, PayloadError, PreconditionFailed, StarburstError
from starburst_executor.protocol import calls, pieces
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.rebuilding import Assembled
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import Place, Status
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["Replacement", "check_replacement"]

# A call of the object of big calls that is not much bigger than a reference to it is stored again.
_LEAST_PIECE_BYTES = 128


def check_replacement(function: object) -> None:
    """Raise ConfigError or TypeError if a function cannot take the place of another one."""
    if not callable(function):
        raise TypeError("function must be callable")
    if isinstance(function, functools.partial):
        raise ConfigError(
            "pass the function inside the partial: the tasks' own arguments, also those of a partial, stay"
        )


class Replacement:
    """A function that takes the place of the one that failed. As thread-safe as its session.

    Raises: PayloadError: it cannot be pickled.
    """

    def __init__(self, session: SessionStore, prepared: Prepared) -> None:
        if prepared.error is not None:
            raise PayloadError(f"the function cannot be pickled: {prepared.error}") from prepared.error
        self.digest = prepared.digest
        self._session = session
        self._reading = Reading(session)
        self._pickled = prepared.pickled
        self._is_stored = False
        self._accepted: set[str] = set()

    def calls(self, listed: ListedStatus, current: Status, positions: Iterable[int]) -> list[tuple[int, int, Place]]:
        """Return blocks of the calls of these tasks, sealed for this function: first position, number, and bytes.

        Raises: ConfigError: a task's own function was made anew for each call, so the arguments alone do not tell what to do.
        Store: 1 create for the first; 1 GET for each function that failed, and for each block of calls that is not inline.
        """
        self._store()
        stored = self._reading.block_of(listed, current)
        records: dict[int, bytes] = {}
        for i in sorted(positions):
            record, digest, start = self._reading.call_at(stored, stored.tasks[i])
            self._check(digest)
            if start is not None and len(record) > _LEAST_PIECE_BYTES and pieces.decode(record) is None:
                place = (listed.ref.status_id, start, len(record))
                record = pieces.encode([Piece(pieces.name_of(self._session.sealer, record), *place)])
            records[i] = record
        sealed = blocks.inline_calls(self._session.sealer, current.ordinal, current.first, self.digest, records)
        return [(block.first, block.n, block.place) for block in sealed]

    def _store(self) -> None:
        if not self._is_stored:
            body = self._session.sealer.sealed("function", self.digest, self._pickled)
            with suppress(PreconditionFailed):  # it is there: the key is its digest
                self._session.store.create(self._session.keys.function(self.digest), body)
            self._is_stored = True

    def _check(self, digest: str) -> None:
        if digest in self._accepted:
            return
        failed: Callable[..., Any] | None = None
        with suppress(StarburstError):
            body = self._session.payloads.function(digest)
            with suppress(Exception):  # user code runs here; a function that cannot be loaded may well be the fault
                failed = calls.load_function(body)
        if isinstance(failed, Assembled):
            raise ConfigError(
                "the tasks' function was made anew for each call (a closure, or a lambda with defaults), and what it held is not among the "
                "arguments of a call: submit these tasks again"
            )
        self._accepted.add(digest)
