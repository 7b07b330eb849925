"""A study that is open in this process: its store, its key, its settings; what `Study` needs before a driver can begin."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starburst_executor import config, context
from starburst_executor.client.opening import is_embedded
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import StudyChanged, StudyNotFound
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.study import transitions
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import StudyRecord
from starburst_executor.version import __version__

if TYPE_CHECKING:
    from starburst_executor.protocol.seal import Sealer
    from starburst_executor.study.driver import Driver, RunOptions
    from starburst_executor.study.events import Tell
    from starburst_executor.study.sessions import SessionWorkers

# What only a study that runs needs is imported there: `from starburst_executor import *` stays light.
__all__ = ["OpenedStudy", "open_studies", "until_sigterm"]

_PATIENCE_S = 300.0
# A request to the embedded store costs nothing.
_EMBEDDED_S = 1.0  # between two beats, and between two looks
_EMBEDDED_LOOKS = 10


def open_studies(store: str | None) -> PatientStore:
    """Open the store of studies: the one of this URL, or the configured one."""
    url = config.resolve(detached=True, store=store).store
    return PatientStore(open_store(url), SystemClock(), patience_s=_PATIENCE_S)


class OpenedStudy:
    """One study in its store.

    Args:
        store: As `open_studies` returns it.
        key: As the user gave it.

    Attributes:
        settings: The arguments of its sessions, as plain values.
    """

    def __init__(self, name: str, store: PatientStore, key: str | bytes | SessionKey | None) -> None:
        self.clock = SystemClock()
        self.store = store
        self.key = key
        self.objects = StudyObjects(store, name, self.clock)
        self.settings: dict[str, Any] = {}

    def prepared(self, plan: Plan, seed: int, *, accept_changes: bool) -> tuple[StudyRecord, str]:
        """Store the stages, and the record if there is none; return the record and the digest of the stages.

        Raises: StudyChanged. Store: 2 creates and 1 GET; a few more for own modules.
        """
        definition = self.define(plan)
        try:
            record = self.objects.read()
        except StudyNotFound:
            fresh = transitions.begun(
                plan,
                self.objects.keys.name,
                seed=seed,
                settings=self.settings,
                at=self.clock.now(),
                library=__version__,
            )
            record = self.objects.create(transitions.defined(fresh, definition))
        if record.seed != seed:
            raise StudyChanged(
                f"the study was begun with another seed, which does not change: stored={record.seed}, now={seed}: study={record.name}"
            )
        changes = transitions.changes_of(record, plan)
        if changes and not accept_changes:
            listed = "; ".join(map(str, changes))
            raise StudyChanged(
                f"the study was changed since it ran: {listed}: study={record.name}; undo that, or go on with it by accept_changes=True "
                "(--accept-changes)"
            )
        return record, definition

    def define(self, plan: Plan) -> str:
        """Store the stages; return their digest. Harmless twice."""
        from starburst_executor.study.definitions import dump_stages

        return dump_stages(plan.stages, self.store, self.objects.keys, self.sealer(is_new=True), self.clock)

    def driver(self, plan: Plan, definition: str, options: RunOptions, tell: Tell, stop: threading.Event) -> Driver:
        """Return a driver, which begins with its `run`."""
        from starburst_executor.study.driver import Driver, Pace
        from starburst_executor.study.wheel import Wheel

        beat_s, look_s, looks = self._pace()
        wheel = Wheel(self.store, self.objects.keys.driver, self.clock, self.clock.new_id(), looks=looks)
        return Driver(
            self.objects, plan, wheel, self.workers(), self.clock,
            definition=definition, options=options, pace=Pace(beat_s, look_s), tell=tell, stop=stop, ends_session=context.current_task() is None,
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

    def copy_to(self, other: OpenedStudy, record: StudyRecord) -> None:
        """Copy what a record names, tables and survivors' artefacts, to another study. Store: 1 GET and 1 create each."""
        for stage in record.stages:
            if stage.table is not None:
                other.objects.write_table(stage.name, self.objects.read_table(stage.table))
            for digest in {digest for survivor in stage.survivors for digest in survivor.artefacts.values()}:
                other.objects.write_artefact(self.objects.read_artefact(digest))

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
