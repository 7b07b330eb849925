"""What an executor offers to look at its session afterwards: the records of its tasks. `report/` renders them."""

from __future__ import annotations

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
