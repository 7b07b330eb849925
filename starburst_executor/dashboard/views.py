"""What pages show of a snapshot: fragments of HTML by the ids of their elements, for the first answer and for every update."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from typing import Any
from urllib.parse import parse_qs, quote

from jinja2 import Environment
from markupsafe import Markup, escape

from starburst_executor.client.report import SessionStatus, WorkerReport, duration
from starburst_executor.dashboard.sessions import Line
from starburst_executor.dashboard.strips import Timeline, skyline
from starburst_executor.dashboard.watch import Snapshot
from starburst_executor.launch.open import is_on_aws
from starburst_executor.protocol.records import Manifest
from starburst_executor.report.templating import environment, visible
from starburst_executor.texts import shortened, usd_text

__all__ = ["deleted", "fragments", "log_link", "names_of", "part", "session_cells", "templates", "worker_cells"]

# Rows of workers on the session's own page; kinds of failures there; sentences on why tasks wait.
MOST_WORKERS = 8
MOST_KINDS = 5
_MOST_WHY = 3
_BAR = 1000
_LEAST = 3
_MOST_ORDER = 2000
_STATES = ("completed", "failed", "cancelled", "claimed", "pending")
_TITLED = ("tasks", "workers", "failures")  # pages
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_STACK = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")


@cache
def templates() -> Environment:
    """Return the templates of this package. All values are escaped."""
    found = environment("starburst_executor.dashboard")
    found.filters.update(
        coded=_coded,
        counted=_counted,
        short=_short,
        ago=_ago,
        n=_number,
        duration=duration,
        utc=_utc,
        iso=_iso,
        usd=usd_text,
        cut=shortened,
    )
    found.globals.update(ticking=_ticking, since=_since)
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _counted(number: float, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 task`, `2 tasks`, `1 retry`, `2 retries`."""
    return f"{_number(number)} {one if round(number) == 1 else many or f'{one}s'}"


def _moment(at: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, timezone.utc)
    except (ValueError, OverflowError, OSError):  # a worker's clock, or a forged record
        return None


def _utc(at: float) -> str:
    moment = _moment(at)
    return "-" if not at or moment is None else moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _iso(at: float) -> str:
    moment = _moment(at)
    return "" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _short(at: float) -> str:
    return _utc(at).removesuffix(" UTC")


