"""The simulated store: objects in a dictionary, reached through lines on which every kind of fault occurs.

    strand ──request──► (latency) ──► effect, by the hub ──► (latency) ──► answer
               │                        │                                   └─ lost, or after its sender counts as lost
               └─ crash, 503, cut off   └─ perhaps much later, though its process is dead by then

The effect is a separate event, so a process may be killed, stopped or asked to end while its request is in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from starburst_executor.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.limiter import Limiter
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.scheduler import Killed, Process, Scheduler, Strand, current_strand
from starburst_executor.testing.simulation.weather import CALM, Trouble, Weather

__all__ = ["Kept", "Line", "Vault"]

_T = TypeVar("_T")
_WRITES = frozenset({"create", "swap", "put", "delete"})
# Crash, loss and the other faults, in this order, compared with one random number.
_OF_REQUESTS = (
    ("crash_before", Trouble.CRASH_BEFORE),
    ("crash_after", Trouble.CRASH_AFTER),
    ("lost", Trouble.LOST),
    ("refused", Trouble.REFUSED),
    ("error_after", Trouble.ERROR_AFTER),
    ("late", Trouble.LATE),
    ("slow", Trouble.SLOW),
    ("stuck", Trouble.STUCK),
)


class Kept(NamedTuple):
    """One object."""

    body: bytes
    etag: str
    modified_at: float


class _Failure(NamedTuple):
    error: Exception


Wrote = Callable[[str, "Kept | None", "Kept | None", Process], None]
Log = Callable[[str, str], None]


class Vault:
    """All objects, and the faults of requests to them.

    It has more than fifteen attributes because each kind of fault has its state here, between the requests that it spoils.

    Args:
        lost_s: The time that a `SLOW` request exceeds.
        wrote: Called with every change: key, before, after, process.
        was_read: Called with every object that is read: key, object, process.
        log: Called with process and event, for the history.
        trouble: Called with each injected fault.
        asks: Called with the process and the name of the strand of each request.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        lots: Lots,
        *,
        url: str,
        lost_s: float,
        latency_s: float,
        wrote: Wrote,
        was_read: Callable[[str, Kept, Process], None],
        log: Log,
        trouble: Callable[[Trouble, Process | None], None],
        asks: Callable[[Process, str], None] = lambda *_: None,
    ) -> None:
        self.scheduler = scheduler
        self.lots = lots
        self.url = url
        self.lost_s = lost_s
        self.latency_s = latency_s
        self.weather: Weather = CALM
        self.away_until = float("-inf")
        self.objects: dict[str, Kept] = {}
        self.n_requests = 0
        self.landed_late: set[str] = set()
        self._n_etags = 0
        self._wrote = wrote
        self.was_read = was_read
        self._log = log
        self._trouble = trouble
        self._asks = asks

    def _draw(self, kind: str) -> Trouble | None:
        """Draw the fault of one request, if any."""
        weather = self.weather
        if weather is CALM:
            return None
        if kind == "put" and weather.no_bell and self.lots.random() < weather.no_bell:
            return Trouble.NO_BELL
        draw = self.lots.random()
        for name, trouble in _OF_REQUESTS:
            draw -= getattr(weather, name)
            if draw < 0:
                return trouble if trouble is not Trouble.LATE or kind in _WRITES else Trouble.REFUSED
        return None

    def ask(self, kind: str, key: str, effect: Callable[[Process], _T]) -> _T:
        """Make one request for the running strand."""
        strand = current_strand()
        process, lots, scheduler = strand.process, self.lots, self.scheduler
        if not process.is_alive:
            raise Killed
        self._asks(process, strand.name)
        self.n_requests += 1
        process.n_requests += 1
        if scheduler.now < self.away_until or scheduler.now < process.cut_off_until:
            process.was_disturbed_at = scheduler.now
            self._log(process.name, f"{kind} {key}: no connection")
            strand.sleep(self.latency_s * (1 + 20 * lots.random()))
            raise StoreUnavailable(f"no connection: {kind} {key}")
        if self.weather.busy and lots.chance(self.weather.busy):
            self._trouble(Trouble.BUSY, process)
            self._log(process.name, f"{kind} {key}: {Trouble.BUSY.value}")
            strand.sleep(self.latency_s)
            raise StoreUnavailable(Trouble.BUSY.value, is_busy=True)
        trouble = self._draw(kind)
        out_s, back_s = (self.latency_s * (0.2 + lots.random()) for _ in range(2))
        if trouble is not None:
            self._trouble(trouble, process)
        if trouble is Trouble.CRASH_BEFORE:
            self._log(process.name, f"{kind} {key}: crashes before it")
            process.kill("crashed at the store")
            raise Killed
        if trouble is Trouble.NO_BELL:
            self._log(process.name, f"{kind} {key}: the bell is lost")
            strand.sleep(out_s + back_s)
            return self._new_etag()  # type: ignore[return-value]  # a put returns an ETag
        token = strand.arm()
        if trouble is Trouble.REFUSED:
            self._log(process.name, f"{kind} {key}: {trouble.value}")
            scheduler.at(out_s, partial(strand.resume, token, _Failure(StoreUnavailable(trouble.value))))
        elif trouble is Trouble.LATE:
            self._log(process.name, f"{kind} {key}: {trouble.value}")
            scheduler.at(
                0.2 + 3 * lots.random(), partial(strand.resume, token, _Failure(StoreUnavailable("timed out")))
            )
            late_s = 2.5 * self.lost_s * lots.random() ** 2
            scheduler.at(late_s, partial(self._land_late, process, kind, key, effect))
        else:
            if trouble is Trouble.STUCK:
                out_s = self.lost_s * (0.5 + lots.random())
            scheduler.at(out_s, partial(self._arrive, strand, token, kind, key, effect, trouble, back_s))
        answer = strand.suspend()
        if type(answer) is _Failure:
            # A new one each time: a shared exception would keep the tracebacks of all uses.
            raise answer.error
        return answer  # type: ignore[no-any-return]  # what `effect` has returned

    def _arrive(
        self,
        strand: Strand,
        token: int,
        kind: str,
        key: str,
        effect: Callable[[Process], Any],
        trouble: Trouble | None,
        back_s: float,
    ) -> None:
        process = strand.process
        if not process.is_alive and self.lots.chance(0.5):
            return
        answer: Any
        try:
            answer = effect(process)
        except (ObjectNotFound, PreconditionFailed) as refusal:
            answer = _Failure(refusal)
            words = type(refusal).__name__
        else:
            words = "304" if answer is None and kind == "get" else "ok"
        self._log(process.name, f"{kind} {key}: {words}{'' if trouble is None else ', ' + trouble.value}")
        if trouble is Trouble.CRASH_AFTER:
            process.kill("crashed at the store")
            return
        if trouble is Trouble.LOST:
            back_s, answer = 0.2 + 3 * self.lots.random(), _Failure(StoreUnavailable("timed out"))
        elif trouble is Trouble.ERROR_AFTER:
            answer = _Failure(StoreUnavailable(trouble.value))
        elif trouble in (Trouble.SLOW, Trouble.STUCK):
            process.was_disturbed_at = self.scheduler.now
            if trouble is Trouble.SLOW:
                back_s = self.lost_s * (0.5 + self.lots.random())
        self.scheduler.at(back_s, partial(strand.resume, token, answer))

    def _land_late(self, process: Process, kind: str, key: str, effect: Callable[[Process], Any]) -> None:
        try:
            effect(process)
        except (ObjectNotFound, PreconditionFailed):
            self._log(process.name, f"{kind} {key}: late, refused")
        else:
            self.landed_late.add(key)
            self._log(process.name, f"{kind} {key}: late, landed")

    # --- effects ------------------------------------------------------------------------------------------------------

    def write(self, key: str, body: bytes, process: Process) -> str:
        before = self.objects.get(key)
        after = Kept(body, self._new_etag(), self.scheduler.now)
        self.objects[key] = after
        self._wrote(key, before, after, process)
        return after.etag

    def remove(self, key: str, process: Process) -> None:
        before = self.objects.pop(key, None)
        if before is not None:
            self._wrote(key, before, None, process)

    def found(self, key: str) -> Kept:
        kept = self.objects.get(key)
        if kept is None:
            raise ObjectNotFound(f"no such object: {key}")
        return kept

    def _new_etag(self) -> str:
        self._n_etags += 1
        return f"e{self._n_etags}"


