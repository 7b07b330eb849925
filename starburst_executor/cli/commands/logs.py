"""`starburst logs`: the output of a session's tasks and workers."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable

import click

from starburst_executor.cli.options import DURATION, examples, json_option, looked_up, session_argument
from starburst_executor.cli.render import show_json
from starburst_executor.client.logs import LogLine, TaskLogs, WorkerLogs, has_ended
from starburst_executor.client.opening import attach, own_launcher
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError

__all__ = ["logs"]

_FOLLOW_S = 2.0


@click.command(
    epilog=examples(
        "starburst logs last --failed --tail 20",
        "starburst logs last --task 0-17",
        "starburst logs last --search 'Error|Warning' --since 10m --follow",
    )
)
@session_argument
@click.option("--task", metavar="ID", help="Only of this task, for example 0-17.")
@click.option(
    "--worker", metavar="ID", help="Instead print this worker's own log from CloudWatch; `all` for every worker."
)
@click.option("--failed", is_flag=True, help="Only of tasks that failed.")
@click.option("--since", type=DURATION, metavar="TIME", help="Only of tasks that have ended within this time: 10m, 2h.")
@click.option("--search", metavar="REGEX", help="Only lines that match.")
@click.option(
    "--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines; with --follow, then all further ones."
)
@click.option("--follow", is_flag=True, help="Continue until every task has ended or the session is over.")
@json_option
def logs(
    session: str,
    store: str | None,
    *,
    task: str | None,
    worker: str | None,
    failed: bool,
    since: float | None,
    search: str | None,
    tail: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Print the output of the ended tasks of SESSION, to the streams that they used.

    Changes nothing. With --task or --worker ID the lines are unchanged; otherwise each begins with its source.
    """
    if task is not None and worker is not None:
        raise ConfigError("--task and --worker exclude each other: pass only one of them")
    if worker is not None and (failed or since is not None):
        raise ConfigError("--failed and --since choose tasks, and --worker prints the log of a worker: leave one out")
    pattern = _pattern(search)
    clock, never = SystemClock(), threading.Event()
    opened = attach(looked_up(session, store), clock)
    try:
        found = opened.session
        source: TaskLogs | WorkerLogs = TaskLogs(
            found, task, failed=failed, since=0.0 if since is None else clock.now() - since
        )
        if worker is not None:
            source = WorkerLogs(found, own_launcher(found), None if worker == "all" else worker)
        is_one = task is not None or worker not in (None, "all")
        while True:
            # Read before the round, so that the last round prints everything.
            is_last = not follow or has_ended(found)
            lines: Iterable[LogLine] = (line for line in source.fresh() if pattern.search(line.text))
            for line in lines if tail is None else deque(lines, tail):
                if as_json:
                    _show_json(line, of_worker=worker is not None)
                else:
                    _show(line, is_one=is_one)
            tail = None
            if is_last:
                return
            clock.wait(never, _FOLLOW_S)
    finally:
        opened.store.close()


def _pattern(search: str | None) -> re.Pattern[str]:
    try:
        return re.compile(search or "")
    except re.error as error:
        raise ConfigError(f"--search {search!r} is no regular expression: {error}") from error


def _show_json(line: LogLine, *, of_worker: bool) -> None:
    if of_worker:
        show_json(worker=line.source, text=line.text)
    else:
        show_json(task=line.source, stream="stderr" if line.is_error else "stdout", text=line.text)


def _show(line: LogLine, *, is_one: bool) -> None:
    click.echo(line.text if is_one else f"[{line.source}] {line.text}", err=line.is_error)
