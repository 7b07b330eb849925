"""Reads and changes the manifest: the object with a session's settings and state.

    known manifest ──step──► changed ──swap on its ETag──► the newest known manifest
          ▲                               │
          └────────── fresh read ◄────────┘ another process changed it meanwhile

Guarantees: every change is a swap on the ETag that was read. The known manifest never becomes older. No process with the
session's key acts on settings that were sealed without it, or seals them again.

Assumes: every step that is passed to `change` writes an absolute target, so that applying it twice is harmless.
"""

from __future__ import annotations

import hmac
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace

from starburst_executor.clock import Clock
from starburst_executor.errors import (
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    SessionNotFound,
    VersionMismatch,
)
from starburst_executor.protocol import records
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.records import Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.latest import Latest, Version

__all__ = ["SessionManifest", "new_token"]

# Kind and label of the seal in a manifest by which a key is verified, and of the seal of the settings.
_TOKEN = ("token", "manifest")
_SETTINGS = ("settings", "manifest")


def new_token(sealer: Sealer) -> bytes:
    """Return the manifest's token, with which a client or worker detects a wrong key before it does anything else."""
    return sealer.sealed(*_TOKEN, b"")


class SessionManifest:
    """The manifest of one session. Thread-safe."""

    def __init__(self, store: ObjectStore, keys: SessionKeys, sealer: Sealer, clock: Clock) -> None:
        self._store = store
        self._session_id = keys.session_id
        self._key = keys.manifest
        self._sealer = sealer
        self._clock = clock
        self._latest = Latest(store, keys.manifest, self._decoded)
        self._is_right_key = False  # it never becomes false again

    @property
    def known(self) -> Manifest | None:
        """The newest manifest that this process read or wrote; None before the first."""
        return self._latest.value

    @property
    def current(self) -> Manifest:
        """The newest manifest that this process read or wrote, without a request once there is one."""
        known = self._latest.value
        return known if known is not None else self.refresh()

    def create(self, manifest: Manifest) -> None:
        """Create the session. Store: 1 create."""
        manifest = self._sealed(manifest)
        body = records.encode(manifest, self._clock.new_id())
        etag = self._store.create(self._key, body)
        self._is_right_key = True
        self._latest.remember(Version(manifest, etag, body), after=None)

    def has_right_key(self) -> bool:
        """Return whether the manifest's token was sealed with this process's key."""
        is_right = self._opens(self.current.token)
        self._is_right_key = self._is_right_key or is_right
        return is_right

    def check_python(self) -> None:
        """Raise VersionMismatch if this process's Python cannot load pickles of this session."""
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.current.python != own:
            raise VersionMismatch(
                f"the session's functions were pickled by another Python: session={self.current.python}, here={own}; "
                f"use Python {self.current.python} for this"
            )

    def expire_if_due(self) -> Manifest:
        """End the session if its `absolute_timeout` has passed; return the current manifest. Store: 1 swap if it is due."""
        deadline_at = self.current.deadline_at
        if deadline_at is None or self.current.state.is_over or self._clock.now() < deadline_at:
            return self.current

        def step(manifest: Manifest) -> Manifest | None:
            # Extend or expire: the first to land wins, since both are swaps of the same object.
            if manifest.deadline_at is None or manifest.deadline_at > self._clock.now() or manifest.state.is_over:
                return None
            return replace(manifest, state=SessionState.EXPIRED, reason="absolute_timeout passed")

        return self.change(step)

    def refresh(self) -> Manifest:
        """Read and return the current manifest. Raises: SessionNotFound. Store: 1 GET, usually a 304."""
        try:
            return self._latest.read().value
        except ObjectNotFound as error:
            raise self._not_found() from error

    def _decoded(self, body: bytes) -> Manifest:
        try:
            manifest = records.decode_manifest(body)
        except (RecordInvalid, VersionMismatch) as error:
            raise type(error)(f"{error}: session={self._session_id}") from error
        self._check_seal(manifest)
        return manifest

    def change(self, step: Callable[[Manifest], Manifest | None]) -> Manifest:
        """Swap in `step(manifest)`, after fresh reads until it lands, and return the manifest; unchanged if `step` returns None.

        Store: 1 swap; 1 GET and 1 swap more per lost race.
        """
        if self._latest.version is None:
            self.refresh()
        while True:
            version = self._latest.version
            assert version is not None  # noqa: S101 - once known, it is never forgotten
            changed = step(version.value)
            if changed is None:
                # The known manifest may be old: only with a fresh one is it certain that there is nothing to change.
                fresh = self.refresh()
                if fresh is version.value or step(fresh) is None:
                    return fresh
                continue
            changed = self._sealed(changed)
            body = records.encode(changed, self._clock.new_id())
            try:
                etag = self._store.swap(self._key, body, version.etag)
            except PreconditionFailed:
                self.refresh()
                continue
            except ObjectNotFound as error:
                raise self._not_found() from error
            self._latest.remember(Version(changed, etag, body), after=version)
            return changed

    def end(self, state: SessionState, reason: str, *, error: str = "") -> Manifest:
        """Move the session's state forward; return the current manifest. Harmless if the state was reached before."""

        def step(manifest: Manifest) -> Manifest | None:
            if not manifest.state.may_become(state):
                return None
            return replace(manifest, state=state, reason=reason, error=error)

        return self.change(step)

    def _sealed(self, manifest: Manifest) -> Manifest:
        return replace(manifest, seal=self._sealer.seal(*_SETTINGS, records.settings_of(manifest)))

    def _check_seal(self, manifest: Manifest) -> None:
        """Raise RecordInvalid if the settings were not sealed with the session's key.

        Guarantee: a process that has the key neither acts on such settings nor seals them with its next change.
        """
        if not self._sealer.has_key or hmac.compare_digest(manifest.seal, self._sealed(manifest).seal):
            return
        if not self._is_right_key and not self._opens(manifest.token):
            return  # no seal matches another session's key; `has_right_key` reports that
        raise RecordInvalid(
            "the session's settings have a wrong seal: a program without its key changed them: "
            f"session={self._session_id}"
        )

    def _opens(self, token: bytes) -> bool:
        try:
            self._sealer.open_sealed(*_TOKEN, token)
        except RecordInvalid:
            return False
        return True

    def _not_found(self) -> SessionNotFound:
        return SessionNotFound(
            f"no such session, or it was deleted: session={self._session_id}, store={self._store.url}; "
            f"`starburst sessions --store {shlex.quote(self._store.url)}` lists those that are there"
        )
