"""Read beats, without waiting while the store is busy. The listing alone shows which workers have left, so the cost of a look does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.protocol import records
from starburst_executor.protocol.records import ClientBeat, WorkerBeat, WorkerState
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.store import SessionStore

__all__ = ["Beats", "Sign", "list_clients", "list_workers", "read_beat", "read_beats", "read_client_beat"]


class Sign(NamedTuple):
    """One line of a listing of beats.

    Attributes:
        owner: The worker's or client's id.
        state: The state in the beat. `LEFT` is final; any other state may be out of date.
    """

    owner: str
    key: str
    etag: str
    state: WorkerState

    @property
    def has_left(self) -> bool:
        """Whether the owner has left: it writes nothing more."""
        return self.state == WorkerState.LEFT


def list_workers(session: SessionStore) -> list[Sign]:
    """List every worker's newest beat, oldest worker first. Store: 1 LIST per 1,000 workers."""
    return _listed(session, session.keys.workers)


def list_clients(session: SessionStore) -> list[Sign]:
    """List every client's newest beat. Store: 1 LIST per 1,000 clients."""
    return _listed(session, session.keys.clients)


def _listed(session: SessionStore, prefix: str) -> list[Sign]:
    return [
        Sign(line.key[len(prefix) :], line.key, line.etag, records.state_of(line.size))
        for line in session.vital.list(prefix)
    ]


def read_beats(session: SessionStore) -> list[tuple[WorkerBeat, str]]:
    """Return every worker's newest beat and its ETag, oldest worker first. Store: 1 LIST, 1 GET a worker."""
    beats = fan_out(session.store, partial(read_beat, session), [sign.key for sign in list_workers(session)])
    return [pair for pair in beats if pair is not None]


def read_beat(session: SessionStore, key: str) -> tuple[WorkerBeat, str] | None:
    """Return one worker's newest beat and its ETag; None if there is no readable beat. Store: 1 GET."""
    try:
        stored = session.vital.get(key)
        return records.decode_beat(stored.body), stored.etag
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return None


def read_client_beat(session: SessionStore, client_id: str) -> ClientBeat | None:
    """Return one client's newest beat; None if there is no readable beat. Store: 1 GET."""
    try:
        stored = session.vital.get(session.keys.client(client_id))
        return records.decode_client_beat(stored.body)
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return None


class Beats:
    """Reads all workers' beats repeatedly, and only the beats that have changed. Thread-safe: concurrent calls each read.

    It keeps the last beat of each worker, without its claims if the worker has left: less than a kilobyte each.
    """

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._last: dict[str, tuple[str, WorkerBeat | None]] = {}

    def read(self, wanted: Callable[[str], bool] = lambda _: True) -> list[WorkerBeat]:
        """Return the newest beats, oldest worker first.

        Args:
            wanted: Whether to read the beat of the worker with this id.

        Store: 1 LIST; 1 GET for each of these workers that has beaten since its beat was read.
        """
        last = self._last
        signs = [sign for sign in list_workers(self._session) if wanted(sign.owner)]
        changed = [sign for sign in signs if sign.owner not in last or last[sign.owner][0] != sign.etag]
        beats = fan_out(self._session.store, partial(read_beat, self._session), [sign.key for sign in changed])
        for sign, pair in zip(changed, beats, strict=True):
            beat = None if pair is None else pair[0]
            if beat is not None and beat.state == WorkerState.LEFT:
                beat = replace(beat, claims={}, running=())
            last[sign.owner] = (sign.etag if pair is None else pair[1], beat)
        return [beat for sign in signs if (beat := last[sign.owner][1]) is not None]
