"""Reads and changes the objects of one session, for clients and workers, which communicate only through the store.

Guarantee: every change of the manifest or of a status object is a swap on the ETag that was read.

# Assumes: every step that is passed to `change` or `update` writes an absolute target, so that applying it twice is harmless.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgpack

from starburst_executor.clock import Clock
from starburst_executor.errors import (
    ObjectNotFound,
    PayloadError,
    PreconditionFailed,
    RecordInvalid,
    SessionNotFound,
    VersionMismatch,
)
from starburst_executor.protocol import records, status
from starburst_executor.protocol.keys import GroupRef, SessionKeys, code_digest, code_key
from starburst_executor.protocol.records import Bell, Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.status import Entry, Located, SizeClass, Status
from starburst_executor.store.base import Listed, ObjectStore

__all__ = ["Group", "SessionStore", "Versioned", "new_token"]

# Kind and label of the seal in a manifest by which a key is verified, and of the seal of the settings.
_TOKEN = ("token", "manifest")
_SETTINGS = ("settings", "manifest")


def new_token(sealer: Sealer) -> bytes:
    """Return the manifest's token, with which a client or worker detects a wrong key before it does anything else."""
    return sealer.sealed(*_TOKEN, b"")


# Beyond this number, the record of unreadable objects is cleared, and built up again.
_SPOILT_MOST = 10_000
# The number of keys in a ring: enough for every status object that one flush of a burst writes.
_KEYS_IN_BELL = 32


class Group(NamedTuple):
    """One line of a listing of status objects: the facts that need no read.

    # Guarantee: an object whose current version this process could not read is listed as all ended. So no worker waits for
    it, and no count includes its tasks as pending.
    """

    key: str
    ref: GroupRef
    size_class: SizeClass
    etag: str
    modified_at: float


@dataclass(frozen=True, slots=True)
class Versioned:
    """A status object and its ETag."""

    status: Status
    etag: str


