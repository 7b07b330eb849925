"""`starburst status`, `wait` and `top`: the truth about a run, read from the store alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from starburst_executor.cli import exits
from starburst_executor.cli.options import DURATION, examples, json_option, notify_option, opened, session_argument
from starburst_executor.cli.render import (
    Progress,
    line_of,
    say,
    show_json,
    show_status,
    show_table,
)
from starburst_executor.client.by_label import status_by_label
from starburst_executor.client.finding import Visit
from starburst_executor.client.looks import Looks
from starburst_executor.client.reading import Reading
from starburst_executor.client.report import SessionStatus, TaskReport, duration
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.failures import are_too_many, failures_reason
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.records import SessionState
from starburst_executor.session.store import SessionStore

if TYPE_CHECKING:
    from starburst_executor.report.messages import Messenger

__all__ = [
    "check_recipients", "finish_messages", "look_pauses", "looking", "messenger_for", "status", "top", "until_over", "verdict", "wait",
]  # fmt: skip

_LOOK_S = 2.0  # between two looks on a terminal: 15 of them cost a cent an hour on S3
_FIRST_LOOK_S = 0.125  # … and between the first two, since a small session is over at once


@click.command(
    epilog=examples(
        "starburst status last", "starburst status 20260401-08 --watch", "starburst status s3://bucket/team/ID --json"
    )
)
@session_argument
@click.option(
    "--watch", is_flag=True, help="Go on until everything has ended: a line a minute where there is no terminal."
)
@click.option("--by", type=click.Choice(("label",)), help="Count the tasks of each label instead.")
@json_option
def status(session: str, store: str | None, watch: bool, by: str | None, as_json: bool) -> None:
    """Show what has ended, what runs and what waits in SESSION. Starts nothing, changes nothing, needs no key.

    Failures are counted by kind where the session's key is known. With --watch and --json there is a line for each look.
    """
    if by is not None and watch:
        raise ConfigError("--by counts once: leave out --watch")
    with opened(session, store) as visited:
        if by is not None:
            _show_labels(visited, as_json=as_json)
            return
        looks = looking(visited)
        if not watch:
            found = looks.look()
            if as_json:
                show_json(**found.to_dict())
            else:
                show_status(found)
            return
        with Progress() as progress:
            for found in until_over(visited, looks):
                if as_json:
                    show_json(**found.to_dict())
                else:
                    progress.show(found, is_last=found.is_over)


def _show_labels(visited: Visit, *, as_json: bool) -> None:
    labels = status_by_label(Reading(visited.session)).values()
    if as_json:
        for label in labels:
            show_json(**label.to_dict())
        return
    names = ("label", "total", "pending", "claimed", "completed", "failed", "cancelled")
    show_table(names, [tuple(label.to_dict().values()) for label in labels])


def looking(visited: Visit) -> Looks:
    """Return what looks at this session."""
    return Looks(visited.session, visited.store.requests.snapshot)


def look_pauses() -> Iterator[float]:
    """Yield the seconds between each two looks: twice as long each time, up to two."""
    pause_s = _FIRST_LOOK_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LOOK_S)


def until_over(visited: Visit, looks: Looks, *, timeout_s: float | None = None) -> Iterator[SessionStatus]:
    """Look every two seconds, at first more often, until nothing is left to do. Raises: TimeoutError."""
    clock, never, pauses = visited.session.clock, threading.Event(), look_pauses()
    deadline = None if timeout_s is None else clock.monotonic() + timeout_s
    while True:
        found = looks.look()
        yield found
        if found.is_over:
            return
        pause_s = next(pauses)
        left_s = pause_s if deadline is None else min(pause_s, deadline - clock.monotonic())
        if left_s <= 0:
            raise TimeoutError(
                f"not all tasks have ended within {timeout_s:g} s: {line_of(found)}; the session goes on: "
                f"starburst wait {found.id}"
            )
        clock.wait(never, left_s)


@click.command(
    epilog=examples(
        "starburst wait last",
        "starburst wait last --timeout 2h && starburst results last",
        "starburst wait last --notify ntfy://my-topic",
    )
)
@session_argument
@click.option("--timeout", type=DURATION, metavar="TIME", help="Wait no longer; exit status 5 then.")
@notify_option
@json_option
def wait(session: str, store: str | None, timeout: float | None, notify: tuple[str, ...], as_json: bool) -> None:
    """Wait until every task of SESSION has ended. Exit status 1 if one failed or was cancelled. Needs no key."""
    check_recipients(notify)
    with opened(session, store) as visited, Progress() as progress:
        messenger = messenger_for(visited.session, notify)
        for found in until_over(visited, looking(visited), timeout_s=timeout):
            progress.show(found, is_last=found.is_over)
            if messenger is not None:
                messenger.check(found)
        finish_messages(messenger, found)
        code = verdict(visited, found)
    if as_json:
        show_json(**found.to_dict())
    raise click.exceptions.Exit(code)


def check_recipients(urls: tuple[str, ...]) -> None:
    """Raise ConfigError for a URL to which no message can be sent, before anything is started."""
    if urls:
        from starburst_executor.report.messages import sender_of  # Apprise is an extra, and loads for half a second

        for url in urls:
            sender_of(url)


def messenger_for(session: SessionStore, urls: tuple[str, ...]) -> Messenger | None:
    """Return what sends messages about this session to these URLs; None without one."""
    if not urls:
        return None
    from starburst_executor.report.messages import Messenger

    return Messenger(session, urls)


def finish_messages(messenger: Messenger | None, found: SessionStatus) -> None:
    """Send what is left to be sent, for up to a minute; say what could not be sent."""
    left = [] if messenger is None else messenger.finish(found)
    if left:
        events = ", ".join(sorted({message.event for message in left}))
        say(f"messages could not be sent: {events}; `starburst wait {found.id} --notify URL` tries again")


def verdict(visited: Visit, status: SessionStatus) -> int:
    """Return the exit status of a command that waited: whether all tasks completed, and if not, whether the session could not go on."""
    if status.completed == status.total:
        return exits.DONE
    manifest = visited.session.manifest.current
    if status.state == SessionState.EXPIRED.value:
        return exits.LIMIT
    # Short tasks may all end before a worker ends the session, which then stays open.
    limit = manifest.max_failures
    if are_too_many(limit, status.failed, status.total, status.ended):
        if not status.reason:
            say(failures_reason(limit, status.failed, status.total))
        return exits.LIMIT
    broken = ended_by(manifest)
    return exits.NO if broken is None else exits.code_of(broken)


@click.command(epilog=examples("starburst top last", "starburst top last --all --json"))
@session_argument
@click.option("--all", "show_all", is_flag=True, help="Workers that have left too.")
@json_option
def top(session: str, store: str | None, show_all: bool, as_json: bool) -> None:
    """Show the workers of SESSION: what each runs, since when, what it uses, what the task reports of itself, and how much the worker has done.

    CPU, memory and what tasks report are as of the workers' last beats, up to 15 s ago. Needs no key.
    """
    with opened(session, store) as visited:
        found = looking(visited).look()
    workers = [worker for worker in found.members if show_all or worker.state != "left"]
    if as_json:
        for worker in workers:
            show_json(
                id=worker.id,
                state=worker.state,
                host=worker.host,
                slots=worker.slots,
                running=[{"task": task.id, **_facts(task)} for task in worker.tasks],
                n_ended=worker.n_ended,
                started_at=worker.started_at,
                beat_at=worker.beat_at,
                words=worker.words or worker.trouble,
                launcher_id=worker.launcher_id,
            )
        return
    if not workers:
        click.echo(f"no workers in session {found.id}: `starburst explain {found.id}` says why", err=True)
        return
    rows = []
    for worker in workers:
        running = "; ".join(_words(task) for task in worker.tasks)
        rows.append(
            [
                worker.id,
                worker.host,
                worker.state,
                worker.slots,
                worker.trouble or running or worker.words or "-",
                worker.n_ended,
                duration(worker.age_s),
            ]
        )
    show_table(["worker", "host", "state", "slots", "running", "ended", "up"], rows, right=("slots", "ended", "up"))


def _facts(task: TaskReport) -> dict[str, object]:
    facts = asdict(task)
    del facts["id"]
    return facts


def _words(task: TaskReport) -> str:
    facts = ", ".join(filter(None, [duration(task.seconds), task.usage]))
    return f"{task.id} ({facts}) {task.note}".rstrip()