def _ago(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def _coded(sentence: str) -> Markup:
    """Return a sentence with what stands between backticks as code."""
    parts = [
        Markup("<code>{}</code>").format(text) if i % 2 else escape(text)
        for i, text in enumerate(str(visible(sentence)).split("`"))
    ]
    return Markup("").join(parts)


def _ticking(at: float, now: float | None) -> Markup:
    """Return the time that has passed since a moment; the browser counts on. Without `now` the browser alone counts."""
    return Markup('<time datetime="{}" data-since="{}">{}</time>').format(
        _iso(at), f"{at:.1f}", "" if now is None else duration(max(0.0, now - at))
    )


def _since(at: float, now: float | None) -> Markup:
    """Return how long ago a moment was, or a dash."""
    return Markup("{} ago").format(_ticking(at, now)) if at else Markup("-")


def part(name: str, *values: Any) -> str:
    """Render one macro of `parts.html`."""
    macro = getattr(templates().get_template("parts.html").module, name)
    return str(macro(*values)).strip()


# --- fragments --------------------------------------------------------------------------------------------------------


def fragments(
    page: str,
    snapshot: Snapshot,
    manifest: Manifest,
    *,
    root: str,
    subject: str,
    most_workers: int,
    subject_state: str = "",
) -> dict[str, str]:
    """Return the fragments of one page, the most important first: what does not fit into an update comes with the next.

    Args:
        subject: The id of the task that the page is about, if any.
        subject_state: What is known of that task's state; empty for nothing.
        most_workers: Rows of workers on their own page.
    """
    titled = page if page in _TITLED else ""
    found = _head(snapshot, f"task {subject}" if subject else titled)
    if page == "session":
        found |= _session(snapshot, root)
        found |= worker_cells(_shown_first(snapshot.status.members)[:MOST_WORKERS], snapshot, manifest, root)
    elif page == "workers":
        found |= {"workers-line": part("workers_line", snapshot.status)}
        found |= worker_cells(_shown_first(snapshot.status.members)[:most_workers], snapshot, manifest, root)
    elif page == "task":
        found["task-now"] = _task_now(snapshot.status, subject, subject_state)
        found |= {"task-state": part("task_state", subject_state)} if subject_state else {}
    found |= {"usage": part("usage", snapshot.usage)}
    return found


def deleted(what: str, name: str, home: str) -> dict[str, str]:
    """Return the last fragments of a page whose subject is no more.

    Args:
        what: A session, or a study.
        home: The address of the list of those that are there.
    """
    return {
        "title": str(escape(f"deleted · {name}")),
        "say": f"This {what} was deleted",
        "state": part("state_deleted"),
        "notice": part("notice_deleted", what, home),
        "actions": "",
        "usage": "This page asks the store for nothing any more.",
    }


def _head(snapshot: Snapshot, title: str) -> dict[str, str]:
    status = snapshot.status
    share = f"{_percent(status)} %" if status.total else "no tasks"
    # A tab of the browser has room for the first words; its history needs the others.
    names = (share, title, shortened(status.name, 80) or status.id)
    return {
        "title": str(escape(visible(" · ".join(name for name in names if name)))),
        "say": str(escape(_sentence(status))),
        "state": part("state", status),
        "notice": part("notice", snapshot),
        "bar": part("bar", _bar(status)),
        "share": share,
        "ended": part("ended", status),
        **{f"n-{name}": _number(getattr(status, name)) for name in _STATES},
    }


def _percent(status: SessionStatus) -> int:
    """Return the share of the ended tasks; 100 only if all have ended."""
    return 100 * status.ended // status.total


def _sentence(status: SessionStatus) -> str:
    """Return what a screen reader says; it changes once a percent, or when a task fails."""
    if not status.total:
        return f"{status.state}: no tasks yet"
    failed = f", {status.failed:,} failed" if status.failed else ""
    return f"{status.state}: {_percent(status)} percent of {status.total:,} tasks ended{failed}"


def _bar(status: SessionStatus) -> list[tuple[str, int, int]]:
    """Return the parts of the bar: state, left edge, width."""
    counts = {name: n for name in _STATES if (n := getattr(status, name))}
    # A single failure among a million is seen: what the small ones get in addition, the others give.
    small = {name for name, n in counts.items() if n * _BAR < _LEAST * status.total}
    room, n_large = _BAR - _LEAST * len(small), sum(n for name, n in counts.items() if name not in small)
    parts: list[tuple[str, int, int]] = []
    left = n_seen = n_small = 0
    for name, n in counts.items():
        if name in small:
            n_small += 1
        else:
            n_seen += n
        right = round(room * n_seen / n_large) + _LEAST * n_small
        parts.append((name, left, right - left))
        left = right
    return parts


def _session(snapshot: Snapshot, root: str) -> dict[str, str]:
    status, timeline = snapshot.status, snapshot.timeline
    base = f"{root}/s/{status.id}"
    return {
        "facts": part("facts", status),
        "failures": part("failures", snapshot, MOST_KINDS, base),
        "why": part("why", snapshot.why[:_MOST_WHY]),
        "strip-ends": _ends(timeline),
        "strip-busy": _busy(timeline, status.slots),
        "strip-times": part("strip_times", timeline),
        "axis-ends": part("axis_ends", timeline, _most_ends(timeline)),
        "axis-busy": part("axis_busy", _most_busy(timeline, status.slots)),
        "strip-words": part("strip_words", timeline, _most_ends(timeline), _most_busy(timeline, status.slots)),
    }


def _most_ends(timeline: Timeline) -> float:
    sums = [
        sum(each) for each in zip(timeline.completed, timeline.failed, timeline.cancelled, timeline.unread, strict=True)
    ]
    return max(sums, default=0.0)


def _most_busy(timeline: Timeline, slots: int) -> float:
    return max([float(slots), *timeline.busy])


def _ends(timeline: Timeline) -> str:
    most = _most_ends(timeline)
    layers: list[tuple[str, str]] = []
    heights = [0.0] * len(timeline.completed)
    for name, bins in (
        ("completed", timeline.completed),
        ("unread", timeline.unread),
        ("failed", timeline.failed),
        ("cancelled", timeline.cancelled),
    ):
        if any(bins):
            heights = [height + value for height, value in zip(heights, bins, strict=True)]
            layers.append((name, skyline(heights, most)))
    # The highest area first: the others are drawn over it.
    return part("areas", list(reversed(layers)))


def _busy(timeline: Timeline, slots: int) -> str:
    path = skyline(timeline.busy, _most_busy(timeline, slots))
    return part("areas", [("busy", path)] if path else [])


def _shown_first(workers: tuple[WorkerReport, ...]) -> list[WorkerReport]:
    """Return live workers, then lost ones, then those that have left; of each the newest first."""
    rank = {"lost": 1, "left": 2}
    return sorted(workers, key=lambda worker: (rank.get(worker.state, 0), -worker.started_at))


def worker_cells(workers: list[WorkerReport], snapshot: Snapshot, manifest: Manifest, root: str) -> dict[str, str]:
    """Return the cells of a row for each worker, and the order of all rows.

    The name of a row begins with `+`, the id of the table and a slash, that of the order with `=`.
    """
    base = f"{root}/s/{snapshot.status.id}"
    links = is_on_aws(manifest.launcher)
    cells = {
        f"w-{quote(worker.id, safe='')[:100]}": part(
            "worker_cells", worker, base, snapshot.status.at, log_link(manifest, worker.id) if links else ""
        )
        for worker in workers
    } or {"w-none": part("no_worker")}
    order = " ".join(cells)
    # Of more workers than that no row leaves the table, unless there are more than the table shows.
    rows = {"=workers": order} if len(order) <= _MOST_ORDER else {}
    return rows | {f"+workers/{row}": html for row, html in cells.items()}


def session_cells(lines: Sequence[Line], root: str, now: float | None = None) -> dict[str, str]:
    """Return the cells of a row for each session of the list, by the id of the row; without `now`, without times that pass."""
    cells = {f"s-{quote(line.id, safe='')[:100]}": part("session_cells", line, root, now) for line in lines}
    return cells or {"s-none": part("no_session")}


def log_link(manifest: Manifest, worker_id: str) -> str:
    """Return the address of a worker's log in CloudWatch; empty if the manifest does not tell the region and the stack.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/ (the console's own addresses, percent-encoded twice with `$`)
    """
    kind, _, query = manifest.launcher.partition("?")
    options = parse_qs(query)
    region, stack = options.get("region", [""])[0], options.get("stack", ["starburst"])[0]
    if not _REGION.fullmatch(region) or not _STACK.fullmatch(stack):
        return ""

    def twice(text: str) -> str:
        return quote(quote(text, safe=""), safe="").replace("%", "$")

    address = f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logsV2:log-groups/log-group/"
    address += twice(f"/starburst/{stack}")
    if kind != "batch":  # there a worker's id does not tell its stream
        address += "$3FlogStreamNameFilter$3D" + twice(f"worker/worker/{worker_id.rpartition('-')[2]}")
    return address


def _task_now(status: SessionStatus, task_id: str, state: str) -> str:
    if state in ("completed", "failed", "cancelled"):
        return part("task_ended", state)
    for worker in status.members:
        for task in worker.tasks:
            if task.id == task_id:
                return part("task_runs", worker, task, status.at)
    return ""


def names_of(fields: Mapping[str, str]) -> dict[str, Markup]:
    """Return fragments for a template, which does not escape them a second time."""
    return {name: Markup(html) for name, html in fields.items()}  # noqa: S704 - from the templates, escaped there
