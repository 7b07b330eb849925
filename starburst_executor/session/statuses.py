"""Lists, reads and swaps the status objects of one session.

Guarantees: every change of a status object is a swap on the ETag that was read. An object whose body does not match its key
is refused, since seals bind outcomes to the tasks that the body names.

Assumes: every step that is passed to `update` writes an absolute target, so that applying it twice is harmless.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid, VersionMismatch
from starburst_executor.protocol.keys import SessionKeys, StatusRef
from starburst_executor.protocol.spans import encoding
from starburst_executor.protocol.spans.record import SizeClass, Status
from starburst_executor.store.base import Listed, ObjectStore, Stored
from starburst_executor.store.limiter import Urgency
from starburst_executor.store.patient import urgent

__all__ = ["ListedStatus", "SessionStatuses", "Versioned"]

# Beyond this number, the record of unreadable objects is cleared, and built up again.
_SPOILT_MOST = 10_000


class ListedStatus(NamedTuple):
    """One line of a listing of status objects: the facts that need no read.

    Guarantee: an object whose current version this process could not read is listed as all ended. So no worker waits for
    it, and no count includes its tasks as pending.

    Attributes:
        order: 0 if no task is pending, otherwise 1 plus the logarithm to base 4 of their number, rounded down.
    """

    key: str
    ref: StatusRef
    size_class: SizeClass
    etag: str
    modified_at: float
    order: int = 0

    @property
    def has_blocked(self) -> bool:
        """Whether some of its tasks wait for others while none is pending; while some are pending, a listing does not show that."""
        return self.size_class == SizeClass.BLOCKED or self.order == encoding.BLOCKED_ORDER


@dataclass(frozen=True, slots=True)
class Versioned:
    """A status object and its ETag."""

    status: Status
    etag: str


class SessionStatuses:
    """The status objects of one session. Thread-safe."""

    def __init__(self, store: ObjectStore, keys: SessionKeys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._lock = threading.Lock()  # guards: _spoilt
        self._spoilt: dict[str, str] = {}  # status objects that could not be read, with their ETags at that time

    def at(self, urgency: Urgency) -> SessionStatuses:
        """Return the same objects, for requests of that urgency."""
        view = copy(self)
        view._store = urgent(self._store, urgency)  # noqa: SLF001 - a copy of this object
        return view

    def of_epochs(self, epochs: Iterable[tuple[int, int]]) -> list[ListedStatus]:
        """List the status objects of these epochs, in submission order. Store: 1 LIST an epoch (and page)."""
        return self.parse(self.lines(epochs))

    def lines(self, epochs: Iterable[tuple[int, int]]) -> list[Listed]:
        """Return the unparsed listing of these epochs. Store: 1 LIST an epoch (and page)."""
        return [line for ordinal, number in epochs for line in self._store.list(self._keys.epoch(ordinal, number))]

    def parse(self, lines: Iterable[Listed]) -> list[ListedStatus]:
        """Return the status objects in a listing, in submission order."""
        return sorted(filter(None, map(self._parse_line, lines)), key=lambda listed: listed.ref[:2])

    def all(self) -> list[ListedStatus]:
        """List every status object of the session, in submission order. Store: 1 LIST per 1,000."""
        return self.parse(self._store.list(self._keys.statuses))

    def read(self, key: str) -> Versioned:
        """Read a status object. Raises: ObjectNotFound, RecordInvalid, VersionMismatch. Store: 1 GET."""
        return self._decoded(key, self._store.get(key))

    def read_if_changed(self, key: str, etag: str) -> Versioned | None:
        """Read a status object like `read`; None if its ETag still is `etag`. Store: 1 GET."""
        stored = self._store.get_if_changed(key, etag)
        return None if stored is None else self._decoded(key, stored)

    def swap(self, key: str, new: Status, expected: str) -> Versioned:
        """Swap a status object. Raises: PreconditionFailed, ObjectNotFound. Store: 1 swap."""
        etag = self._store.swap(key, encoding.encode(new, self._clock.new_id()), expected)
        return Versioned(new, etag)

    def update(self, key: str, step: Callable[[Status], Status]) -> Versioned | None:
        """Swap in `step(status)`, after fresh reads until it lands; return the object, or None if it is gone.

        `step` returns its argument if there is nothing to change. Store: 1 GET, 1 swap; the same per lost race.
        """
        while True:
            try:
                stored = self.read(key)
                changed = step(stored.status)
                return stored if changed is stored.status else self.swap(key, changed, stored.etag)
            except PreconditionFailed:
                continue
            except ObjectNotFound:
                return None

    def _decoded(self, key: str, stored: Stored) -> Versioned:
        try:
            decoded = encoding.decode(stored.body)
        except (RecordInvalid, VersionMismatch) as error:
            self._note_spoilt(key, stored.etag)
            raise type(error)(f"{error}: key={key}") from error
        ref = self._keys.parse_status(key)
        # Seals bind outcomes to the tasks that the body names, so a body that is stored under another object's key is refused.
        if ref is None or (decoded.ordinal, decoded.first, decoded.n_tasks) != (
            ref.ordinal,
            ref.first,
            ref.n_tasks,
        ):
            self._note_spoilt(key, stored.etag)
            raise RecordInvalid(f"a status object that does not match its key: key={key}")
        return Versioned(decoded, stored.etag)

    def _parse_line(self, line: Listed) -> ListedStatus | None:
        ref = self._keys.parse_status(line.key)
        if ref is None:
            return None
        # An object that cannot be read counts as ended, regardless of its size: clients have failed its tasks.
        remainder = line.size % 8
        spoilt_etag = self._spoilt.get(line.key)  # unlocked: one look-up; the lock keeps the size within its bound
        is_spoilt = remainder > SizeClass.BLOCKED or spoilt_etag == line.etag
        size_class = SizeClass.ALL_ENDED if is_spoilt else SizeClass(remainder)
        order = 0 if is_spoilt else line.size // 8 % 8
        return ListedStatus(line.key, ref, size_class, line.etag, line.modified_at, order)

    def _note_spoilt(self, key: str, etag: str) -> None:
        with self._lock:
            if len(self._spoilt) >= _SPOILT_MOST:
                self._spoilt.clear()
            self._spoilt[key] = etag
