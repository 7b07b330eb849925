"""Ends executors: in order, in the background, and when the interpreter exits."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from contextlib import suppress

from starburst_executor.client.engine import Engine
from starburst_executor.client.future import THREAD_PREFIX
from starburst_executor.client.interrupts import stop_at_once

__all__ = ["end", "end_in_background"]

_log = logging.getLogger(__name__)


def end(engine: Engine) -> None:
    """End an executor: an attached one when every future is done, a detached one when every submit is acknowledged."""
    ending = engine.ending
    ending.begin()
    if ending.is_stopped:
        ending.end_stopped()
    elif engine.detached:
        try:
            engine.flush()
        finally:
            ending.detach()
    else:
        ending.wait_done()
        ending.end_session()


def end_in_background(engine: Engine) -> None:
    """End an executor in a thread of its own. A second call is harmless."""
    # Assumes: the garbage collector may call this in any thread, which may hold any lock, so it takes no lock.
    if not engine.parts.state.ended.is_set() and engine.is_of_this_process():
        # A daemon thread: at its exit the interpreter waits for the engine (`_end_all`), not for this thread.
        thread = threading.Thread(target=_end_in_order, args=(engine,), name=f"{THREAD_PREFIX}end", daemon=True)
        with suppress(RuntimeError):  # no more threads can be started; `_end_all` ends the session
            thread.start()


def _end_in_order(engine: Engine) -> None:
    """End a session, and log an exception, since no caller can get it."""
    try:
        end(engine)
    except BaseException as error:
        _log.warning("a session was not ended in good order: %r", error)


def _end_all() -> None:
    """End every open session before the interpreter exits, as `ProcessPoolExecutor` does.

    Guarantee: an error in one does not keep the others from ending.
    """
    # An unhandled ^C has been printed by now. As at the end of a `with` block, it cancels tasks that no worker has claimed.
    is_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for engine in Engine.all_here():
        if engine.has_returned:
            continue  # threads of the user's, which are joined after this, may wait for its futures
        try:
            engine.ending.begin()
            if is_interrupted and not engine.detached:
                engine.cancel(engine.parts.futures.unfinished())
            end(engine)
        except KeyboardInterrupt:
            with suppress(BaseException):
                stop_at_once(engine)
        except BaseException as error:
            _log.warning("a session was not ended in good order: %r", error)


# Runs before the interpreter joins the user's threads; `atexit` runs after that, when no thread can be started.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]  # noqa: SLF001 - as concurrent.futures does, since Python 3.9


def _leave_all() -> None:
    """Leave the remaining sessions, once no thread of the user's is left that may wait for their futures."""
    for engine in Engine.all_here():
        try:
            engine.leave()
        except BaseException as error:
            _log.warning("a session was not left in good order: %r", error)


atexit.register(_leave_all)
