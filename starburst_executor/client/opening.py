"""Opens sessions: starts them, or attaches to them, with their launchers. `ending.py` and `cleanup.py` end them."""

from __future__ import annotations

import hmac
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starburst_executor import config
from starburst_executor.client import registry
from starburst_executor.client.cleanup import utc
from starburst_executor.client.loads import Loads
from starburst_executor.client.owner import this_process
from starburst_executor.client.submitter import submitter_record
from starburst_executor.clock import Backoff, Clock
from starburst_executor.config import SessionKey, Settings, Timings
from starburst_executor.errors import (
    ConfigError,
    KeyNotFound,
    SessionNotFound,
    StarburstError,
    StoreUnavailable,
)
from starburst_executor.launch.base import Launcher
from starburst_executor.launch.open import is_on_aws, open_launcher
from starburst_executor.protocol import calls
from starburst_executor.protocol.keys import is_name, is_session_id
from starburst_executor.protocol.records import ATTACHED, DETACHED, Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.manifest import new_token
from starburst_executor.session.names import Names
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import join_url, split_url
from starburst_executor.version import __version__

if TYPE_CHECKING:
    from starburst_executor.client.code import Code

__all__ = [
    "FIRST_PATIENCE_S",
    "Opened",
    "attach",
    "code_for",
    "find_name",
    "is_embedded",
    "own_launcher",
    "start",
]

_log = logging.getLogger(__name__)

# If a store does not answer the first request, a misspelt URL is more likely than an outage.
FIRST_PATIENCE_S = 10.0
_FIRST_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Opened:
    """An open session, with its store and key.

    Attributes:
        hurry: Once set, store requests are tried only once, for last writes that may be lost.
    """

    session: SessionStore
    store: PatientStore
    key: SessionKey
    hurry: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return join_url(self.store.url, self.session.session_id)


def is_embedded(store_url: str) -> bool:
    """Whether the store is on this machine, where a request takes a tenth of a millisecond and costs nothing."""
    return urlsplit(store_url).scheme in ("sqlite", "memory")


def code_for(store: ObjectStore, clock: Clock, settings: Settings) -> Code | Loads:
    """Return the sender of the user's own modules; for workers on this machine, which import them from disk, their `Loads`."""
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
    name: str = "",
    reserve: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Start a session.

    Args:
        launcher: Starts workers. The manifest names it, for clients that attach later.
        initializer: Called first in each worker process.
        name: The session's name.
        reserve: Called with the session's id directly before the session is created; what it raises ends the start.

    Raises: ConfigError, AccessDenied, StoreUnavailable; any exception of pickling the initializer; PreconditionFailed: another client has
        given up the reserved id.
    Store: 1 create; with an initializer 1 more, and 1 GET and perhaps 1 create for its code; on an endpoint that is not AWS,
    6 to 8 for the probe (`store/probe.py`).
    """
    embedded = is_embedded(settings.store)
    launch_s = settings.launch_timeout
    if timings is None:
        timings = Timings.embedded() if embedded else Timings.remote()
        launch_s = launch_s or (None if launcher is None else launcher.launch_s)
    timings = timings if launch_s is None else replace(timings, launch_s=launch_s)
    hurry = threading.Event()
    first_s = min(FIRST_PATIENCE_S, timings.patience_s)
    store = PatientStore(open_store(settings.store), clock, patience_s=first_s, stop=hurry)
    try:
        if not embedded:
            _probe(store.inner, clock, first_s)
        session_id = f"{utc(clock.now()):%Y%m%d-%H%M%S}-{clock.new_id(4)}"
        session_key = config.new_session_key(session_id, detached=detached, given=key)
        session = SessionStore(store, session_id, Sealer(bytes(session_key), session_id), clock)
        manifest = _first_manifest(session, settings, timings, detached=detached, launcher=launcher, name=name)
        if initializer is None:
            reserve(session_id)
            session.manifest.create(manifest)
        else:
            code = code_for(store, clock, settings)
            pickled = calls.dump_function(initializer, code.name())
            code.store_waiting()
            reserve(session_id)
            _begin_with(session, manifest, pickled)
    except BaseException:
        store.close()
        raise
    store.patience_s = timings.patience_s
    if detached and launcher is not None and is_on_aws(session.manifest.current.launcher) and not launcher.keeps_trying:
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
    session: SessionStore, settings: Settings, timings: Timings, *, detached: bool, launcher: Launcher | None, name: str
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
        slots=settings.workers,
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
        name=name,
        max_failures=settings.max_failures or "",
        task_logs=settings.task_logs,
    )


def own_launcher(session: SessionStore) -> Launcher | None:
    """Return the launcher that the manifest of a session names; None if this client does not know that launcher.

    Guarantee: opens only a launcher that a holder of the session's key has named. A program that can write the store, but
    has no key, must not decide which image runs in an account, with the key.
    """
    spec, seal = session.manifest.current.launcher, session.manifest.current.launcher_seal
    if not hmac.compare_digest(seal, _launcher_seal(session, spec)):
        _log.warning("the session's launcher has a wrong seal; no workers are started: session=%s", session.session_id)
        return None
    try:
        return open_launcher(spec, session.clock, detached=session.manifest.current.kind == DETACHED)
    except ConfigError as error:
        _log.info("the session's launcher is not known here; no workers are started: %s", error)
        return None


def _launcher_seal(session: SessionStore, spec: str) -> bytes:
    return session.sealer.seal("launcher", "", spec.encode())


def _probe(store: ObjectStore, clock: Clock, patience_s: float) -> None:
    # Imported only for S3: boto3 takes longer to import than all other modules together.
    from tenacity import Retrying, retry_if_exception_type

    from starburst_executor.store.probe import probe_conditional_writes
    from starburst_executor.store.s3.store import S3Store

    if not isinstance(store, S3Store):
        return
    deadline, never = clock.monotonic() + patience_s, threading.Event()
    backoff = Backoff(clock, _FIRST_PAUSE_S, patience_s)
    # The probe needs clear answers to all its requests: after an unclear one it starts again, with another object.

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

    The manifest comes first, although it names the initializer: objects without a manifest count as remains of a deleted
    session, and may be swept. No other process knows the session before this returns.

    # Crash here, between the two: a session without its initializer, and without tasks. The sweep deletes an attached one.
    """
    digest = calls.initializer_digest(initializer)
    session.manifest.create(replace(manifest, initializer=digest))
    session.store.create(session.keys.function(digest), session.sealer.sealed("initializer", digest, initializer))