class Line:
    """One process's connection to the vault: an `ObjectStore`."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.limiter = Limiter()

    @property
    def url(self) -> str:
        return self._vault.url

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        return self._vault.ask("get", key, lambda process: self._read(process, key, start, length))

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        def effect(process: Process) -> Stored | None:
            stored = self._read(process, key, start, length)
            return None if stored.etag == etag else stored

        return self._vault.ask("get", key, effect)

    def create(self, key: str, body: Body) -> str:
        fixed = bytes(body)

        def effect(process: Process) -> str:
            if key in self._vault.objects:
                raise PreconditionFailed(f"there is an object already: {key}")
            return self._vault.write(key, fixed, process)

        return self._vault.ask("create", key, effect)

    def swap(self, key: str, body: Body, expected: str) -> str:
        fixed = bytes(body)

        def effect(process: Process) -> str:
            if self._vault.found(key).etag != expected:
                raise PreconditionFailed(f"another writer was first: {key}")
            return self._vault.write(key, fixed, process)

        return self._vault.ask("swap", key, effect)

    def put(self, key: str, body: Body) -> str:
        fixed = bytes(body)
        return self._vault.ask("put", key, lambda process: self._vault.write(key, fixed, process))

    def list_folders(self, prefix: str) -> list[str]:
        def effect(_: Process) -> list[str]:
            rests = [key[len(prefix) :] for key in self._vault.objects if key.startswith(prefix)]
            return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

        return self._vault.ask("list_folders", prefix, effect)

    def list(self, prefix: str) -> list[Listed]:
        def effect(process: Process) -> list[Listed]:
            found = [(key, kept) for key, kept in self._vault.objects.items() if key.startswith(prefix)]
            for key, kept in found:
                etag, n = process.listed.get(key, ("", 0))
                process.listed[key] = (kept.etag, n + 1 if etag == kept.etag else 1)
            return sorted(Listed(key, len(kept.body), kept.etag, kept.modified_at) for key, kept in found)

        return self._vault.ask("list", prefix, effect)

    def delete(self, keys: Iterable[str]) -> None:
        named = [*keys]

        def effect(process: Process) -> None:
            for key in named:
                self._vault.remove(key, process)

        self._vault.ask("delete", named[0] if named else "", effect)

    def close(self) -> None:
        """Do nothing."""

    def _read(self, process: Process, key: str, start: int, length: int | None) -> Stored:
        kept = self._vault.found(key)
        self._vault.was_read(key, kept, process)
        process.read[key] = kept.etag
        return Stored(kept.body[start : None if length is None else start + length], kept.etag)
