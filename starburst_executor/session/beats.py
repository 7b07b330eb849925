"""Reads life signs. A listing alone says who has left, so what a look costs does not grow with those that have."""

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
    """One line of a listing of beats: whose, which, and what its writer does.

    Attributes:
        owner: The worker's or client's id.
        state: As the beat has it. `LEFT` is final; of all else, the beat may be old.
    """

    owner: str
    key: str
    etag: str
    state: WorkerState

    @property
    def has_left(self) -> bool:
        """Whether it has said that it left: it writes nothing more."""
        return self.state == WorkerState.LEFT


def list_workers(session: SessionStore) -> list[Sign]:
    """Every worker's newest beat, oldest worker first. Store: 1 LIST per 1,000 workers."""
    return _listed(session, session.keys.workers)


def list_clients(session: SessionStore) -> list[Sign]:
    """Every client's newest beat. Store: 1 LIST per 1,000 clients."""
    return _listed(session, session.keys.clients)


def _listed(session: SessionStore, prefix: str) -> list[Sign]:
    return [
        Sign(line.key[len(prefix) :], line.key, line.etag, records.state_of(line.size))
        for line in session.store.list(prefix)
    ]


def read_beats(session: SessionStore) -> list[tuple[WorkerBeat, str]]:
    """Every worker's newest beat and its ETag, oldest worker first. Store: 1 LIST, 1 GET a worker."""
    found = fan_out(session.store, partial(read_beat, session), [sign.key for sign in list_workers(session)])
    return [pair for pair in found if pair is not None]


def read_beat(session: SessionStore, key: str) -> tuple[WorkerBeat, str] | None:
    """One worker's newest beat and its ETag; None if there is none that can be read. Store: 1 GET."""
    try:
        stored = session.store.get(key)
        assert stored is not None  # no ETag was sent  # noqa: S101
        return records.decode_beat(stored.body), stored.etag
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return None


def read_client_beat(session: SessionStore, client_id: str) -> ClientBeat | None:
    """One client's newest beat; None if there is none that can be read. Store: 1 GET."""
    try:
        stored = session.store.get(session.keys.client(client_id))
        assert stored is not None  # no ETag was sent  # noqa: S101
        return records.decode_client_beat(stored.body)
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return None


class Beats:
    """All workers' beats, again and again: only what has changed is read again. Thread-safe: of two at once each reads.

    Of the last beat of a worker that has left, what is of use to sums is kept: less than a kilobyte.
    """

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._last: dict[str, tuple[str, WorkerBeat | None]] = {}

    def read(self, wanted: Callable[[str], bool] = lambda _: True) -> list[WorkerBeat]:
        """The newest beats, oldest worker first.

        Args:
            wanted: Whether a worker's beat is asked for, by the worker's id.

        Store: 1 LIST; 1 GET for each worker that has beaten since it was read.
        """
        last = self._last
        asked = [sign for sign in list_workers(self._session) if wanted(sign.owner)]
        changed = [sign for sign in asked if sign.owner not in last or last[sign.owner][0] != sign.etag]
        found = fan_out(self._session.store, partial(read_beat, self._session), [sign.key for sign in changed])
        for sign, pair in zip(changed, found, strict=True):
            beat = None if pair is None else pair[0]
            if beat is not None and beat.state == WorkerState.LEFT:
                beat = replace(beat, claims={}, running=())
            last[sign.owner] = (sign.etag if pair is None else pair[1], beat)
        return [beat for sign in asked if (beat := last[sign.owner][1]) is not None]
