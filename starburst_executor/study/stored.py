"""A study as it is stored: what looks at it, and what people do to it, from any process. It loads no function; only `abort` and `delete` may need the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starburst_executor.report.study.report import StudyReport
    from starburst_executor.study.events import Event
    from starburst_executor.study.fetching import Cleaned, TrialArtefact
    from starburst_executor.study.objects import StudyObjects
    from starburst_executor.study.opened import OpenedStudy
    from starburst_executor.study.status import StudyStatus
    from starburst_executor.study.tables import TrialRow

# What only some methods need is imported there: `from starburst_executor import *` stays light.
__all__ = ["StoredStudy"]


class StoredStudy:
    """The part of `Study` that needs nothing but its store."""

    _opened: OpenedStudy

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

    def artefacts(self) -> list[TrialArtefact]:
        """Return what the trials of decided stages saved, by stage, index and name. Store: 1 GET, 1 GET for each decided stage."""
        from starburst_executor.study.fetching import artefacts_of

        return artefacts_of(self._objects, self._objects.read())

    def fetch(self, folder: str | Path, *trials: str, name: str | None = None, survivors: bool = False) -> list[Path]:
        """Write artefacts as files `folder/stage/index/name`; return their paths. Files that are there already are not fetched again.

        Args:
            trials: Names of trials or stages; all if none is given.
            name: A shell pattern of names, such as `*.png`.
            survivors: Only those of trials that were selected.

        Raises: LookupError: there is no such trial or stage. RecordInvalid: an artefact is missing or has been changed.
        Store: as `artefacts`, and at least 1 GET for each artefact; 1 more for each 8 MiB of a big one.
        """
        from starburst_executor.study.fetching import artefacts_of, check_trials, chosen_of, fetch

        record = self._objects.read()
        check_trials(record, trials)
        chosen = chosen_of(artefacts_of(self._objects, record), trials=trials, name=name, survivors=survivors)
        return [path for _, path in fetch(self._objects, chosen, Path(folder))]

    def report(self) -> StudyReport:
        """Return a report: funnel, metrics, parameters, Pareto front, learning curves, failures, time, cost, the winner's lineage.

        Its `save` writes a page (`.html`), the numbers (`.json`), or figures with their data (`.png`, `.svg`, `.pdf`). Needs no key; figures need the
        extra `report`. Store: 2 GETs, 1 GET for each decided stage; 2 and 1 for each worker for the cost.
        """
        from starburst_executor.report.study.report import StudyReport

        return StudyReport.of(self._objects, self._opened.clock)

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
        """Stop the study with everything kept. Its driver cancels the trials that no worker has claimed; without one, this process does.

        Harmless twice. Store: 2 GETs, 1 put, 1 swap; without a driver the requests of attaching to the session and cancelling.
        """
        self._opened.abort(reason or f"by {_user()}")

    def export(self, path: str | Path) -> None:
        """Write record, tables and logs of searches as JSON, without artefacts and functions. Store: 1 GET, 1 GET a table; 1 LIST a search, 1 GET an entry."""
        from starburst_executor.study.copies import exported

        Path(path).write_text(exported(self._objects, self._objects.read()), encoding="utf-8")

    def clean_artefacts(self, *, keep: str = "survivors") -> Cleaned:
        """Remove artefacts that are not needed any more, and those that no outcome names; return what was removed.

        Args:
            keep: `all` (removes only what no outcome names), `survivors` or `none`. Artefacts of baselines are kept in any case.

        Raises: ConfigError: no such policy, or a stage is running. Store: as `artefacts`, 2 LISTs, 1 delete per 1,000 objects.
        """
        from starburst_executor.study.fetching import clean

        return clean(self._objects, self._objects.read(), keep)

    def delete(self) -> None:
        """Delete the study and its session, with everything that they store; a study that cannot be read without its session.

        Raises: StudyNotFound.
        """
        self._opened.delete()

    def close(self) -> None:
        """Close the connection to the store. A second call is harmless."""
        self._opened.store.close()


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in the user database
        return "unknown"
