"""`starburst cancel`, `extend` and `scale`: what changes a session without a task of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from starburst_executor.cli.options import DURATION, examples, looked_up, session_argument
from starburst_executor.cli.render import utc
from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.finding import visit
from starburst_executor.client.report import amount
from starburst_executor.client.tending import Tending
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError, SessionExpired
from starburst_executor.protocol.records import SessionState

__all__ = ["attached", "cancel", "check_open", "extend", "scale"]


@contextmanager
def attached(session: str, store: str | None, *, launcher: str | None = "none") -> Iterator[DetachedExecutor]:
    """Attach to the session that a user means, as a client that starts no workers, and leave it at the end.

    Args:
        launcher: None for the session's own, to start workers that are missing.
    """
    executor = DetachedExecutor.reattach(looked_up(session, store), launcher=launcher)
    try:
        yield executor
    finally:
        executor.detach()


def check_open(url: str) -> None:
    """Refuse to change a session that is over. Raises: SessionExpired, ConfigError. Store: 1 GET."""
    with visit(url, SystemClock()) as visited:
        manifest = visited.session.manifest.current
    if manifest.state.is_over:
        kind = SessionExpired if manifest.state == SessionState.EXPIRED else ConfigError
        raise kind(
            f"session {manifest.session_id} is {manifest.state.value}{f' ({manifest.reason})' if manifest.reason else ''}, so nothing "
            f"of it can run again: `starburst results {manifest.session_id}` prints what has ended, and `starburst run` starts a new one"
        )


@click.command(epilog=examples("starburst cancel last", "starburst cancel last --running"))
@session_argument
@click.option("--running", is_flag=True, help="Also stop the tasks that run.")
def cancel(session: str, store: str | None, running: bool) -> None:
    """Cancel every task of SESSION that no worker holds. Running ones end as usual, and the session stays open."""
    with attached(session, store) as executor:
        n_cancelled = executor.cancel(running=running)
    click.echo(f"session {executor.id}: {amount(n_cancelled, 'task')} cancelled")


@click.command(epilog=examples("starburst extend last 12h"))
@session_argument
@click.argument("time", type=DURATION)
def extend(session: str, store: str | None, time: float) -> None:
    """Let SESSION expire later by TIME: seconds, or 30m, 12h, 7d."""
    url = looked_up(session, store)
    check_open(url)
    with attached(url, store) as executor:
        executor.extend(time)
        deadline_at = executor.status().deadline_at
    ends = "has no absolute_timeout and never expires" if deadline_at is None else f"expires {utc(deadline_at)}"
    click.echo(f"session {executor.id}: {ends}")


@click.command(epilog=examples("starburst scale last 50"))
@session_argument
@click.argument("workers", type=click.IntRange(1, 10_000))
def scale(session: str, store: str | None, workers: int) -> None:
    """Let WORKERS tasks of SESSION run at once. Missing workers are started now; surplus ones leave: tasks that do not end soon run again elsewhere."""
    url = looked_up(session, store)
    check_open(url)
    with attached(url, store, launcher=None) as executor, visit(url, SystemClock()) as visited:
        executor.scale(workers)
        Tending(executor, visited.session).go_on()
    click.echo(f"session {executor.id}: {amount(workers, 'task')} at once")
