"""Lets failed tasks run again with another function: stores it, and seals their calls for it.

A call's seal names its function, so that no other program can pair a function with arguments that were not meant for it. A call that is too
big to be inline stays where it is: its new record refers to it as a piece.

Guarantee: the function is acknowledged before a status object names it. One that does not accept the arguments of a task, as far as the
checked ones tell, replaces nothing.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from starburst_executor.client.fitting import misfit, signature_text
from starburst_executor.client.functions import Prepared
from starburst_executor.client.once_wanted import Call, call_text
from starburst_executor.client.reading import Block, Reading, Task
from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    KeyNotFound,
    PayloadError,
    PreconditionFailed,
    StarburstError,
    StoreUnavailable,
)
from starburst_executor.protocol import calls, pieces
from starburst_executor.protocol.content import function_name
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.rebuilding import Assembled
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.after import upstream_of
from starburst_executor.protocol.spans.record import Place, Status
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["Replacement", "called_itself", "check_replacement"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# A call of the object of big calls that is not much bigger than a reference to it is stored again.
_LEAST_PIECE_BYTES = 128
# What is compared with a function's signature. More would take as long as the retry itself.
_CHECKED_OBJECTS = 256
_CHECKED_CALLS = 10_000
_CHECKED_BYTES = 32 * 2**20  # of their big pieces


def check_replacement(function: object) -> None:
    """Raise ConfigError or TypeError if a function cannot take the place of another one."""
    if not callable(function):
        raise TypeError("function must be callable")
    if isinstance(function, functools.partial):
        raise ConfigError(
            "pass the function inside the partial: the tasks' own arguments, also those of a partial, stay"
        )


def called_itself(status: Status, positions: Iterable[int]) -> list[int]:
    """Return those of the failed tasks at these positions that have not failed because of another one, before their function was called."""
    waits = upstream_of(status)
    return [i for i in positions if i not in waits or status.span(i).claim]


def _spread(items: Sequence[_T], most: int) -> Sequence[_T]:
    """Return up to `most` of these, evenly chosen, the first among them."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


class Replacement:
    """A function that takes the place of the one that failed. As thread-safe as its session.

    Raises: PayloadError: it cannot be pickled.
    """

    def __init__(self, session: SessionStore, prepared: Prepared, function: Callable[..., Any]) -> None:
        if prepared.error is not None:
            raise PayloadError(f"the function cannot be pickled: {prepared.error}") from prepared.error
        self.digest = prepared.digest
        self._function = function
        self._signature = signature_text(function, follow_wrapped=False)
        self._session = session
        self._reading = Reading(session)
        self._pickled = prepared.pickled
        self._is_stored = False
        self._accepted: set[str] = set()
        self._is_checked = False

    def check(self, listing: Sequence[ListedStatus], tasks: Collection[tuple[int, int]] | None) -> None:
        """Compare the function's signature with the arguments of failed tasks in these objects, the first time.

        With all of them while there are few; else with those of evenly chosen objects and tasks.

        Args:
            tasks: Only these, as ordinal and index; None for all.

        Raises: ConfigError: the function does not accept the arguments of one of them.
        Store: 1 GET for each of up to 256 objects, as many for calls that are not inline, 1 for each big piece of them up to 32 MB.
        """
        if self._is_checked:
            return
        sample = _spread(listing, _CHECKED_OBJECTS)
        bodies: dict[bytes, bytes] = {}
        n_checked = 0
        for block in self._reading.blocks(sample):
            for task in self._sample(block, tasks, _CHECKED_CALLS // len(sample)):
                self._check_call(block, task, bodies)
                n_checked += 1
        _log.info(
            "compared the function with stored calls: calls=%d, objects=%d of %d", n_checked, len(sample), len(listing)
        )
        self._is_checked = True

    def _check_call(self, block: Block, task: Task, bodies: dict[bytes, bytes]) -> None:
        if not self._signature:
            return
        try:
            _, digest = self._reading.call_record(block, task)
            self._check(digest)
            args, kwargs = self._reading.call(block, task, bodies, _CHECKED_BYTES)
        except (ConfigError, KeyNotFound, StoreUnavailable, AccessDenied):
            raise
        except Exception:  # user code runs here; a worker decides whether the arguments can be loaded there
            return
        why = misfit(self._function, args, kwargs)
        if why:
            raise ConfigError(
                f"{function_name(self._function)}{self._signature} cannot be called with the arguments of task {task.id}: {why}; "
                f"nothing was retried: arguments={call_text(Call(args, kwargs))}"
            )

    @staticmethod
    def _sample(block: Block, tasks: Collection[tuple[int, int]] | None, most: int) -> Sequence[Task]:
        if block.stored is None:
            return ()
        called = called_itself(block.stored, block.stored.failed())
        chosen = (block.tasks[i] for i in sorted(called))
        return _spread([task for task in chosen if tasks is None or (task.ordinal, task.sequence) in tasks], most)

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
