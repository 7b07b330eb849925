"""The client's side of a session: how it starts, is found again, is counted, and is deleted."""

from __future__ import annotations

import hmac
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starburst_executor import config
from starburst_executor.client import registry
from starburst_executor.client.cleanup import say_skipped, utc
from starburst_executor.client.loads import Loads
from starburst_executor.client.owner import this_process
from starburst_executor.client.submitter import submitter_record
from starburst_executor.clock import Backoff, Clock
from starburst_executor.config import SessionKey, Settings, Timings
from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    KeyNotFound,
    ObjectNotFound,
    RecordInvalid,
    SessionNotFound,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.launch.base import Launcher
from starburst_executor.launch.open import is_on_aws, open_launcher
from starburst_executor.protocol import calls
from starburst_executor.protocol.keys import SESSIONS, is_session_id
from starburst_executor.protocol.records import ATTACHED, DETACHED, Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.status import SizeClass, State
from starburst_executor.session.store import SessionStore, new_token
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import join_url, split_url
from starburst_executor.version import __version__

if TYPE_CHECKING:
    from starburst_executor.client.code import Code

__all__ = [
    "Opened",
    "SessionSummary",
    "attach",
    "census",
    "code_for",
    "is_embedded",
    "list_sessions",
    "own_launcher",
    "start",
]

_log = logging.getLogger(__name__)

# A store that does not answer the first request is more likely misspelt than away.
_FIRST_PATIENCE_S = 10.0
_FIRST_PAUSE_S = 0.05
# Of many files one may be locked by a program that is none of ours: the others are not to wait for it.
_FILE_PATIENCE_S = 0.5
# Up to so many objects that look all pending are read to be sure: a LIST costs as much as twelve GETs.
_FEW = 12


@dataclass(frozen=True, slots=True)
class Opened:
    """A session and what was needed to open it.

    Attributes:
        hurry: Once set, the store is asked once and no more: for last words that may as well be lost.
    """

    session: SessionStore
    store: PatientStore
    key: SessionKey
    hurry: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return join_url(self.store.url, self.session.session_id)


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


def is_embedded(store_url: str) -> bool:
    """Whether the store is on this machine, where a request costs a tenth of a millisecond and no money."""
    return urlsplit(store_url).scheme in ("sqlite", "memory")


def code_for(store: ObjectStore, clock: Clock, settings: Settings) -> Code | Loads:
    """What sends the user's own modules to workers; where workers find them as this process does, what names their loads."""
    if is_embedded(store.url):
        return Loads()
    from starburst_executor.client.code import Code

    return Code(store, clock, settings.code_exclude)


def start(
    settings: Settings,
    clock: Clock,
    *,
    detached: bool,
    key: str | bytes | SessionKey | None = None,
    timings: Timings | None = None,
    launcher: Launcher | None = None,
    initializer: Callable[[], object] | None = None,
) -> Opened:
    """Begin a session. Store: 1 create; 1 for an initializer, 1 GET and perhaps 1 create for its code; on an endpoint that is not AWS, 8 for the probe.

    Args:
        launcher: What starts workers; the manifest says which, for clients that attach later.
        initializer: What each worker process calls first.

    Raises: ConfigError, AccessDenied, StoreUnavailable; what pickling the initializer raises.
    """
    embedded = is_embedded(settings.store)
    launch_s = settings.launch_timeout
    if timings is None:
        timings = Timings.embedded() if embedded else Timings.remote()
        launch_s = launch_s or (None if launcher is None else launcher.launch_s)
    timings = timings if launch_s is None else replace(timings, launch_s=launch_s)
    hurry = threading.Event()
    first_s = min(_FIRST_PATIENCE_S, timings.patience_s)
    store = PatientStore(open_store(settings.store), clock, patience_s=first_s, stop=hurry)
    try:
        if not embedded:
            _probe(store.inner, clock, first_s)
        session_id = f"{utc(clock.now()):%Y%m%d-%H%M%S}-{clock.new_id(4)}"
        session_key = config.new_session_key(session_id, detached=detached, given=key)
        session = SessionStore(store, session_id, Sealer(bytes(session_key), session_id), clock)
        manifest = _first_manifest(session, settings, timings, detached=detached, launcher=launcher)
        if initializer is None:
            session.create_manifest(manifest)
        else:
            code = code_for(store, clock, settings)
            _begin_with(session, manifest, calls.dump_function(initializer, code.name()))
    except BaseException:
        store.close()
        raise
    store.patience_s = timings.patience_s
    if detached and launcher is not None and is_on_aws(session.manifest.launcher) and not launcher.keeps_trying:
        _log.warning(
            "lost workers of this detached session are replaced only while a client is attached, since they run on %s; "
            'with launcher="batch" AWS Batch starts them again by itself: session=%s',
            launcher.name,
            session_id,
        )
    if detached:
        registry.remember(session_id, join_url(store.url, session_id))
    return Opened(session, store, session_key, hurry)


def _first_manifest(
    session: SessionStore, settings: Settings, timings: Timings, *, detached: bool, launcher: Launcher | None
) -> Manifest:
    spec = "none" if launcher is None else launcher.spec
    clock = session.clock
    now = clock.now()
    deadline_s = settings.absolute_timeout
    return Manifest(
        session_id=session.session_id,
        kind=DETACHED if detached else ATTACHED,
        created_at=now,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        library=__version__,
        token=new_token(session.sealer),
        workers=settings.workers,
        timings=timings,
        launcher=spec,
        launcher_seal=_launcher_seal(session, spec),
        retries=settings.retries,
        max_losses=settings.max_losses,
        max_result_bytes=settings.max_result_bytes,
        task_timeout=settings.task_timeout,
        max_tasks_per_child=settings.max_tasks_per_child,
        deadline_at=None if deadline_s is None else now + deadline_s,
        # An attached local worker costs nothing while it is idle and ends with its client.
        idle_exit=detached or launcher is None or is_on_aws(spec),
        submitters=(submitter_record(clock.new_id(4)),),
        budget_usd=settings.budget_usd,
        max_hourly_cost=settings.max_hourly_cost,
        owner=this_process(),
        keep=settings.keep,
    )


