"""Begins a session with a name, or finds the one that has it.

    name absent, free, or of a session that is over ──► reserve it for a fresh id ──► create the session's manifest
    name of a session that is there ──────────────────► attach
    name of an id without a manifest ─────────────────► its client is about to create it, or has died: wait a moment, then give up the id
                                                        by creating its manifest as deleted, and begin again

Guarantee: of all clients that begin or find a session of one name at the same time, each gets the same session. A name changes hands only by
a swap on the name that was read. A client whose id was given up finds that its manifest exists already, and begins again too: a manifest is
created once, by the client that means it or by the one that gives it up, and the store decides.

Source: docs/design/0012-names-and-once.md
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Literal, NamedTuple, TypeAlias

from starburst_executor import config
from starburst_executor.client.opening import FIRST_PATIENCE_S, Opened, attach
from starburst_executor.clock import Clock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import (
    ConfigError,
    PreconditionFailed,
    RecordInvalid,
    SessionExpired,
    SessionNotFound,
)
from starburst_executor.protocol.keys import name_key
from starburst_executor.protocol.records import DETACHED, Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.manifest import new_token
from starburst_executor.session.names import Holder, Names
from starburst_executor.session.store import SessionStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.version import __version__

__all__ = ["Named", "OnExpired", "check_name", "open_named"]

_log = logging.getLogger(__name__)

OnExpired: TypeAlias = Literal["new", "raise"]
# A client creates the manifest directly after it has reserved the name. Giving up its id sooner would be safe, and cost it another turn.
_PATIENCE_S = 2.0
_LOOK_S = 0.1


class Named(NamedTuple):
    """A session that was found by its name, or has begun under it."""

    opened: Opened
    is_new: bool


class _NameTaken(Exception):
    """Another client has reserved the name since it was read."""


def check_name(name: str, on_expired: str) -> None:
    """Raise ConfigError if the arguments cannot be used."""
    name_key(name)
    if on_expired not in ("new", "raise"):
        raise ConfigError(f"on_expired={on_expired!r} (an argument): must be 'new' or 'raise'")


def open_named(
    name: str,
    store_url: str,
    clock: Clock,
    *,
    on_expired: OnExpired,
    key: str | bytes | SessionKey | None,
    begin: Callable[[Callable[[str], None]], Opened],
) -> Named:
    """Attach to the session of a name, or begin it.

    Args:
        on_expired: What happens if the session of that name is over (expired, ended, or broken): begin a new one under the name, or
            raise `SessionExpired`. A deleted session frees its name in any case.
        begin: Starts a session; calls its argument with the session's id before it creates it.

    Raises: SessionExpired, KeyNotFound, VersionMismatch, RecordInvalid; the errors of `begin`.
    Store: 1 GET; 2 GETs to attach, 1 create or swap besides those of `begin`.
    """
    with closing(PatientStore(open_store(store_url), clock, patience_s=FIRST_PATIENCE_S)) as store:
        names = Names(store, clock)
        while True:
            holder = names.holder(name)
            if holder is not None and holder.session_id:
                opened = _opened(store, holder.session_id, name, clock, on_expired=on_expired, key=key)
                if opened is not None:
                    return Named(opened, False)

            def reserve(session_id: str, before: Holder | None = holder) -> None:
                if not names.take(name, session_id, before):
                    raise _NameTaken

            try:
                # Crash here, after the name was reserved: the next client that wants it gives up the id.
                return Named(begin(reserve), True)
            except (_NameTaken, PreconditionFailed):
                continue


def _opened(
    store: PatientStore,
    session_id: str,
    name: str,
    clock: Clock,
    *,
    on_expired: OnExpired,
    key: str | bytes | SessionKey | None,
) -> Opened | None:
    """Attach to the session that has the name; None if the name is to be taken from it."""
    while True:
        state = _state(store, session_id, clock)
        if state == SessionState.DELETED:
            return None
        if state is None:
            _give_up(store, session_id, clock, key)
            continue
        try:
            opened = attach(session_id, clock, store=store.url, key=key)
        except SessionNotFound:
            continue  # deleted since
        manifest = opened.session.manifest.current
        if manifest.name == name and not manifest.state.is_over:
            return opened
        opened.store.close()
        if manifest.name != name:
            raise RecordInvalid(f"the name was moved to a session of another name: name={name}, session={session_id}")
        if on_expired == "raise":
            raise SessionExpired(
                f"the session of this name is {manifest.state.value}: name={name}, session={session_id}; reattach({session_id!r}) reads it, "
                "and on_expired='new' begins another one"
            )
        return None


def _state(store: PatientStore, session_id: str, clock: Clock) -> SessionState | None:
    """Return the state of a session; None if it has not begun within the time that its client has for it."""
    session = SessionStore(store, session_id, Sealer(b"", session_id), clock)
    until, never = clock.monotonic() + _PATIENCE_S, threading.Event()
    while True:
        try:
            return session.manifest.refresh().state
        except SessionNotFound:
            if clock.monotonic() >= until:
                return None
        clock.wait(never, _LOOK_S)


def _give_up(store: PatientStore, session_id: str, clock: Clock, key: str | bytes | SessionKey | None) -> None:
    """Make sure that no session of this id begins any more. Harmless if it has begun. Store: 1 create."""
    session_key = config.new_session_key(session_id, detached=True, given=key)
    session = SessionStore(store, session_id, Sealer(bytes(session_key), session_id), clock)
    grave = Manifest(
        session_id=session_id,
        kind=DETACHED,
        created_at=clock.now(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        library=__version__,
        token=new_token(session.sealer),
        slots=1,
        timings=Timings.remote(),
        state=SessionState.DELETED,
        reason="its client ended before it had begun",
    )
    try:
        session.manifest.create(grave)
    except PreconditionFailed:
        return
    _log.warning("a session that had reserved its name was never begun: session=%s, store=%s", session_id, store.url)
