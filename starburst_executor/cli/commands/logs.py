"""`starburst logs`: the output of a session's tasks and workers."""

from __future__ import annotations

import threading

import click

from starburst_executor.cli.options import store_option
from starburst_executor.client.logs import LogLine, TaskLogs, WorkerLogs, has_ended
from starburst_executor.client.opening import attach, own_launcher
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError

__all__ = ["logs"]

_FOLLOW_S = 2.0


@click.command()
@click.argument("session")
@click.option("--task", metavar="ID", help="Only of this task, for example 0-17.")
@click.option(
    "--worker", metavar="ID", help="Instead print this worker's own log from CloudWatch; `all` for every worker."
)
@click.option("--follow", is_flag=True, help="Continue until every task has ended or the session is over.")
@store_option
def logs(session: str, task: str | None, worker: str | None, follow: bool, store: str | None) -> None:
    """Print the output of the ended tasks of SESSION, an id or a URL, to the streams that they used.

    Changes nothing. With --task or --worker ID the lines are unchanged; otherwise each begins with its source.
    """
    if task is not None and worker is not None:
        raise ConfigError("--task and --worker exclude each other: pass only one of them")
    clock, never = SystemClock(), threading.Event()
    opened = attach(session, clock, store=store)
    try:
        found = opened.session
        source: TaskLogs | WorkerLogs = TaskLogs(found, task)
        if worker is not None:
            source = WorkerLogs(found, own_launcher(found), None if worker == "all" else worker)
        is_one = task is not None or worker not in (None, "all")
        while True:
            # Read before the round, so that the last round prints everything.
            is_last = not follow or has_ended(found)
            for line in source.fresh():
                _show(line, is_one=is_one)
            if is_last:
                return
            clock.wait(never, _FOLLOW_S)
    finally:
        opened.store.close()


def _show(line: LogLine, *, is_one: bool) -> None:
    click.echo(line.text if is_one else f"[{line.source}] {line.text}", err=line.is_error)