def attach(
    id_or_url: str,
    clock: Clock,
    *,
    store: str | None = None,
    key: str | bytes | SessionKey | None = None,
    patience_s: float = FIRST_PATIENCE_S,
) -> Opened:
    """Open an existing session. Store: 1 GET; 1 more for a name.

    Args:
        id_or_url: Its id, its name, or its URL.
        patience_s: How long to retry while the store does not answer.

    Raises: SessionNotFound, KeyNotFound, VersionMismatch, ConfigError, AccessDenied, StoreUnavailable.
    """
    store_url, session_id = _locate(id_or_url, store, clock)
    session_key = config.find_session_key(session_id, key)
    hurry = threading.Event()
    patient = PatientStore(open_store(store_url), clock, patience_s=patience_s, stop=hurry)
    session = SessionStore(patient, session_id, Sealer(bytes(session_key), session_id), clock)
    try:
        _check(session)
    except BaseException:
        patient.close()
        raise
    patient.patience_s = session.manifest.current.timings.patience_s
    return Opened(session, patient, session_key, hurry)


def _check(session: SessionStore) -> None:
    """Check that this process can attach to the session with this key. Raises: SessionNotFound, KeyNotFound, VersionMismatch."""
    session_id = session.session_id
    if session.manifest.refresh().state == SessionState.DELETED:
        raise SessionNotFound(f"the session was deleted: session={session_id}, store={session.store.url}")
    if not session.manifest.has_right_key():
        raise KeyNotFound(
            f"the key is not the one of this session: session={session_id}; copy the key file of the user who started it, or "
            "pass the session's own key as key= or in STARBURST_KEY"
        )
    session.manifest.check_python()
    session.manifest.expire_if_due()


def find_name(name: str, stores: Sequence[str], clock: Clock, *, is_given: bool) -> tuple[str, str] | None:
    """Return the store and the id of the session of this name; None if there is none.

    Args:
        stores: The URLs of the stores to search, in this order.
        is_given: Whether the user named the store. Otherwise the stores are searched too in which this machine has started sessions.

    Store: 1 GET each.
    """
    for store_url in stores:
        session_id = _named_in(store_url, name, clock)
        if session_id:
            return store_url, session_id
    for store_url in () if is_given else registry.known_stores():
        with suppress(StarburstError):  # one that was removed, or needs other credentials
            session_id = "" if store_url in stores else _named_in(store_url, name, clock)
            if session_id:
                return store_url, session_id
    return None


def _named_in(store_url: str, name: str, clock: Clock) -> str:
    with closing(PatientStore(open_store(store_url), clock, patience_s=FIRST_PATIENCE_S)) as store:
        holder = Names(store, clock).holder(name)
    return "" if holder is None else holder.session_id


def _locate(id_or_url: str, store: str | None, clock: Clock) -> tuple[str, str]:
    if not isinstance(id_or_url, str):
        raise TypeError(f"a session is named by its id, its name or its URL, not by {type(id_or_url).__name__}")
    if "://" in id_or_url:
        return split_url(id_or_url)
    if is_name(id_or_url):
        named = find_name(id_or_url, [store or config.store_to_read()], clock, is_given=store is not None)
        if named is not None:
            return named
    if not is_session_id(id_or_url):
        raise SessionNotFound(
            f"no session has this id or name: {id_or_url!r}; `starburst sessions` lists those that are there"
        )
    if store is None and (known := registry.known_url(id_or_url)) is not None:
        return split_url(known)
    return (store or config.store_to_read()), id_or_url


def open_submitter(session: SessionStore, client_id: str) -> int:
    """Register as a submitting client of an existing session; return the ordinal. Store: 1 swap."""

    def step(manifest: Manifest) -> Manifest | None:
        if any(submitter.client_id == client_id for submitter in manifest.submitters):
            return None
        return replace(manifest, submitters=(*manifest.submitters, submitter_record(client_id)))

    manifest = session.manifest.change(step)
    return [submitter.client_id for submitter in manifest.submitters].index(client_id)
