"""The tasks whose results other calls need: found among the arguments of a call, and located in the store.

    submit(g, future) ──taken_from──► the call, with a `ResultRef` in the future's place ──► batch ──locate──► status object, position

The future of a result that was in a cache has no task: the result itself takes its place. Only a future that is itself an argument is replaced. Inside of lists and other objects it stays a future.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from starburst_executor.client.future import StarburstFuture
from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.references import ResultRef
from starburst_executor.protocol.spans.after import upstream_of
from starburst_executor.protocol.spans.record import BLOCKED
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["UpstreamOf", "dependants", "locate", "with_dependants"]


class UpstreamOf:
    """Finds the futures of one session among the arguments of its calls."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id

    def taken_from(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], tuple[StarburstFuture[Any], ...]]:
        """Return a call with refs in place of the futures of this session's tasks, and those futures.

        Results that were in a cache take the place of their futures. Raises: the error of such a future.
        """
        # Each task pays for this line.
        if StarburstFuture not in map(type, args) and (not kwargs or StarburstFuture not in map(type, kwargs.values())):
            return args, kwargs, ()
        found: dict[StarburstFuture[Any], ResultRef] = {}

        def taken(value: Any) -> Any:
            if type(value) is not StarburstFuture:
                return value
            if value.session_id == self._session_id:
                return found.setdefault(value, ResultRef(value.ordinal, value.index))
            # Without a task: the result was in a cache, and is here, or comes with one request.
            return value if value.session_id else value.result()

        args, kwargs = tuple(map(taken, args)), {name: taken(value) for name, value in kwargs.items()}
        return args, kwargs, tuple(found)


def locate(session: SessionStore, ordinal: int, index: int) -> StatusRef | None:
    """Return the status object of a task of another client, or of one of long ago; None if it is not stored. Store: 1 LIST for each epoch up to the task's."""
    submitters = session.manifest.current.submitters
    if ordinal >= len(submitters):
        submitters = session.manifest.refresh().submitters
    for epoch in range(submitters[ordinal].epochs if ordinal < len(submitters) else 0):
        for listed in session.statuses.of_epochs([(ordinal, epoch)]):
            if listed.ref.first <= index < listed.ref.first + listed.ref.n_tasks:
                return listed.ref
    return None


def with_dependants(
    session: SessionStore, listing: Iterable[ListedStatus], tasks: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Return tasks, by ordinal and index, and their `dependants`. Store: 1 GET for each object."""
    return set(tasks) | dependants(session, listing, tasks)


def dependants(
    session: SessionStore, listing: Iterable[ListedStatus], tasks: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Return the tasks in these objects that wait for some of these, directly or not, or have failed because of them.

    Store: 1 GET for each object.
    """
    waits: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for found in fan_out(session.store, lambda listed: _after(session, listed), listing):
        waits.update(found)
    wanted, before = set(tasks), -1
    while len(wanted) > before:
        before = len(wanted)
        wanted.update(task for task, upstream in waits.items() if not wanted.isdisjoint(upstream))
    return {task for task, upstream in waits.items() if not wanted.isdisjoint(upstream)}


def _after(session: SessionStore, listed: ListedStatus) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the failed and the blocked tasks of an object that wait for others, with those."""
    try:
        status = session.statuses.read(listed.key).status
        waits = upstream_of(status)
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return {}
    found = {}
    blocked = [at for start, span in status.placed() if span.state == BLOCKED for at in range(start, start + span.n)]
    for position in [*status.failed(), *blocked] if waits else ():
        refs = [(session.keys.parse_status(session.keys.statuses + place), at) for place, at in waits.get(position, ())]
        found[listed.ref.ordinal, listed.ref.first + position] = [
            (ref.ordinal, ref.first + at) for ref, at in refs if ref is not None
        ]
    return found
