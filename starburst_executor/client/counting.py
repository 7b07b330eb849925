"""Lists the sessions in a store, and counts the tasks of a session by state."""

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
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import join_url

__all__ = ["SessionSummary", "census", "list_sessions"]

# One of many files may be locked by another program, and must not hold up the others.
_FILE_PATIENCE_S = 0.5
# Up to this number of objects that look all pending are read to be sure: a LIST costs as much as twelve GETs.
_FEW = 12


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One line of `DetachedExecutor.list_sessions()`.

    Attributes:
        id: The session's id.
        url: Its URL, by which any machine with the key can reattach.
        created_at: UTC epoch seconds.
        last_activity_at: The time of the last change of a task, UTC epoch seconds, by the store's clock.
        state: `open`, `terminated`, `expired`, `broken` or `deleted`.
        n_tasks: The number of submitted tasks.
        n_ended: The number of completed, failed or cancelled tasks, as far as the listing alone shows.
        name: The name under which it was begun; empty without one. After its end another session may have the name.
    """

    id: str
    url: str
    created_at: float
    last_activity_at: float
    state: str
    n_tasks: int
    n_ended: int
    name: str = ""

    def __str__(self) -> str:
        created = utc(self.created_at).strftime("%Y-%m-%d %H:%M")
        return f"{self.id}  {created} UTC  {self.state:<10}  {self.n_ended:>7,} of {self.n_tasks:,} tasks ended{f'  {self.name}' if self.name else ''}"


def census(session: SessionStore) -> Counter[State]:
    """Count the tasks in each state.

    Tasks whose status object cannot be read count as failed, since their futures fail.

    Store: 1 LIST per 1,000 status objects, 1 GET for each that is partly pending, partly claimed or did not end well, and
    for each that looks all pending if those are 12 at most.
    """
    counts: Counter[State] = Counter()
    listing = session.statuses.all()
    # A corrupt object may look as if all its tasks were pending. If few are left they are read, or it would look so for ever.
    are_few = sum(listed.size_class == SizeClass.ALL_PENDING for listed in listing) <= _FEW
    for listed in listing:
        known = listed.size_class.all_in
        if known is not None and not (known == State.PENDING and are_few):
            counts[known] += listed.ref.n_tasks
            continue
        try:
            stored = session.statuses.read(listed.key)
        except (RecordInvalid, VersionMismatch):
            counts[State.FAILED] += listed.ref.n_tasks
            continue
        except ObjectNotFound:  # deleted since
            continue
        counts.update(stored.status.counts())
    return counts


def list_sessions(store_url: str, clock: Clock) -> Iterator[SessionSummary]:
    """Yield every session in a store, the oldest first; skip those that cannot be read, with one warning each.

    Raises: AccessDenied, VersionMismatch, StoreUnavailable: there are sessions, and none can be read. Store: 1 LIST; 1 GET and 1 LIST per session.
    """
    store = PatientStore(open_store(store_url), clock, patience_s=FIRST_PATIENCE_S)
    with closing(store):
        names = [name for name in store.list_folders(SESSIONS) if is_session_id(name)]
        if is_embedded(store.url):
            store.patience_s = _FILE_PATIENCE_S
        n_read, refused = 0, None
        for name in names:
            try:
                summary = _summary(store, name, clock)
            except SessionNotFound:
                continue
            except (RecordInvalid, VersionMismatch, AccessDenied, StoreUnavailable) as error:
                # In an embedded store each session is a separate file, and this one may be locked or damaged.
                if isinstance(error, StoreUnavailable) and not is_embedded(store.url):
                    raise
                say_skipped(store.url, name, error)
                # What is no record is none of this library's sessions.
                refused = refused if isinstance(error, RecordInvalid) else error
                continue
            n_read += 1
            yield summary
        if refused is not None and not n_read:
            raise refused


def _summary(store: ObjectStore, session_id: str, clock: Clock) -> SessionSummary:
    # No key is needed to count: metadata is not sealed.
    session = SessionStore(store, session_id, Sealer(b"", session_id), clock)
    manifest = session.manifest.refresh()
    listing = session.statuses.all()
    return SessionSummary(
        id=session_id,
        url=join_url(store.url, session_id),
        created_at=manifest.created_at,
        last_activity_at=max((listed.modified_at for listed in listing), default=manifest.created_at),
        state=manifest.state.value,
        n_tasks=sum(listed.ref.n_tasks for listed in listing),
        n_ended=sum(listed.ref.n_tasks for listed in listing if listed.size_class.has_ended),
        name=manifest.name,
    )