class SessionStore:
    """Reads and swaps the objects of one session. Thread-safe; `manifest` is the newest one that was read or written."""

    def __init__(self, store: ObjectStore, session_id: str, sealer: Sealer, clock: Clock) -> None:
        self.store = store
        self.keys = SessionKeys(session_id)
        self.sealer = sealer
        self.clock = clock
        self._lock = threading.Lock()  # guards: _manifest, _manifest_etag, _unrung, _rung, _rings, _spoilt
        self._manifest: Manifest | None = None
        self._manifest_etag: str | None = None
        self._unrung: tuple[list[str], int] = ([], 0)
        self._rung = (float("-inf"), float("-inf"))  # when the last two rings began
        self._rings = False
        self._is_right_key = False  # it never becomes false again
        self._spoilt: dict[str, str] = {}  # status objects that could not be read, with their ETags at that time

    @property
    def session_id(self) -> str:
        return self.keys.session_id

    # --- the manifest -------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The newest known manifest, without a request once it has been read."""
        return self._manifest if self._manifest is not None else self.refresh()

    def create_manifest(self, manifest: Manifest) -> None:
        """Create the session. Store: 1 create."""
        manifest = self._sealed(manifest)
        etag = self.store.create(self.keys.manifest, records.encode(manifest, self.clock.new_id()))
        self._is_right_key = True
        self._remember(manifest, etag, after=None)

    def has_right_key(self) -> bool:
        """Return whether the manifest's token was sealed with this process's key."""
        is_right = self._opens(self.manifest.token)
        self._is_right_key = self._is_right_key or is_right
        return is_right

    def check_python(self) -> None:
        """Raise VersionMismatch if this process's Python cannot load pickles of this session."""
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.manifest.python != own:
            raise VersionMismatch(
                f"the session's functions were pickled by another Python: session={self.manifest.python}, here={own}; "
                f"use Python {self.manifest.python} for this"
            )

    def expire_if_due(self) -> Manifest:
        """End the session if its `absolute_timeout` has passed; return the current manifest. Store: 1 swap if it is due."""
        deadline_at = self.manifest.deadline_at
        if deadline_at is None or self.manifest.state.is_over or self.clock.now() < deadline_at:
            return self.manifest

        def step(manifest: Manifest) -> Manifest | None:
            # Extend or expire: the first to land wins, since both are swaps of the same object.
            if manifest.deadline_at is None or manifest.deadline_at > self.clock.now() or manifest.state.is_over:
                return None
            return replace(manifest, state=SessionState.EXPIRED, reason="absolute_timeout passed")

        return self.change(step)

    def refresh(self) -> Manifest:
        """Read and return the current manifest. Raises: SessionNotFound. Store: 1 GET, usually a 304."""
        with self._lock:
            known, etag = self._manifest, self._manifest_etag
        try:
            stored = self.store.get(self.keys.manifest, unless=etag)
        except ObjectNotFound as error:
            raise self._not_found() from error
        if stored is None and known is not None:
            return known
        assert stored is not None  # a 304 is only a reply to an ETag that was sent  # noqa: S101
        try:
            manifest = records.decode_manifest(stored.body)
        except (RecordInvalid, VersionMismatch) as error:
            raise type(error)(f"{error}: session={self.session_id}") from error
        self._check_seal(manifest)
        self._remember(manifest, stored.etag, after=etag)
        return manifest

    def change(self, step: Callable[[Manifest], Manifest | None]) -> Manifest:
        """Swap in `step(manifest)`, after fresh reads until it lands, and return the manifest; unchanged if `step` returns None.

        Store: 1 swap; 1 GET and 1 swap more per lost race.
        """
        manifest = self.manifest
        while True:
            with self._lock:
                manifest, etag = self._manifest or manifest, self._manifest_etag
            changed = step(manifest)
            if changed is not None:
                changed = self._sealed(changed)
            else:
                # The known manifest may be old: only with a fresh one is it certain that there is nothing to change.
                fresh = self.refresh()
                if fresh is manifest or step(fresh) is None:
                    return fresh
                continue
            try:
                new_etag = self.store.swap(self.keys.manifest, records.encode(changed, self.clock.new_id()), etag or "")
            except PreconditionFailed:
                self.refresh()
                continue
            except ObjectNotFound as error:
                raise self._not_found() from error
            self._remember(changed, new_etag, after=etag)
            return changed

    def end(self, state: SessionState, reason: str) -> Manifest:
        """Move the session's state forward; return the current manifest. Harmless if the state was reached before."""

        def step(manifest: Manifest) -> Manifest | None:
            return replace(manifest, state=state, reason=reason) if manifest.state.may_become(state) else None

        return self.change(step)

    def _sealed(self, manifest: Manifest) -> Manifest:
        return replace(manifest, seal=self.sealer.seal(*_SETTINGS, records.settings_of(manifest)))

    def _check_seal(self, manifest: Manifest) -> None:
        """Raise RecordInvalid if the settings were not sealed with the session's key.

        # Guarantee: a process that has the key neither acts on such settings nor seals them with its next change.
        """
        if not self.sealer.has_key or hmac.compare_digest(manifest.seal, self._sealed(manifest).seal):
            return
        if not self._is_right_key and not self._opens(manifest.token):
            return  # no seal matches another session's key; `has_right_key` reports that
        raise RecordInvalid(
            "the session's settings have a wrong seal: a program without its key changed them: "
            f"session={self.session_id}"
        )

    def _opens(self, token: bytes) -> bool:
        try:
            self.sealer.open_sealed(*_TOKEN, token)
        except RecordInvalid:
            return False
        return True

    def _remember(self, manifest: Manifest, etag: str, *, after: str | None) -> None:
        """Store a manifest that was read or written after the one with the ETag `after`, if that is the newest known.

        # Guarantee: the known manifest never becomes older, in whatever order the answers of several threads arrive.
        """
        with self._lock:
            if self._manifest_etag == after:
                self._manifest, self._manifest_etag = manifest, etag

    def _not_found(self) -> SessionNotFound:
        return SessionNotFound(
            f"no such session, or it was deleted: session={self.session_id}, store={self.store.url}; "
            "see DetachedExecutor.list_sessions()"
        )

    # --- status objects -----------------------------------------------------------------------------------------------

    def groups(self, epochs: Iterable[tuple[int, int]]) -> list[Group]:
        """List the status objects of these epochs, in submission order. Store: 1 LIST an epoch (and page)."""
        return self.groups_of(self.lines(epochs))

    def lines(self, epochs: Iterable[tuple[int, int]]) -> list[Listed]:
        """Return the unparsed listing of these epochs. Store: 1 LIST an epoch (and page)."""
        return [line for ordinal, number in epochs for line in self.store.list(self.keys.epoch(ordinal, number))]

    def groups_of(self, lines: Iterable[Listed]) -> list[Group]:
        """Return the status objects in a listing, in submission order."""
        return sorted(filter(None, map(self._group, lines)), key=lambda group: group.ref[:2])

    def all_groups(self) -> list[Group]:
        """List every status object of the session, in submission order. Store: 1 LIST per 1,000."""
        return self.groups_of(self.store.list(self.keys.status))

    def read(self, key: str, unless: str | None = None) -> Versioned | None:
        """Read a status object; None if its ETag still is `unless`.

        Raises: ObjectNotFound, RecordInvalid, VersionMismatch. Store: 1 GET.
        """
        stored = self.store.get(key, unless=unless)
        if stored is None:
            return None
        try:
            decoded = status.decode(stored.body)
        except (RecordInvalid, VersionMismatch) as error:
            self._note_spoilt(key, stored.etag)
            raise type(error)(f"{error}: key={key}") from error
        ref = self.keys.parse_group(key)
        # Seals bind outcomes to the tasks that the body names, so a body that is stored under another object's key is refused.
        if ref is None or (decoded.ordinal, decoded.first, len(decoded.entries)) != (
            ref.ordinal,
            ref.first,
            ref.n_tasks,
        ):
            self._note_spoilt(key, stored.etag)
            raise RecordInvalid(f"a status object that does not match its key: key={key}")
        return Versioned(decoded, stored.etag)

    def swap(self, key: str, new: Status, expected: str) -> Versioned:
        """Swap a status object. Raises: PreconditionFailed, ObjectNotFound. Store: 1 swap."""
        etag = self.store.swap(key, status.encode(new, self.clock.new_id()), expected)
        return Versioned(new, etag)

    def update(self, key: str, step: Callable[[Status], Status]) -> Versioned | None:
        """Swap in `step(status)`, after fresh reads until it lands; return the object, or None if it is gone.

        `step` returns its argument if there is nothing to change. Store: 1 GET, 1 swap; the same per lost race.
        """
        while True:
            try:
                stored = self.read(key)
                assert stored is not None  # no ETag was sent  # noqa: S101
                changed = step(stored.status)
                return stored if changed is stored.status else self.swap(key, changed, stored.etag)
            except PreconditionFailed:
                continue
            except ObjectNotFound:
                return None

    def _group(self, line: Listed) -> Group | None:
        ref = self.keys.parse_group(line.key)
        if ref is None:
            return None
        # An object that cannot be read counts as ended, regardless of its size: clients have failed its tasks.
        remainder = line.size % 8
        is_spoilt = remainder > SizeClass.ALL_ENDED or self._spoilt.get(line.key) == line.etag
        size_class = SizeClass.ALL_ENDED if is_spoilt else SizeClass(remainder)
        return Group(line.key, ref, size_class, line.etag, line.modified_at)

    def _note_spoilt(self, key: str, etag: str) -> None:
        with self._lock:
            if len(self._spoilt) >= _SPOILT_MOST:
                self._spoilt = {}
            self._spoilt[key] = etag

    # --- payloads -----------------------------------------------------------------------------------------------------

    def function(self, digest: str) -> bytes:
        """Read a stored function and verify its seal. Raises: PayloadError, RecordInvalid. Store: 1 GET."""
        body = self._payload(self.keys.function(digest), f"function {digest}")
        return bytes(self.sealer.open_sealed("function", digest, body))

    def initializer(self, digest: str) -> bytes:
        """Read an initializer like `function`. Its seal has its own kind, so that a task's function does not pass as one."""
        body = self._payload(self.keys.function(digest), f"initializer {digest}")
        return bytes(self.sealer.open_sealed("initializer", digest, body))

    def calls(self, group_id: str, start: int, length: int) -> bytes:
        """Read bytes of the calls of a status object that were too big to inline, unverified. Raises: PayloadError. Store: 1 GET."""
        return self._payload(self.keys.calls(group_id), "big calls", start, length)

    def code(self, name: str) -> bytes:
        """Read the zip of the user's own modules that a function names, and verify its digest. Store: 1 GET.

        The zip has no seal, since sessions share it; its digest is part of the function's record, which has one.

        Raises: PayloadError, RecordInvalid.
        """
        body = self._payload(code_key(name), "the modules that a function needs")
        if hashlib.sha256(body).hexdigest() != code_digest(name):
            raise RecordInvalid(f"code does not match its digest and was not run: key={code_key(name)}")
        return body

    def outcome(self, group_id: str, body: bytes | Located, label: str) -> memoryview:
        """Read an outcome and verify its seal. Store: 1 GET if it was too big to inline."""
        if isinstance(body, Located):
            key = self.keys.outcomes(group_id, body.part)
            body = self._payload(key, f"outcome {label}", body.start, body.length)
        return self.sealer.open_sealed("outcome", label, body)

    def output(self, group_id: str, entry: Entry) -> tuple[str, str]:
        """Read the captured stdout and stderr of a task that has ended. Store: 1 GET, or none if it printed nothing."""
        if entry.log is None:
            return "", ""
        key = self.keys.logs(group_id, entry.log.part)
        body = self._payload(key, "captured output", entry.log.start, entry.log.length)
        try:
            stdout, stderr = msgpack.unpackb(body)
            return stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise RecordInvalid(f"captured output that cannot be read: key={key}") from error

    def _payload(self, key: str, what: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            stored = self.store.get(key, start=start, length=length)
        except ObjectNotFound as error:
            raise PayloadError(
                f"a stored payload is missing: {what}, key={key}; was the session cleaned up?"
            ) from error
        assert stored is not None  # no ETag was sent  # noqa: S101
        return stored.body

    # --- the bell -----------------------------------------------------------------------------------------------------

    def ring(self, keys: Sequence[str], n_tasks: int) -> None:
        """Wake idle workers for these status objects, with at most two rings in `2 * ring_gap_s`; further keys are collected.

        Keys that are collected while the first ring of a burst is written are rung directly after it. Call `ring_due` until
        it returns None, to ring for keys that are collected later. Store: 0 or 1 PUT; 2 if other threads added keys meanwhile.
        """
        with self._lock:
            gathered, n_before = self._unrung
            gathered.extend(keys)
            self._unrung = (gathered[-_KEYS_IN_BELL:], n_before + n_tasks)
        self.ring_due()

    def ring_due(self) -> float | None:
        """Ring for the collected keys if a ring is permitted now; otherwise return in how many seconds it will be.

        Returns None if no keys are collected, or if another thread is ringing, which then rings for the collected keys too.
        """
        while True:
            now = self.clock.monotonic()
            with self._lock:
                keys, n_tasks = self._unrung
                if self._rings or not (keys or n_tasks):
                    return None
                gap_s = self._manifest.timings.ring_gap_s if self._manifest else 0.0
                wait_s = self._rung[0] + 2 * gap_s - now
                if wait_s > 0:
                    return wait_s
                self._unrung = ([], 0)
                self._rung = (self._rung[1], now)
                self._rings = True
            try:
                self.store.put(self.keys.bell, records.encode(Bell(tuple(keys), n_tasks), self.clock.new_id()))
            finally:
                with self._lock:
                    self._rings = False

    def read_bell(self, unless: str | None) -> tuple[Bell, str] | None:
        """Read the bell and its ETag; None if it has not been rung since. Store: 1 GET, usually a 304."""
        try:
            stored = self.store.get(self.keys.bell, unless=unless)
        except ObjectNotFound:
            return None
        if stored is None:
            return None
        try:
            return records.decode_bell(stored.body), stored.etag
        except (RecordInvalid, VersionMismatch):
            # The bell is only a hint: an unreadable one still makes the worker look.
            return Bell(), stored.etag
