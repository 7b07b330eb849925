"""Whether a client may leave its unfinished work to the workers: only once one of them certainly does it without the client."""

from __future__ import annotations

import threading
from collections.abc import Callable

from starburst_executor.client.starter import Starter
from starburst_executor.client.staying import Staying
from starburst_executor.errors import BudgetExceeded, LaunchError, TooManyFailures
from starburst_executor.launch.base import Launcher
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.records import SessionState
from starburst_executor.session.repair import Watcher
from starburst_executor.session.store import SessionStore

__all__ = ["Departure"]


class Departure:
    """One client's wish to leave. `ask` is thread-safe; all other methods are for the keeper's thread.

    Args:
        launcher: Starts workers; None if this client starts none.
        claims: Returns the ids of the claims in the status objects that the client watches, as it last read them.

    Attributes:
        may_leave: After `ask`, set once the client may leave its work to the workers, or `error` is set.
        error: The reason why no worker will do that work.
        is_asked: Whether the client wants to leave.
    """

    def __init__(
        self,
        session: SessionStore,
        launcher: Launcher | None,
        watcher: Watcher,
        claims: Callable[[], frozenset[str]],
    ) -> None:
        self._session = session
        self._launcher = launcher
        self._watcher = watcher
        self._claims = claims
        self._staying: Staying | None = None
        self.is_asked = False
        self.may_leave = threading.Event()
        self.error: LaunchError | BudgetExceeded | TooManyFailures | None = None

    def ask(self) -> None:
        """Make sure at the next turns that a worker stays. Thread-safe. Assumes: some task is not done."""
        self.is_asked = True

    def prepare(self) -> None:
        """Note which workers beat, before any is started, so that the first beats of those that are started now count."""
        if self.is_asked and self._staying is None and self._launcher is not None:
            self._staying = Staying(self._session, self._watcher, self._claims, self._launcher)

    def look(self, starter: Starter | None, *, needs_workers: Callable[[], bool]) -> None:
        """Set `may_leave` if the work continues without this client; missing workers are started meanwhile.

        Store: see `Staying`.
        """
        if self.is_asked and not self.may_leave.is_set() and self._is_sure(starter, needs_workers):
            self.may_leave.set()

    def _is_sure(self, starter: Starter | None, needs_workers: Callable[[], bool]) -> bool:
        staying, state = self._staying, self._session.manifest.current.state
        if starter is None:
            return True
        # First, since what broke the session has failed the tasks as well, perhaps already.
        if state == SessionState.BROKEN:
            self.error = self._error_of(starter)
            return True
        if state != SessionState.OPEN or not needs_workers():
            return True
        # None if `ask` was called during this turn: the next turn prepares.
        return staying is not None and staying.is_sure(
            is_starting=starter.is_starting, drained=starter.launches.drained
        )

    def _error_of(self, starter: Starter) -> LaunchError | BudgetExceeded | TooManyFailures:
        """Return why the session is broken: by a limit of its own, or because no worker could be started."""
        ended = ended_by(self._session.manifest.current)
        return ended if isinstance(ended, (BudgetExceeded, TooManyFailures)) else starter.error()
