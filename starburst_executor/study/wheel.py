"""The wheel of a study: one object by which its processes agree on who drives. No clock is compared.

    holder      create or swap, then a swap at every beat            its swap is refused: it is no holder any more
    others      a look at every interval: has the ETag changed?      not over `looks_until_lost` looks: swap on that ETag

Guarantee: of two processes that take the wheel at once, one does: both swap on the same ETag. A holder that left, or whose process
is known to have died because it was on this machine, is replaced at once. The wheel spares work; a decision is guarded by
the swap of the record (`transitions.driven_by`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from starburst_executor.clock import Clock
from starburst_executor.errors import AccessDenied, ObjectNotFound, PreconditionFailed, StoreUnavailable
from starburst_executor.launch.local.processes import has_ended, identity
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.latest import Latest

__all__ = ["Beating", "Holder", "Wheel", "read_holder"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """The content of the wheel.

    Attributes:
        driver: The id of the driver that holds it.
        number: Counts its beats.
        has_left: Whether it left: anyone may take the wheel.
        process: The identity of its process, as `launch.local.processes.identity` gives it.
        progress: Ended trials of the running stages: completed, failed and cancelled, by stage.
    """

    driver: str
    number: int = 0
    has_left: bool = False
    process: str = ""
    progress: Mapping[str, tuple[int, int, int]] | None = None

    @property
    def is_dead(self) -> bool:
        """Whether it was a process of this machine, and that process is gone."""
        return has_ended(self.process) is True


class Wheel:
    """The wheel as one process sees it. Not thread-safe, except for `is_mine` and `progress`.

    Args:
        driver: The id of this process's driver.
        looks: After this number of looks without a change the holder counts as lost.
    """

    def __init__(self, store: ObjectStore, key: str, clock: Clock, driver: str, *, looks: int) -> None:
        self.driver = driver
        self.progress: dict[str, tuple[int, int, int]] = {}
        self.is_mine = False
        self._store = store
        self._key = key
        self._clock = clock
        self._looks = looks
        self._latest = Latest(store, key, _decoded)
        self._etag = ""  # of this process's last beat, while the wheel is its own
        self._number = 0
        self._silent = 0
        self._process = identity()

    @property
    def holder(self) -> Holder | None:
        """The holder at the last look; None if there was no wheel."""
        return self._latest.value

    def create(self) -> bool:
        """Take the wheel of a study that no process has ever driven; return whether that is so. Store: 1 create."""
        self._number += 1
        try:
            self._etag = self._store.create(self._key, self._body())
        except PreconditionFailed:
            return False
        self.is_mine = True
        return True

    def take(self) -> bool:
        """Look once, and take the wheel if it is free; return whether it is this process's. Store: 1 GET, 1 create or swap."""
        if self.is_mine:
            return True
        self._look()
        if not self._is_free():
            return False
        self._number += 1
        try:
            if (seen := self._latest.version) is None:
                self._etag = self._store.create(self._key, self._body())
            else:
                # Until this driver has counted itself, people see what the one before has counted.
                self.progress = dict(seen.value.progress or {})
                self._etag = self._store.swap(self._key, self._body(), seen.etag)
        except (PreconditionFailed, ObjectNotFound):
            return False
        self.is_mine = True
        return True

    def beat(self) -> bool:
        """Beat once; return whether the wheel is still this process's. Store: 1 swap."""
        if not self.is_mine:
            return False
        self._number += 1
        try:
            self._etag = self._store.swap(self._key, self._body(), self._etag)
        except (PreconditionFailed, ObjectNotFound):
            self.is_mine = False
        return self.is_mine

    def leave(self) -> None:
        """Give the wheel up, if it is this process's. Store: 1 swap."""
        if self.is_mine:
            self.is_mine = False
            self._number += 1
            try:
                self._store.swap(self._key, self._body(has_left=True), self._etag)
            except (PreconditionFailed, ObjectNotFound):
                _log.debug("the wheel was taken by another driver meanwhile: key=%s", self._key)

    def _look(self) -> None:
        before = self._latest.version
        try:
            is_silent = self._latest.read() is before
        except ObjectNotFound:
            self._latest.forget()
            is_silent = False
        self._silent = self._silent + 1 if is_silent else 0

    def _is_free(self) -> bool:
        holder = self.holder
        return holder is None or holder.has_left or holder.is_dead or self._silent >= self._looks

    def _body(self, *, has_left: bool = False) -> bytes:
        body: bytes = msgpack.packb(
            {
                "driver": self.driver,
                "number": self._number,
                "has_left": has_left,
                "process": self._process,
                "progress": dict(self.progress),
                "nonce": self._clock.new_id(),
            },
            unicode_errors="surrogateescape",
        )
        return body


def read_holder(store: ObjectStore, key: str) -> Holder | None:
    """Read a wheel without taking part in it; None if there is none. Store: 1 GET."""
    try:
        return _decoded(store.get(key).body)
    except ObjectNotFound:
        return None


def _decoded(body: bytes) -> Holder:
    # A wheel that cannot be read is held by a driver that will be judged by its silence.
    try:
        whole: dict[str, Any] = msgpack.unpackb(body, use_list=False, unicode_errors="surrogateescape")
        return Holder(**{name: whole[name] for name in Holder.__dataclass_fields__})
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return Holder("")


class Beating:
    """A thread that beats for a wheel, so that long work of the driver does not make it seem lost."""

    def __init__(self, wheel: Wheel, clock: Clock, *, beat_s: float) -> None:
        self._wheel = wheel
        self._clock = clock
        self._beat_s = beat_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="starburst-study", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._clock.wait(self._stop, self._beat_s):
            try:
                if not self._wheel.beat():
                    return
            except (StoreUnavailable, AccessDenied) as error:
                _log.warning("a beat of the study's driver failed: %s", error)

    def end(self) -> None:
        """Stop beating, and give the wheel up. A second call is harmless."""
        self._stop.set()
        self._thread.join()
