"""`starburst retry`: runs failed tasks again, with a fixed version of their function."""

from __future__ import annotations

import click

from starburst_executor.cli.commands.change import attached, check_open
from starburst_executor.cli.options import examples, looked_up, session_argument
from starburst_executor.cli.render import say
from starburst_executor.cli.targets import load_target
from starburst_executor.client.finding import visit
from starburst_executor.client.reading import Reading
from starburst_executor.client.report import amount
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError

__all__ = ["retry"]


@click.command(
    epilog=examples(
        "starburst retry last --failed",
        "starburst retry last --failed --with script.py:function",
        "starburst retry last --task 0-17 --task 0-18",
    )
)
@session_argument
@click.option("--failed", is_flag=True, help="Every failed task.  [default: if no --task is given]")
@click.option("--task", "tasks", multiple=True, metavar="ID", help="This task, if it failed; may be repeated.")
@click.option(
    "--with",
    "target",
    type=click.Path(),
    metavar="TARGET",
    help="Call this function from now on: script.py:function or module:function.",
)
def retry(session: str, store: str | None, failed: bool, tasks: tuple[str, ...], target: str | None) -> None:
    """Run tasks of SESSION that failed again, in place: under the same ids, with the same arguments, from any machine.

    With --with they call that version of the function, but for tasks that failed because another one did. It is refused if it does not accept
    the arguments of one of them: all are compared, or evenly chosen 10,000. What has completed does not run again. Needs the session's key.
    """
    if failed and tasks:
        raise ConfigError("--failed and --task: give one of them")
    function = None if target is None else load_target(target)
    url = looked_up(session, store)
    check_open(url)
    if tasks:
        with visit(url, SystemClock()) as visited:
            reading = Reading(visited.session)
            for task in tasks:
                reading.find(task)  # a mistyped id is one of the user's mistakes, not a task that needs nothing
    with attached(url, store, launcher=None) as executor:
        retried = [future.task_id for future in executor.retry_failed(function, tasks=tasks or None)]
        session_id = executor.id
    for task in sorted({*tasks} - {*retried}):
        say(f"task {task} does not run again, because it has not failed: `starburst explain {session_id} {task}`")
    run = "runs" if len(retried) == 1 else "run"
    way = f": `starburst status {session_id} --watch`" if retried else ""
    click.echo(f"session {session_id}: {amount(len(retried), 'task')} {run} again{way}")
