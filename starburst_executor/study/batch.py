"""The trials of one running stage in its driver: which have an outcome, and which are waited for. Makes no store request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from itertools import islice
from typing import Any

from starburst_executor.study.asks import Asks
from starburst_executor.study.failures import is_of_session
from starburst_executor.study.running import row_of, row_of_error
from starburst_executor.study.spec import TrialSpec
from starburst_executor.study.tables import CANCELLED, Counts, TrialRow, counted

__all__ = ["Batch"]


class Batch:
    """The trials of one round of a stage. Not thread-safe.

    Args:
        spec: What the trials have in common.
        trials: Their number.
        carried: Outcomes of earlier rounds.

    Attributes:
        rows: The outcome of each trial that has one, by index.
        asks: What proposes the parameters of its trials, if the stage has a search.
        function: What the tasks of its trials call; None until the first are submitted.
        ending: The error or the word by which the session, and not a trial, ended some of them; None if it did not.
    """

    def __init__(self, spec: TrialSpec, trials: int, carried: Iterable[TrialRow], asks: Asks | None = None) -> None:
        self.spec = spec
        self.trials = trials
        self.rows: dict[int, TrialRow] = {row.index: row for row in carried if row.index < trials}
        self.ending: BaseException | None = None
        self.asks = asks
        self.function: Callable[[Any], Any] | None = None
        self._submitted: set[int] = set()
        self._waiting: dict[int, Future[Any]] = {}
        self._counts = counted(self.rows.values())

    @property
    def missing(self) -> list[int]:
        """The indexes of the trials without an outcome, ascending."""
        return [index for index in range(self.trials) if index not in self.rows]

    @property
    def to_submit(self) -> list[int]:
        """The indexes of the trials that have neither an outcome nor been submitted by this process, and whose parameters are known."""
        known = range(self.trials) if self.asks is None else range(min(self.trials, len(self.asks.proposed)))
        return [index for index in known if index not in self.rows and index not in self._submitted]

    @property
    def is_done(self) -> bool:
        return len(self.rows) == self.trials

    @property
    def counts(self) -> Counts:
        return self._counts

    def watch(self, futures: Mapping[int, Future[Any]]) -> None:
        """Wait for these futures, by the index of their trial."""
        self._waiting.update(futures)
        self._submitted.update(futures)

    def waiting(self, most: int) -> list[Future[Any]]:
        """Return up to `most` futures that are not done, the oldest first."""
        return list(islice(self._waiting.values(), most))

    def collect(self, *, is_over: bool = False) -> list[TrialRow]:
        """Take the outcomes of the futures that are done; return the new rows.

        Args:
            is_over: Whether the session is over: a cancelled trial then has no outcome.
        """
        fresh: list[TrialRow] = []
        for index in [index for index, future in self._waiting.items() if future.done()]:
            row = self._row(index, self._waiting.pop(index), is_over=is_over)
            if row is not None:
                self.rows[index] = row
                fresh.append(row)
        self._counts = Counts(*(a + b for a, b in zip(self._counts, counted(fresh), strict=True)))
        return fresh

    def forget(self, indexes: Iterable[int]) -> None:
        """Forget the outcomes of these trials, which then run again in the next round."""
        for index in indexes:
            self.rows.pop(index, None)
        self._counts = counted(self.rows.values())

    def give_up(self, why: str) -> None:
        """Count all trials without an outcome as cancelled."""
        for index in self.missing:
            self.rows[index] = TrialRow(
                self.spec.stage, index, CANCELLED, "cancelled", why, params=self.spec.params(index)
            )
        self._waiting.clear()
        self._counts = counted(self.rows.values())

    def _row(self, index: int, future: Future[Any], *, is_over: bool) -> TrialRow | None:
        try:
            outcome = future.result(0)
        except CancelledError as error:
            if is_over:
                self.ending = self.ending or error
                return None
            return row_of_error(self.spec, index, error)
        except BaseException as error:  # of user code, as it was raised on a worker
            if is_of_session(error):
                self.ending = self.ending or error
                return None
            return row_of_error(self.spec, index, error)
        return row_of(self.spec, index, outcome)
