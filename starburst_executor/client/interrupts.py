"""What ^C does to an executor: the first one ends it in order, the second one at once.

first    cancels the tasks that no worker has claimed, and waits for the others (`StarburstExecutor.__exit__`)
second   attached: kills the workers and cancels the rest; detached: leaves, and the session continues
"""

from __future__ import annotations

import logging

from starburst_executor.client.engine import Engine

__all__ = ["stop_at_once"]

_log = logging.getLogger(__name__)


def stop_at_once(engine: Engine) -> None:
    """Handle a second ^C: kill the workers of an attached session and cancel the rest. A detached session continues."""
    if not engine.detached and engine.is_of_this_process():
        try:
            engine.ending.cleanup(delete=not engine.settings.keep, hurry=True)
        except Exception as error:
            _log.warning("a session was not ended in good order: %r", error)
