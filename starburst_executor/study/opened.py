"""A study that is open in this process: its store, its key, its settings; what `Study` needs before a driver can begin."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from starburst_executor import config, context
from starburst_executor.client.opening import is_embedded
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import (
    ConfigError,
    KeyNotFound,
    RecordInvalid,
    StarburstError,
    StudyChanged,
    VersionMismatch,
)
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import split_url
from starburst_executor.study import transitions
from starburst_executor.study.changes import changes_of
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import ABORTED, OPEN, StudyRecord
from starburst_executor.version import __version__

if TYPE_CHECKING:
    from starburst_executor.protocol.seal import Sealer
    from starburst_executor.study.driver import Driver
    from starburst_executor.study.events import Tell
    from starburst_executor.study.seals import Seals
    from starburst_executor.study.sessions import SessionWorkers

# What only a study that runs needs is imported there: `from starburst_executor import *` stays light.
__all__ = ["OpenedStudy", "open_studies", "until_sigterm"]

_log = logging.getLogger(__name__)

_PATIENCE_S = 300.0
# A request to the embedded store costs nothing.
_EMBEDDED_S = 1.0  # between two beats, and between two looks
_EMBEDDED_LOOKS = 10


def open_studies(store: str | None) -> PatientStore:
    """Open the store of studies: the one of this URL, or the configured one."""
    url = config.store_to_read(store)
    return PatientStore(open_store(url), SystemClock(), patience_s=_PATIENCE_S)


class OpenedStudy:
    """One study in its store.

    Args:
        store: As `open_studies` returns it.
        key: As the user gave it.

    Attributes:
        settings: The arguments of its sessions, as plain values: those of this process, or as they were sealed with the stages; never those of
            the record, which everyone who can write the store can change.
    """

    def __init__(self, name: str, store: PatientStore, key: str | bytes | SessionKey | None) -> None:
        self.clock = SystemClock()
        self.store = store
        self.key = key
        self.objects = StudyObjects(store, name, self.clock)
        self.settings: dict[str, Any] = {}

    def fresh(self, plan: Plan, seed: int) -> StudyRecord:
        """Store the stages; return the record of a new study with them. Store: 1 create; a few more for own modules."""
        definition = self.define(plan)
        return transitions.begun(
            plan,
            self.objects.keys.name,
            seed=seed,
            settings=self.settings,
            at=self.clock.now(),
            library=__version__,
            definition=definition,
        )

    def prepared(self, fresh: StudyRecord, plan: Plan, *, accept_changes: bool) -> StudyRecord:
        """Store this record if there is none; return the one that is there. Raises: StudyChanged. Store: 1 create, 1 GET."""
        record, seed = self.objects.create(fresh), fresh.seed
        if record.seed != seed:
            raise StudyChanged(
                f"the study was begun with another seed, which does not change: stored={record.seed}, now={seed}: study={record.name}; undo "
                "that, or give the new one another name"
            )
        changes = changes_of(record, plan)
        if changes and not accept_changes:
            listed = "; ".join(map(str, changes))
            raise StudyChanged(
                f"the study was changed since it ran: {listed}: study={record.name}; undo that, or go on with it by accept_changes=True "
                "(--accept-changes); what was decided stands until restart= (--restart STAGE) starts that stage over"
            )
        return record

    def load(self) -> Plan:
        """Load the stored stages, and the settings that count if no others were given. Raises: RecordInvalid, KeyNotFound, PayloadError, VersionMismatch. Store: 1 GET; perhaps 1 more."""
        from starburst_executor.study.definitions import load_stages

        digest = self.objects.known.definition
        if not digest:
            raise RecordInvalid(
                f"the study has no stored stages: study={self.objects.keys.name}; run the program or the file that defines them"
            )
        stages, settings = load_stages(digest, self.store, self.objects.keys, self.sealer(is_new=False))
        self.settings = {**settings, **self.settings}
        return Plan(stages)

    def define(self, plan: Plan) -> str:
        """Store the stages; return their digest. Harmless twice."""
        from starburst_executor.study.definitions import dump_stages

        sealer = self.sealer(is_new=True)
        return dump_stages(plan.stages, self.settings, self.store, self.objects.keys, sealer, self.clock)

    def driver(
        self, plan: Plan, definition: str, tell: Tell, stop: threading.Event, *, known: Collection[str] = ()
    ) -> Driver:
        """Return a new driver, which begins with its `run`.

        Args:
            known: What `digests_of` said of stages whose seals were checked.
        """
        from starburst_executor.study.driver import Driver
        from starburst_executor.study.options import Pace
        from starburst_executor.study.wheel import Wheel

        beat_s, look_s, looks = self._pace()
        wheel = Wheel(self.store, self.objects.keys.driver, self.clock, self.clock.new_id(), looks=looks)
        return Driver(
            self.objects, plan, wheel, self.workers(), self.clock,
            definition=definition, settings=self.settings, pace=Pace(beat_s, look_s), tell=tell, stop=stop, ends_session=context.current_task() is None,
            sealer=self.sealer(is_new=False), seals=self.seals(known),
        )  # fmt: skip

    def workers(self) -> SessionWorkers:
        """Return what opens this study's sessions."""
        from starburst_executor.study.sessions import SessionWorkers

        # A driver that is itself a task starts no workers: they would end with it.
        launcher = "none" if context.current_task() is not None else None
        return SessionWorkers(self.store.url, self.settings, self.clock, key=self.key, launcher=launcher)

    def sealer(self, *, is_new: bool) -> Sealer:
        """Return the sealer of its stages. Raises: KeyNotFound, ConfigError."""
        from starburst_executor.study.definitions import sealer_of

        name = self.objects.keys.name
        label = f"study-{name}"
        key = (
            config.new_session_key(label, detached=True, given=self.key)
            if is_new
            else config.find_session_key(label, self.key)
        )
        return sealer_of(name, bytes(key))

    def seals(self, known: Collection[str] = ()) -> Seals:
        """Return what seals the stages of its record, and checks them. Raises: as `sealer`."""
        from starburst_executor.study.definitions import sealer_of
        from starburst_executor.study.seals import Seals

        def of_session() -> Iterator[Sealer]:
            # A driver on AWS has no key but that of its session.
            url = self.objects.known.session
            if url:
                with suppress(KeyNotFound, ConfigError):  # a URL that is none, too
                    yield sealer_of(self.objects.keys.name, bytes(config.find_session_key(split_url(url)[1], self.key)))

        return Seals(self.sealer(is_new=False), of_session, known)

    def abort(self, reason: str) -> None:
        """Abort the study; cancel what no worker has claimed, if no driver does. `Study.abort` says the rest."""
        from starburst_executor.study.wheel import read_holder

        self.objects.read()
        record = self.objects.change(
            lambda record: transitions.aborted(record, reason) if record.state == OPEN else record
        )
        holder = read_holder(self.store, self.objects.keys.driver)
        is_driven = holder is not None and not holder.has_left and not holder.is_dead
        if record.state != ABORTED or is_driven or not record.session:
            return
        # Crash here: trials that wait run on. Every later `run` of the aborted study cancels them first.
        try:
            fleet = self.workers().open(record.session)
            if fleet is not None:
                if not fleet.over():
                    fleet.cancel()
                fleet.leave()
        except StarburstError as error:
            _log.warning("the study is aborted, and its waiting trials could not be cancelled: %s", error)

    def delete(self) -> None:
        """Delete the study and its session; one that cannot be read without its session. Raises: StudyNotFound."""
        try:
            url = self.objects.read().session
        except (RecordInvalid, VersionMismatch):
            url = ""
        fleet = self.workers().open(url) if url else None
        if fleet is not None:
            fleet.leave(deletes=True)
        self.objects.delete()

    def _pace(self) -> tuple[float, float, int]:
        timings: Mapping[str, float] | None = self.settings.get("timings")
        if timings is None and is_embedded(self.store.url):
            return _EMBEDDED_S, _EMBEDDED_S, _EMBEDDED_LOOKS
        known = Timings.remote() if timings is None else Timings.from_record(timings)
        return known.beat_s, known.look_s, known.looks_until_lost


@contextmanager
def until_sigterm(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at SIGTERM, unless the program does something else with that signal; then end as it would have ended."""
    is_free = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_free:
        yield
        return
    heard: list[int] = []

    def on_term(number: int, _frame: object) -> None:
        heard.append(number)
        stop.set()

    signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if heard:
        sys.exit(128 + heard[0])
