"""What pages show of a snapshot: forged names are text, links lead where they should, and a page's parts are small."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from starburst_executor.client.finding import Visit
from starburst_executor.client.report import TaskReport, WorkerReport
from starburst_executor.dashboard.sessions import Line
from starburst_executor.dashboard.tabs import MOST_BYTES, Tab
from starburst_executor.dashboard.views import (
    _STATES,
    _bar,
    fragments,
    log_link,
    part,
    session_cells,
    templates,
    worker_cells,
)
from starburst_executor.dashboard.watch import Snapshot, Watch
from starburst_executor.protocol.records import Manifest
from starburst_executor.store.patient import PatientStore
from tests.support.session_rig import Rig

FORGED = '"><script>alert(1)</script><b onclick=x>\x00\u202e'


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes += [name for name, _ in attrs]


def snapshot_of(rig: Rig) -> tuple[Snapshot, Manifest]:
    async def made() -> tuple[Snapshot, Manifest]:
        session = rig.another()
        assert isinstance(session.store, PatientStore)
        session.manifest.refresh()
        watch = Watch(Visit(session, session.store), ExitStack(), rig.clock)
        found = await watch.fresh()
        await watch.close()
        return found, session.manifest.current

    return asyncio.run(made())


def forged_worker(number: int = 0) -> WorkerReport:
    task = TaskReport(FORGED, 3.0, done=1.0, total=2.0, text=FORGED)
    return WorkerReport(f"{number}{FORGED}", "working", FORGED, 4, (task,) * 8, 17, 0.0, 0.0, 5.0, FORGED, FORGED)


@pytest.mark.parametrize("page", ["session", "tasks", "task", "workers", "failures"])
def test_forged_names_stay_text_in_every_part(page: str) -> None:
    snapshot, manifest = snapshot_of(Rig())
    members = tuple(forged_worker(number) for number in range(30))
    status = replace(snapshot.status, members=members, reason=FORGED, hosts=((FORGED, 1),), state="open")
    snapshot = replace(snapshot, status=status, why=[f"`{FORGED}` {FORGED}"], problem=FORGED)
    found = fragments(page, snapshot, manifest, root="", subject=FORGED, most_workers=20)
    html = "".join(found.values())
    tags = Tags(html)
    assert "script" not in tags.found
    assert "onclick" not in tags.attributes
    assert "\x00" not in html
    assert "\u202e" not in html
    assert all(set('"<> ').isdisjoint(name) for name in found)
    assert sum(name.startswith("+workers/") for name in found) == {"session": 8, "workers": 20}.get(page, 0)
    # However much there is, each part fits into an update.
    tab = Tab(page)
    while (data := tab.update(found)) is not None:
        assert len(data.encode()) <= MOST_BYTES
        assert "too much to send" not in data


def test_a_running_task_is_found_on_its_page() -> None:
    snapshot, manifest = snapshot_of(Rig())
    task = TaskReport("0-7", 3.0, cpu=0.5, memory_bytes=2**20, done=1.0, total=4.0, text="reading")
    worker = WorkerReport("w-1", "working", "host-a", 1, (task,), 0, 1.0, 1.0, 5.0)
    snapshot = replace(snapshot, status=replace(snapshot.status, members=(worker,)))
    shown = fragments("task", snapshot, manifest, root="", subject="0-7", most_workers=20)["task-now"]
    assert "25% (1 of 4) reading" in shown
    assert "50% CPU, 1 MB" in shown
    assert "host-a" in shown
    for name, words in (
        ("4711", "process 4711"),
        ("arn:aws:ecs:eu-west-1:123456789012:task/team/0f1e", "ECS task 0f1e"),
        ("0f1e-aa:3", "Batch job 0f1e-aa:3"),
    ):
        cells = worker_cells([replace(worker, launcher_id=name)], snapshot, manifest, "")["+workers/w-w-1"]
        assert words in cells
    assert fragments("task", snapshot, manifest, root="", subject="0-8", most_workers=20)["task-now"] == ""


def test_the_rows_of_workers_have_an_order_and_one_says_that_there_is_none() -> None:
    snapshot, manifest = snapshot_of(Rig())
    workers = [WorkerReport(f"w{i}", "working", "host", 1, (), 0, 1.0, 1.0, 5.0) for i in range(3)]
    assert worker_cells(workers, snapshot, manifest, "")["=workers"] == "w-w0 w-w1 w-w2"
    none = worker_cells([], snapshot, manifest, "")
    assert none["=workers"] == "w-none"
    assert "No worker" in none["+workers/w-none"]


@pytest.mark.parametrize(
    ("launcher", "worker", "link"),
    [
        (
            "fargate?stack=team&region=eu-west-1&slots=4",
            "1a2b-0123abcd",
            (
                "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:log-groups/log-group/$252Fstarburst$252Fteam"
                "$3FlogStreamNameFilter$3Dworker$252Fworker$252F0123abcd"
            ),
        ),
        (
            "batch?stack=team&region=eu-west-1",
            "1a2b-0123abcd",
            "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:log-groups/log-group/$252Fstarburst$252Fteam",
        ),
        ("fargate?stack=team", "w", ""),
        ("fargate?stack=team&region=evil.example/", "w", ""),
        ("fargate?stack=../x&region=eu-west-1", "w", ""),
    ],
)
def test_a_worker_on_aws_has_a_link_to_its_log(launcher: str, worker: str, link: str) -> None:
    manifest = replace(Rig().session.manifest.current, launcher=launcher)
    assert log_link(manifest, worker) == link


def test_sentences_show_commands_as_code_and_nothing_else() -> None:
    assert (
        part("why", ["type `starburst scale ID 3` <now>"])
        == "<li>type <code>starburst scale ID 3</code> &lt;now&gt;</li>"
    )


def test_every_template_escapes() -> None:
    environment = templates()
    for name in environment.list_templates():
        source, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]  # it has one
        assert "|safe" not in source.replace(" ", "")
        assert "autoescape" not in source
        assert " style=" not in source
        assert "<style" not in source
        assert " on" + "click" not in source
        assert source.count("<script") == source.count("<script src=")


def status_of(snapshot: Snapshot, **counts: int) -> Snapshot:
    return replace(snapshot, status=replace(snapshot.status, **{"total": sum(counts.values()), **counts}))


@pytest.mark.parametrize(
    "counts",
    [
        {"completed": 3},
        {"completed": 999_999, "failed": 1},
        {"completed": 1, "failed": 999_999},
        {"completed": 2835, "failed": 172, "claimed": 2},
        {"completed": 1, "failed": 1, "cancelled": 1, "claimed": 1, "pending": 999_996},
        {"failed": 500, "pending": 500},
    ],
)
def test_the_bar_shows_each_state_and_ends_at_its_edge(counts: dict[str, int]) -> None:
    snapshot, _ = snapshot_of(Rig())
    parts = _bar(status_of(snapshot, **counts).status)
    assert [name for name, _, _ in parts] == [name for name in _STATES if counts.get(name)]
    assert [left for _, left, _ in parts] == [sum(width for _, _, width in parts[:i]) for i in range(len(parts))]
    assert sum(width for _, _, width in parts) == 1000
    assert min(width for _, _, width in parts) >= 3


def test_a_session_with_a_task_left_is_not_at_100_percent() -> None:
    snapshot, manifest = snapshot_of(Rig())

    def share(**counts: int) -> str:
        return shown(status_of(snapshot, **counts), manifest)["share"]

    assert share(completed=3007, claimed=2) == "99 %"
    assert share(completed=3007) == "100 %"
    assert share() == "no tasks"


def shown(snapshot: Snapshot, manifest: Manifest, page: str = "session") -> dict[str, str]:
    return fragments(page, snapshot, manifest, root="", subject="", most_workers=20)


def test_one_of_a_thing_is_singular() -> None:
    snapshot, manifest = snapshot_of(Rig())
    status = replace(snapshot.status, workers=1, slots=1, retries=1, losses=1, hosts=(("a", 1),), utilisation=1.0)
    usage = replace(snapshot.usage, n_requests=1, per_s=0.0)
    found = shown(replace(snapshot, status=status, usage=usage), manifest) | shown(
        replace(snapshot, status=status), manifest, "workers"
    )
    assert "with 1 slot<" in found["facts"]
    assert "retry<" in found["facts"]
    assert "1 loss of a worker" in found["facts"]
    assert "1 alive with 1 slot," in found["workers-line"]
    assert "on 1 host" in found["workers-line"]
    assert "by 1 request, which" in shown(replace(snapshot, usage=usage), manifest)["usage"]


def test_an_estimate_says_where_it_comes_from() -> None:
    snapshot, manifest = snapshot_of(Rig())
    status = replace(snapshot.status, state="open", total=3, pending=3, seconds_left=7.0)
    facts = shown(replace(snapshot, status=status), manifest)["facts"]
    assert "7 s" in facts
    assert "by the durations of tasks" in facts
    assert "no task has ended lately" not in facts


def test_an_estimate_without_an_upper_bound_says_so() -> None:
    snapshot, manifest = snapshot_of(Rig())
    status = replace(snapshot.status, state="open", total=3, pending=3, seconds_left=7.0, seconds_left_least=6.0)
    assert "6 s or more" in shown(replace(snapshot, status=status), manifest)["facts"]
    status = replace(status, seconds_left_most=8.0)
    assert "6 s to 8 s" in shown(replace(snapshot, status=status), manifest)["facts"]


@pytest.mark.parametrize(("n_ended", "words"), [(9, "9 or more of 10"), (10, "10 of 10")])
def test_a_line_says_or_more_only_of_what_may_be_more(n_ended: int, words: str) -> None:
    line = Line("2026-000", "open", n_tasks=10, n_ended=n_ended, n_failed=4, is_exact=False)
    (cells,) = session_cells([line], "").values()
    assert f">{words}<" in cells
    assert ">4 or more<" in cells


def test_the_pages_of_a_session_have_titles_of_their_own() -> None:
    snapshot, manifest = snapshot_of(Rig())
    pages = [("session", ""), ("tasks", ""), ("workers", ""), ("failures", ""), ("task", "0-1"), ("tasks", "0-2")]
    titles = {
        fragments(page, snapshot, manifest, root="", subject=subject, most_workers=20)["title"]
        for page, subject in pages
    }
    assert len(titles) == len(pages)


def test_the_page_of_a_task_that_has_ended_meanwhile_says_so() -> None:
    snapshot, manifest = snapshot_of(Rig())
    found = fragments("task", snapshot, manifest, root="", subject="0-7", most_workers=20, subject_state="failed")
    assert "load this page again" in found["task-now"]
    assert "state-failed" in found["task-state"]
    assert "task-state" not in shown(snapshot, manifest, "task")


def test_a_worker_that_is_gone_is_not_up_any_longer() -> None:
    snapshot, manifest = snapshot_of(Rig())
    worker = WorkerReport("w-1", "working", "host-a", 1, (), 0, 1000.0, 1300.0, 5.0)
    for state, clocks in (("working", 2), ("left", 1), ("lost", 1)):
        cells = worker_cells([replace(worker, state=state)], snapshot, manifest, "")["+workers/w-w-1"]
        assert cells.count("data-since") == clocks
        assert ("5 min<" in cells) == (state != "working")