def own_launcher(session: SessionStore) -> Launcher | None:
    """What starts workers of a session that exists, as its manifest has it; None if that is nothing known here.

    # Guarantee: only a launcher that somebody with the session's key has named is opened. Whoever can merely write the
    store must not decide which image runs in whose account, with the key.
    """
    spec, seal = session.manifest.launcher, session.manifest.launcher_seal
    if not hmac.compare_digest(seal, _launcher_seal(session, spec)):
        _log.warning(
            "the session's launcher bears a wrong seal; no workers are started: session=%s", session.session_id
        )
        return None
    try:
        return open_launcher(spec, session.clock, detached=session.manifest.kind == DETACHED)
    except ConfigError as error:
        _log.info("the session's launcher is not known here; no workers are started: %s", error)
        return None


def _launcher_seal(session: SessionStore, spec: str) -> bytes:
    return session.sealer.seal("launcher", "", spec.encode())


def _probe(store: ObjectStore, clock: Clock, patience_s: float) -> None:
    # Loaded only for S3: boto3 takes longer to import than everything else together.
    from tenacity import Retrying, retry_if_exception_type

    from starburst_executor.store.probe import probe_conditional_writes
    from starburst_executor.store.s3.store import S3Store

    if not isinstance(store, S3Store):
        return
    deadline, never = clock.monotonic() + patience_s, threading.Event()
    backoff = Backoff(clock, _FIRST_PAUSE_S, patience_s)
    # A proof needs clear answers to all its requests: after an unclear one it begins anew, with an object of its own.

    def pause(pause_s: float) -> None:
        clock.wait(never, pause_s)

    retrying = Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=lambda _: backoff.next_s(),
        stop=lambda _: clock.monotonic() >= deadline,
        sleep=pause,
        reraise=True,
    )
    retrying(probe_conditional_writes, store)


def _begin_with(session: SessionStore, manifest: Manifest, initializer: bytes) -> None:
    """Create a session that has an initializer.

    The manifest comes first, although it names the other: without one, objects are what landed in a session that has been
    deleted, and may be swept. Before this returns no one else knows the session.

    # Crash here: a session without its initializer, and without tasks. It is swept if it is an attached one.
    """
    digest = calls.initializer_digest(initializer)
    session.create_manifest(replace(manifest, initializer=digest))
    session.store.create(session.keys.function(digest), session.sealer.sealed("initializer", digest, initializer))


def attach(
    id_or_url: str,
    clock: Clock,
    *,
    store: str | None = None,
    key: str | bytes | SessionKey | None = None,
    patience_s: float = _FIRST_PATIENCE_S,
) -> Opened:
    """Open a session that exists. Store: 1 GET.

    Args:
        patience_s: How long to ask a store that does not answer.

    Raises: SessionNotFound, KeyNotFound, VersionMismatch, ConfigError, AccessDenied, StoreUnavailable.
    """
    store_url, session_id = _locate(id_or_url, store)
    session_key = config.find_session_key(session_id, key)
    hurry = threading.Event()
    patient = PatientStore(open_store(store_url), clock, patience_s=patience_s, stop=hurry)
    session = SessionStore(patient, session_id, Sealer(bytes(session_key), session_id), clock)
    try:
        _check(session)
    except BaseException:
        patient.close()
        raise
    patient.patience_s = session.manifest.timings.patience_s
    return Opened(session, patient, session_key, hurry)


def _check(session: SessionStore) -> None:
    """Whether this session can be attached to from here, with this key."""
    session_id = session.session_id
    if session.refresh().state == SessionState.DELETED:
        raise SessionNotFound(f"the session was deleted: session={session_id}, store={session.store.url}")
    if not session.has_right_key():
        raise KeyNotFound(
            f"the key is not the one of this session: session={session_id}; copy the key file of whoever started it, or "
            "pass the session's own key as key= or in STARBURST_KEY"
        )
    session.check_python()
    session.expire_if_due()


def _locate(id_or_url: str, store: str | None) -> tuple[str, str]:
    if "://" in id_or_url:
        return split_url(id_or_url)
    if not is_session_id(id_or_url):
        raise SessionNotFound(f"not a session's id: {id_or_url!r}; see DetachedExecutor.list_sessions()")
    if store is None and (known := registry.known_url(id_or_url)) is not None:
        return split_url(known)
    return (store or config.resolve(detached=True).store), id_or_url


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
    store = PatientStore(open_store(store_url), clock, patience_s=_FIRST_PATIENCE_S)
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


def open_submitter(session: SessionStore, client_id: str) -> int:
    """Become a submitting client of a session that exists; the ordinal. Store: 1 swap."""

    def step(manifest: Manifest) -> Manifest | None:
        if any(submitter.client_id == client_id for submitter in manifest.submitters):
            return None
        return replace(manifest, submitters=(*manifest.submitters, submitter_record(client_id)))

    manifest = session.change(step)
    return [submitter.client_id for submitter in manifest.submitters].index(client_id)
