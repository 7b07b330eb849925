"""What pages show of a snapshot: forged names are text, links lead where they should, and a page's parts are small."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from starburst_executor.client.finding import Visit
from starburst_executor.client.report import TaskReport, WorkerReport
from starburst_executor.dashboard.tabs import MOST_BYTES, Tab
from starburst_executor.dashboard.views import fragments, log_link, part, templates
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
    return WorkerReport(f"{number}{FORGED}", "working", FORGED, 4, (task,) * 8, 17, 0.0, 0.0, 5.0, FORGED)


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
    assert fragments("task", snapshot, manifest, root="", subject="0-8", most_workers=20)["task-now"] == ""


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
