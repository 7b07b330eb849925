"""`starburst report` and `metrics`: a page, a figure or the numbers of a session."""

from __future__ import annotations

import json
from pathlib import Path

import click

from starburst_executor.cli.options import examples, json_option, opened, session_argument
from starburst_executor.cli.render import say

__all__ = ["metrics", "report"]


@click.command(
    epilog=examples(
        "starburst report last",
        "starburst report last --out run.pdf",
        "starburst report 20260401-08 --json | jq .durations",
    )
)
@session_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write there: .html, .png, .pdf or .json.  [default: the session's id, .html]",
)
@json_option
def report(session: str, store: str | None, out: Path | None, as_json: bool) -> None:
    """Write a report on SESSION: one file that opens anywhere, with charts and failures. Changes nothing.

    Without the session's key it lacks failures and names of functions. It shows messages and tracebacks of failures, and no arguments.
    """
    from starburst_executor.report.report import SessionReport

    with opened(session, store) as visited:
        made = SessionReport.of(visited.session, visited.store.requests.snapshot)
        session_id = visited.session.session_id
    if as_json:
        click.echo(json.dumps(made.to_dict(), default=str))
        if out is None:
            return
    path = made.save(out or Path(f"{session_id}.html"))
    say(f"written: {path}")


@click.command(
    epilog=examples(
        "starburst metrics last",
        "starburst metrics last --json | jq .durations.p90_s",
        "starburst metrics last --format prometheus > /var/lib/node_exporter/starburst.prom",
    )
)
@session_argument
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "json", "prometheus"]),
    default="text",
    show_default=True,
    help="How.",
)
@click.option("--json", "as_json", is_flag=True, help="As --format json.")
def metrics(session: str, store: str | None, kind: str, as_json: bool) -> None:
    """Show the numbers of SESSION: throughput, utilisation, durations, failures, queue, store requests, cost. Needs no key."""
    from starburst_executor.report.metrics import read_metrics

    with opened(session, store) as visited:
        found = read_metrics(visited.session, visited.store.requests.snapshot)
    if as_json or kind == "json":
        click.echo(json.dumps(found.to_dict()))
    elif kind == "prometheus":
        click.echo(found.to_prometheus(), nl=False)
    else:
        click.echo(str(found))
