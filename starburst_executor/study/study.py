"""`Study`: a campaign of stages over detached sessions, which any process can go on with.

Study(name, stages).run() ──► record in the store ──► Driver ──► session ──► workers
Study.resume(name) ─────────────────┘                              another process, tomorrow, from any folder
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starburst_executor import config, context
from starburst_executor.client.given import GivenLauncher
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import ConfigError, RecordInvalid
from starburst_executor.launch.base import Options
from starburst_executor.study.keys import STUDIES
from starburst_executor.study.stage import Stage, is_name

if TYPE_CHECKING:
    from starburst_executor.study.events import Event, Tell
    from starburst_executor.study.objects import StudyObjects
    from starburst_executor.study.opened import OpenedStudy
    from starburst_executor.study.plan import Plan
    from starburst_executor.study.record import StageRecord
    from starburst_executor.study.status import StudyStatus
    from starburst_executor.study.tables import TrialRow

# What only some methods need is imported there: `from starburst_executor import *` stays light.
__all__ = ["Study"]


class Study:
    """A campaign of stages: each is a set of trials, whose survivors feed later stages. It resumes exactly where it stopped.

    Every finished trial is durable, survivors are chosen once, and one process drives at a time; others watch, and take over if it
    dies. A second process, or a script that runs again, goes on with the study of that name.

    Args:
        name: Unique in the store: 1 to 63 of letters, digits, "_" and "-".
        stages: The stages, each depending on the one before it unless it says otherwise.
        store: URL of the store; as for `DetachedExecutor`.
        launcher: What starts the workers; as for `DetachedExecutor`.
        workers: The number of trials that run at once.
        budget_usd: Total cost in dollars at which the session ends; the study is then aborted, with everything kept.
        seed: The seed of all trials' random numbers.
        key: The key of the study and its sessions; by default derived from the user's key file.
        timings: The intervals of its sessions.
        settings: Further arguments of `DetachedExecutor`, such as `retries`, `task_timeout`, `absolute_timeout`, `max_losses`.

    Raises:
        ConfigError: a value is out of range, or the stages do not fit together; the message names every fault.

    Nothing is read or written before a method is called. Thread-safe, except that one `run` at a time drives.

    >>> from starburst_executor import Stage, Study
    >>> def measure(trial):
    ...     return {"score": trial.rng().random()}
    >>> study = Study("docs-example", [Stage("explore", measure, 8, select=("score", 3)), Stage("check", measure, 3)], workers=2)
    >>> status = study.run(progress=False)
    >>> status.state, [len(stage.survivors) for stage in status.stages]
    ('complete', [3, 3])
    >>> study.delete()
    """

    def __init__(
        self,
        name: str,
        stages: Iterable[Stage],
        *,
        store: str | None = None,
        launcher: str | Options | None = None,
        workers: int | None = None,
        budget_usd: float | None = None,
        seed: int = 0,
        key: str | bytes | SessionKey | None = None,
        timings: Timings | None = None,
        **settings: Any,
    ) -> None:
        from starburst_executor.study.opened import OpenedStudy, open_studies
        from starburst_executor.study.plan import Plan

        if type(seed) is not int:
            raise ConfigError(f"seed={seed!r}: must be a whole number")
        clock = SystemClock()
        given = GivenLauncher(launcher, clock, detached=True)
        resolved = config.resolve(
            detached=True,
            store_of=given.store_of,
            store=store,
            launcher=given.spec,
            workers=workers,
            budget_usd=budget_usd,
            **settings,
        )
        spec = given.spec
        if launcher is not None and spec is None and (opened := given.open()) is not None:
            spec = opened.spec
        kept = {"workers": resolved.workers, "launcher": spec, "budget_usd": budget_usd, **settings}
        if timings is not None:
            kept["timings"] = timings.to_record()
        self._begin(OpenedStudy(name, open_studies(resolved.store), key), Plan(stages), seed)
        self._opened.settings = {name: value for name, value in kept.items() if value is not None}

    def _begin(self, opened: OpenedStudy, plan: Plan, seed: int) -> None:
        self._opened = opened
        self._plan = plan
        self._seed = seed
        self._stop = threading.Event()

    @classmethod
    def resume(
        cls,
        name: str,
        *,
        store: str | None = None,
        key: str | bytes | SessionKey | None = None,
        budget_usd: float | None = None,
    ) -> Study:
        """Return a stored study, with its functions as they were stored last; `run` goes on with it.

        The working directory does not matter. Functions of a module are loaded from where it was, or from the store.

        Raises: StudyNotFound; RecordInvalid, VersionMismatch: it cannot be read; KeyNotFound; PayloadError: its functions cannot be
            loaded here.
        Store: 2 GETs; 1 more if the user's modules are not where they were.
        """
        from starburst_executor.study.opened import OpenedStudy, open_studies
        from starburst_executor.study.plan import Plan

        context.refuse_while_loading()
        from starburst_executor.study.definitions import load_stages

        opened = OpenedStudy(name, open_studies(store), key)
        record = opened.objects.read()
        if not record.definition:
            raise RecordInvalid(f"the study has no stored stages: study={name}; run the program that defines them")
        stages = load_stages(record.definition, opened.store, opened.objects.keys, opened.sealer(is_new=False))
        opened.settings = dict(record.settings)
        if budget_usd is not None:
            opened.settings["budget_usd"] = budget_usd
        self = cls.__new__(cls)
        self._begin(opened, Plan(stages), record.seed)
        return self

    @classmethod
    def names(cls, store: str | None = None) -> list[str]:
        """Return the names of all studies in a store. Store: 1 LIST."""
        from starburst_executor.study.opened import open_studies

        with closing(open_studies(store)) as opened:
            return [name for name in opened.list_folders(STUDIES) if is_name(name)]

    # --- running ------------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        unfinished: bool = True,
        failed: bool = False,
        restart: str | Iterable[str] = (),
        accept_changes: bool = False,
        continue_aborted: bool = False,
        wait: bool = True,
        progress: bool | Tell | None = None,
    ) -> StudyStatus:
        """Drive the study to its end, from where it stopped; return its status. A complete study is no error.

        If another process drives, this one watches, and takes over when that one dies. ^C and SIGTERM stop it: the trials that were
        submitted go on, and a later `run` collects them.

        Args:
            unfinished: Run trials without an outcome. Otherwise those of running stages count as cancelled.
            failed: Run the failed trials of running stages once more, before these are decided.
            restart: Stages to start over, with all that depend on them; their trials get new outcomes, and nothing is overwritten.
            accept_changes: Go on although the configuration or the code of a stage that has started was changed; the record says so.
            continue_aborted: Go on with an aborted study.
            wait: Wait for approvals. Otherwise return when nothing else is left to do.
            progress: True for lines on standard error, False for none, or a function that is called with each `Event`; by default
                lines.

        Raises: StudyChanged: a stage that has started was changed, and `accept_changes` is not given; the message names each.
            RecordInvalid, VersionMismatch: the record cannot be read. ConfigError: `restart` names no stage. The errors of `DetachedExecutor`.
        """
        from starburst_executor.study import transitions
        from starburst_executor.study.opened import until_sigterm

        context.refuse_while_loading()
        from starburst_executor.study.driver import RunOptions
        from starburst_executor.study.telling import Teller

        restarted = (restart,) if isinstance(restart, str) else tuple(restart)
        for name in restarted:
            if name not in self._plan:
                raise ConfigError(f"restart={name!r}: no such stage; there are {', '.join(self._plan.names)}")
        record, definition = self._opened.prepared(self._plan, self._seed, accept_changes=accept_changes)
        options = RunOptions(
            unfinished=unfinished,
            failed=failed,
            restart=restarted,
            continue_aborted=continue_aborted,
            is_changed=transitions.accepted(record, self._plan, 0.0).stages != record.stages,
            wait=wait,
        )
        self._stop.clear()
        with Teller(progress) as tell, until_sigterm(self._stop):
            self._opened.driver(self._plan, definition, options, tell, self._stop).run()
        return self.status()

    def start(self) -> StudyStatus:
        """Leave driving to the workers: the driver becomes a task of the session, which has one more slot for it. Return at once.

        Any process may call `run` meanwhile, to watch; `status` tells how far it is.

        Raises: ConfigError: the workers would not have the user's key: they are not local, or `key` was given. As for `run`.
        """
        from starburst_executor.study.starting import start_driver

        if self._opened.key is not None:
            raise ConfigError(
                "start() needs the user's key file on the workers, so it takes no key=: use run() instead"
            )
        opened = self._opened
        record, _ = opened.prepared(self._plan, self._seed, accept_changes=False)
        start_driver(opened.objects, record, opened.workers(), opened.settings)
        return self.status()

    def stop(self) -> None:
        """Let a `run` in another thread of this process return soon, as SIGTERM does."""
        self._stop.set()

    @property
    def _objects(self) -> StudyObjects:
        return self._opened.objects

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The study's name."""
        return self._objects.keys.name

    @property
    def store(self) -> str:
        """The URL of its store."""
        return self._opened.store.url

    def __repr__(self) -> str:
        return f"<Study {self.name} in {self._opened.store.url}>"

    def status(self) -> StudyStatus:
        """Return the study's state; needs no key. Raises: StudyNotFound, RecordInvalid, VersionMismatch. Store: 2 GETs."""
        from starburst_executor.study.status import status_of
        from starburst_executor.study.wheel import read_holder

        return status_of(self._objects.read(), read_holder(self._opened.store, self._objects.keys.driver))

    def table(self, stage: str) -> list[TrialRow]:
        """Return the outcomes of a decided stage's trials, by index. Raises: LookupError: it is not decided. Store: 2 GETs."""
        found = self._objects.read().stage(stage)
        if found.table is None:
            raise LookupError(f"stage {stage} is {found.state}, it has no table of trials yet: study={self.name}")
        return self._objects.read_table(found.table)

    def events(self) -> Iterator[Event]:
        """Yield what has happened so far, in the order of time: study, stages, gates, changes, and each trial of a decided stage.

        Store: 1 GET, 1 GET for each decided stage.
        """
        from starburst_executor.study.history import history_of

        record = self._objects.read()
        yield from history_of(record, lambda stage: self._objects.read_table(stage.table or ""))

    def validate(self, *, artefacts: bool = True) -> list[str]:
        """Return every fault of the stored study, in words; an empty list if there is none.

        Args:
            artefacts: Also read the artefacts of all survivors, and compare their digests.

        Raises: StudyNotFound, RecordInvalid: the record cannot be read at all; VersionMismatch.
        Store: 1 GET, 1 GET for each decided stage; 1 GET for each artefact of a survivor.
        """

        from starburst_executor.study.validation import issues_of

        def table_of(stage: StageRecord) -> list[TrialRow]:
            return self._objects.read_table(stage.table or "")

        digest_of = self._objects.digest_of if artefacts else None
        return issues_of(self._objects.read(), self._plan, table_of=table_of, digest_of=digest_of)

    # --- intervening --------------------------------------------------------------------------------------------------

    def approve(self, stage: str, *, by: str | None = None, note: str = "") -> None:
        """Let the survivors of a stage that waits at its gate go on. The driver notices at its next beat, at most 15 s later.

        Args:
            by: Who approves; this user by default.

        Raises: Unfit: it does not wait. LookupError: there is no such stage. Store: 1 GET, 1 put, 1 swap.
        """
        from starburst_executor.study import transitions
        from starburst_executor.study.record import Approval

        approval = Approval(by or _user(), note, self._opened.clock.now())
        self._objects.read()
        self._objects.change(lambda record: transitions.approved(record, None, stage, approval))

    def abort(self, reason: str = "") -> None:
        """Stop the study with everything kept; its driver cancels what no worker has claimed. Harmless twice. Store: 1 GET, 1 put, 1 swap."""
        from starburst_executor.study import transitions
        from starburst_executor.study.record import OPEN

        why = reason or f"by {_user()}"
        self._objects.read()
        self._objects.change(lambda record: transitions.aborted(record, why) if record.state == OPEN else record)

    def fork(self, stage: str, *, name: str) -> Study:
        """Return a new study that keeps everything before that stage, and runs it and what depends on it anew.

        Raises: ConfigError: there is a study of that name. LookupError: there is no such stage.
        Store: 1 GET and 1 create for the record, each table and each artefact of a survivor.
        """
        from starburst_executor.study import transitions
        from starburst_executor.study.opened import OpenedStudy

        record = self._objects.read()
        forked = transitions.forked(record, self._plan, stage, name=name, at=self._opened.clock.now())
        other = OpenedStudy(name, self._opened.store, self._opened.key)
        other.settings = dict(self._opened.settings)
        if other.objects.exists():
            raise ConfigError(f"name={name!r}: there is a study of that name: store={other.store.url}")
        self._opened.copy_to(other, forked)
        other.objects.create(transitions.defined(forked, other.define(self._plan)))
        fork = type(self).__new__(type(self))
        fork._begin(other, self._plan, self._seed)  # noqa: SLF001 - of this class
        return fork

    def replay(self, trial: str) -> dict[str, float]:
        """Run one trial again in this process, for a debugger; return its metrics. It stores nothing.

        Args:
            trial: `stage/index`.

        Raises: what the trial raises. LookupError: there is no such trial. Unfit: its inputs are not decided yet.
        """
        from starburst_executor.study.replaying import replayed

        return replayed(trial, self._objects.read(), self._plan, self._opened.store)

    def export(self, path: str | Path) -> None:
        """Write the record and the tables as readable JSON. Store: 1 GET, 1 GET a table."""
        from starburst_executor.study import exporting

        record = self._objects.read()
        digests = [digest for stage in record.stages for digest in (stage.table, stage.carried) if digest is not None]
        tables = {digest: self._objects.read_table(digest) for digest in digests}
        Path(path).write_text(exporting.to_json(record, tables), encoding="utf-8")

    @classmethod
    def import_(cls, path: str | Path, *, store: str | None = None, name: str | None = None) -> str:
        """Create a study from what `export` wrote; return its name. Its artefacts and functions are not in the file.

        Raises: ConfigError: there is a study of that name; RecordInvalid: it names the field; VersionMismatch.
        """
        from starburst_executor.study import exporting, transitions
        from starburst_executor.study.objects import StudyObjects
        from starburst_executor.study.opened import open_studies

        record, tables = exporting.from_json(Path(path).read_text(encoding="utf-8"))
        record = transitions.renamed(record, name or record.name)
        with closing(open_studies(store)) as opened:
            objects = StudyObjects(opened, record.name, SystemClock())
            if objects.exists():
                raise ConfigError(f"there is a study of that name: study={record.name}, store={opened.url}")
            for digest, rows in tables.items():
                if objects.write_table(rows[0].stage if rows else "", rows) != digest:
                    raise RecordInvalid(f"an exported study is malformed: field tables.{digest}: it has another digest")
            objects.create(record)
        return record.name

    def delete(self) -> None:
        """Delete the study and its session, with everything that they store. Raises: StudyNotFound."""
        record = self._objects.read()
        fleet = self._opened.workers().open(record.session) if record.session else None
        if fleet is not None:
            fleet.leave(deletes=True)
        self._objects.delete()

    def close(self) -> None:
        """Close the connection to the store. A second call is harmless."""
        self._opened.store.close()


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in the user database
        return "unknown"
