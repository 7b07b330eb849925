"""What is in a store: its sessions, and how many tasks of one are in which state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from starburst_executor.client.cleanup import say_skipped, utc
from starburst_executor.client.opening import FIRST_PATIENCE_S, is_embedded
from starburst_executor.clock import Clock
from starburst_executor.errors import (
    AccessDenied,
    ObjectNotFound,
    RecordInvalid,
    SessionNotFound,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.protocol.keys import SESSIONS, is_session_id
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.status import SizeClass, State
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import join_url

__all__ = ["SessionSummary", "census", "list_sessions"]

# Of many files one may be locked by a program that is none of ours: the others are not to wait for it.
_FILE_PATIENCE_S = 0.5
# Up to so many objects that look all pending are read to be sure: a LIST costs as much as twelve GETs.
_FEW = 12


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One line of `DetachedExecutor.list_sessions()`.

    Attributes:
        id: The session's id.
        url: What reattaches from any machine, with the key.
        created_at: UTC epoch seconds.
        last_activity_at: When a task last changed, UTC epoch seconds, by the store's clock.
        state: `open`, `terminated`, `expired`, `broken` or `deleted`.
        n_tasks: Submitted.
        n_ended: Completed, failed or cancelled, as far as the listing alone tells.
    """

    id: str
    url: str
    created_at: float
    last_activity_at: float
    state: str
    n_tasks: int
    n_ended: int

    def __str__(self) -> str:
        created = utc(self.created_at).strftime("%Y-%m-%d %H:%M")
        return f"{self.id}  {created} UTC  {self.state:<10}  {self.n_ended:>7,} of {self.n_tasks:,} tasks ended"


def census(session: SessionStore) -> Counter[State]:
    """How many tasks are in which state.

    Tasks whose status object cannot be read count as failed: so do their futures end.

    Store: 1 LIST per 1,000 status objects, 1 GET for each that is partly pending, partly claimed or did not end well, and
    for each that looks all pending if those are 12 at most.
    """
    counts: Counter[State] = Counter()
    groups = session.all_groups()
    # A spoilt object may look as if all its tasks were pending. The last ones are read, or it would look so for ever.
    are_few = sum(group.size_class == SizeClass.ALL_PENDING for group in groups) <= _FEW
    for group in groups:
        known = group.size_class.all_in
        if known is not None and not (known == State.PENDING and are_few):
            counts[known] += group.ref.n_tasks
            continue
        try:
            found = session.read(group.key)
        except (RecordInvalid, VersionMismatch):
            counts[State.FAILED] += group.ref.n_tasks
            continue
        except ObjectNotFound:  # deleted since
            continue
        assert found is not None  # no ETag was sent  # noqa: S101
        counts.update(State(entry.state) for entry in found.status.entries)
    return counts


def list_sessions(store_url: str, clock: Clock) -> Iterator[SessionSummary]:
    """Every session in a store that can be read, oldest first; of what cannot be read a warning says so, once.

    Store: 1 LIST; 1 GET and 1 LIST a session.
    """
    store = PatientStore(open_store(store_url), clock, patience_s=FIRST_PATIENCE_S)
    with closing(store):
        names = [name for name in store.list_folders(SESSIONS) if is_session_id(name)]
        if is_embedded(store.url):
            store.patience_s = _FILE_PATIENCE_S
        for name in names:
            summary = _summary(store, name, clock)
            if summary is not None:
                yield summary


def _summary(store: ObjectStore, session_id: str, clock: Clock) -> SessionSummary | None:
    # No key is needed to count: metadata is not sealed.
    session = SessionStore(store, session_id, Sealer(b"", session_id), clock)
    try:
        manifest = session.refresh()
        groups = session.all_groups()
    except SessionNotFound:
        return None
    except (RecordInvalid, VersionMismatch, AccessDenied) as error:
        say_skipped(store.url, session_id, error)
        return None
    except StoreUnavailable as error:
        if not is_embedded(store.url):
            raise
        # Each session is a file of its own here, and this one is locked or damaged.
        say_skipped(store.url, session_id, error)
        return None
    return SessionSummary(
        id=session_id,
        url=join_url(store.url, session_id),
        created_at=manifest.created_at,
        last_activity_at=max((group.modified_at for group in groups), default=manifest.created_at),
        state=manifest.state.value,
        n_tasks=sum(group.ref.n_tasks for group in groups),
        n_ended=sum(group.ref.n_tasks for group in groups if group.size_class.has_ended),
    )
