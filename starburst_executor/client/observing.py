"""What an executor offers to look at its session: the records of its tasks, a report, metrics.

Reports are made in `report/`, a layer above this one, which is loaded when the first is asked for: no executor needs it to run tasks.
"""

from __future__ import annotations

import importlib
from typing import Any

from starburst_executor.client.engine import Engine
from starburst_executor.client.reading import Reading
from starburst_executor.client.timeline import Timeline

__all__ = ["Observed"]


class Observed:
    """The part of an executor that reads what is stored about its tasks."""

    _engine: Engine

    def timeline(self) -> Timeline:
        """Return the records of the session's tasks: where, when and for how long each ran, without its arguments and outcome.

        Iterate over it, or call its `to_pandas()`. Each iteration reads the store anew, in constant memory; tasks whose submit is not
        acknowledged yet are missing. Store: nothing; for each iteration 1 GET, 1 LIST an epoch, 1 GET for up to 256 tasks.
        """
        return Timeline(Reading(self._engine.session))

    def report(self) -> Any:
        """Return a report on the session as it is now, a `SessionReport`: `save("run.html")` writes a page, or `.png`, `.pdf`, `.json`.

        Needs the extra `report` for HTML, PNG and PDF. Memory does not grow with the number of tasks. Store: 1 GET, 1 LIST per 1,000
        status objects, 1 GET each (up to 256 tasks), 1 GET a worker; again 1 GET for each status object with failures.
        """
        return self._report("report").SessionReport.of(self._engine.session, self._engine.parts.spending.own_requests)

    def metrics(self) -> Any:
        """Return the numbers of the session as it is now, as `Metrics`: `to_dict()`, `to_prometheus()`, and `str()` for people.

        Throughput, utilisation, durations, failures, retries, the time that tasks waited, idle time, store requests with their mean
        duration, bytes, cost. Needs no extra. Store: 1 GET, 1 LIST per 1,000 status objects, 1 GET each, 1 GET a worker.
        """
        return self._report("metrics").read_metrics(self._engine.session, self._engine.parts.spending.own_requests)

    @staticmethod
    def _report(module: str) -> Any:
        return importlib.import_module(f"starburst_executor.report.{module}")
