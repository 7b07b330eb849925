"""`Study`: a campaign of stages over detached sessions, which any process can go on with.

Study(name, stages).run() ──► record in the store ──► Driver ──► session ──► workers
Study.resume(name) ─────────────────┘                              another process, tomorrow, from any folder
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starburst_executor import config, context
from starburst_executor.client.given import GivenLauncher
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import ConfigError, RecordInvalid, StarburstError
from starburst_executor.launch.base import Options
from starburst_executor.study.artefacts import KEEP_ALL, keep_of
from starburst_executor.study.compared import ComparedStudy
from starburst_executor.study.keys import STUDIES
from starburst_executor.study.stage import Stage, is_name

if TYPE_CHECKING:
    from starburst_executor.study.events import Tell
    from starburst_executor.study.opened import OpenedStudy
    from starburst_executor.study.plan import Plan
    from starburst_executor.study.record import StageRecord
    from starburst_executor.study.status import StudyStatus
    from starburst_executor.study.tables import TrialRow

# What only some methods need is imported there: `from starburst_executor import *` stays light.
__all__ = ["Study"]


class Study(ComparedStudy):
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
        keep: Whose artefacts stay when the study ends, of stages that do not say: `all`, `survivors` or `none`. Those of a baseline always stay.
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
        keep: str = KEEP_ALL,
        key: str | bytes | SessionKey | None = None,
        timings: Timings | None = None,
        **settings: Any,
    ) -> None:
        from starburst_executor.study.opened import OpenedStudy, open_studies
        from starburst_executor.study.plan import Plan

        if type(seed) is not int or not -(2**63) <= seed < 2**64:  # what a record holds
            raise ConfigError(f"seed={seed!r}: must be a whole number, -2**63 up to 2**64 - 1")
        written: object = stages
        every_stage: tuple[Any, ...] = tuple(written) if isinstance(written, Iterable) else (written,)
        for stage in every_stage:
            if not isinstance(stage, Stage):
                raise ConfigError(f"stages: {stage!r} is none: must be a list of Stage(…)")
        keep = keep_of(keep) or KEEP_ALL
        kept_stages = [stage.keeping(keep) for stage in every_stage]
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
        self._begin(OpenedStudy(name, open_studies(resolved.store), key), Plan(kept_stages), seed)
        self._opened.settings = {name: value for name, value in kept.items() if value is not None}

    def _begin(self, opened: OpenedStudy, plan: Plan | None, seed: int) -> None:
        self._opened = opened
        self._known_plan = plan
        self._seed = seed
        self._stop = threading.Event()

    @property
    def _plan(self) -> Plan:
        if self._known_plan is None:
            self._known_plan = self._opened.load()
        return self._known_plan

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

        The working directory does not matter. Functions of a module are loaded from where it was, or from the store. They are loaded when
        they are needed: to run, fork or replay. What only looks at a study, approves or aborts it needs neither them nor the key.

        Raises: StudyNotFound; RecordInvalid, VersionMismatch: it cannot be read. When its functions are needed: KeyNotFound; PayloadError:
            they cannot be loaded here; RecordInvalid: they are not in the store.
        Store: 1 GET; for the functions 1 GET, and 1 more if the user's modules are not where they were.
        """
        from starburst_executor.study.opened import OpenedStudy, open_studies

        context.refuse_while_loading()
        opened = OpenedStudy(name, open_studies(store), key)
        record = opened.objects.read()
        if budget_usd is not None:
            config.resolve(detached=True, store=opened.store.url, budget_usd=budget_usd)  # whether it is one
            opened.settings["budget_usd"] = budget_usd
        self = cls.__new__(cls)
        self._begin(opened, None, record.seed)
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
        from starburst_executor.study.options import RunOptions
        from starburst_executor.study.record import COMPLETE
        from starburst_executor.study.status import status_of
        from starburst_executor.study.telling import Teller

        restarted = (restart,) if isinstance(restart, str) else tuple(restart)
        for name in restarted:
            if name not in self._plan:
                raise ConfigError(f"restart={name!r}: no such stage; there are {', '.join(self._plan.names)}")
        opened = self._opened
        fresh = opened.fresh(self._plan, self._seed)
        self._stop.clear()
        with Teller(progress) as tell, until_sigterm(self._stop):
            driver = opened.driver(self._plan, fresh.definition, tell, self._stop)
            record = driver.create(fresh) or opened.prepared(fresh, self._plan, accept_changes=accept_changes)
            options = RunOptions(
                unfinished=unfinished,
                failed=failed,
                restart=restarted,
                continue_aborted=continue_aborted,
                is_changed=transitions.accepted(record, self._plan, 0.0).stages != record.stages,
                wait=wait,
            )
            record = driver.run(options)
        return status_of(record, None) if record.state == COMPLETE else self.status()

    def start(self) -> StudyStatus:
        """Leave driving to the workers: the driver becomes a task of the session, which has one more slot for it. Return at once.

        Any process may call `run` meanwhile, to watch; `status` tells how far it is.

        Local workers find the session's key in the user's key file, those on AWS through their role.

        Raises: ConfigError: the workers would find no key: those of another launcher, or local ones of a study with `key`. As for `run`.
        """
        from starburst_executor.study.starting import check_workers, start_driver

        opened = self._opened
        check_workers(opened.settings, self._plan, has_key=opened.key is not None)
        fresh = opened.fresh(self._plan, self._seed)
        record = opened.prepared(fresh, self._plan, accept_changes=False)
        start_driver(
            opened.objects, self._plan, record, fresh.definition, opened.workers(), opened.settings, opened.seals()
        )
        return self.status()

    def stop(self) -> None:
        """Let a `run` in another thread of this process return soon, as SIGTERM does."""
        self._stop.set()

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

        digest_of = self._objects.artefacts.digest_of if artefacts else None
        record = self._objects.read()
        try:
            plan, unloaded = self._plan, []
        except StarburstError as error:
            plan, unloaded = None, [f"its stages cannot be loaded here: {error}"]
        return unloaded + issues_of(record, plan, table_of=table_of, digest_of=digest_of)

    def fork(self, stage: str, *, name: str) -> Study:
        """Return a new study that keeps everything before that stage, and runs it and what depends on it anew.

        Raises: ConfigError: there is a study of that name. LookupError: there is no such stage.
        Store: 1 GET and 1 create for the record, each table and each artefact of a survivor.
        """
        from starburst_executor.study.copies import forked

        fork = type(self).__new__(type(self))
        fork._begin(forked(self._opened, self._plan, stage, name), self._plan, self._seed)  # noqa: SLF001 - of this class
        return fork

    def replay(self, trial: str) -> dict[str, float]:
        """Run one trial again in this process, for a debugger; return its metrics. It stores nothing.

        Args:
            trial: `stage/index`.

        Raises: what the trial raises. LookupError: there is no such trial. Unfit: its inputs are not decided yet.
        """
        from starburst_executor.study.replaying import replayed

        return replayed(
            trial,
            self._objects.read(),
            self._plan,
            self._opened.store,
            lambda: self._opened.sealer(is_new=False),
            self._opened.seals,
        )

    @classmethod
    def import_(
        cls, path: str | Path, *, store: str | None = None, name: str | None = None, replace: bool = False
    ) -> str:
        """Create a study from what `export` wrote; return its name.

        Artefacts and functions are not in the file: the program or the file that defines the stages goes on with the study, and `validate`
        lists the artefacts of survivors that are missing. Trials without an outcome run in a new session.

        A search goes on where it was: its log is sealed, so under another name that needs this user's key of the exported study.

        Args:
            name: The name of the new study; that of the exported one if not given.
            replace: Put it in the place of a study of that name whose record cannot be read any more, if there is one; that one's session goes on.

        Raises: ConfigError: there is a study of that name, or with `replace` one that can be read; RecordInvalid: it names the field, or a log
            was sealed with another key; KeyNotFound: this user has none;
            VersionMismatch.
        """
        from starburst_executor.study.copies import imported
        from starburst_executor.study.opened import open_studies

        with closing(open_studies(store)) as opened:
            try:
                text = Path(path).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise RecordInvalid(f"not an exported study: {path}: {error}") from error
            return imported(text, opened, name, replaces=replace).name
