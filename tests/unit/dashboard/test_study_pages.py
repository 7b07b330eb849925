"""Pages of studies: what they show, that names stay text, that updates stay small, and figures as files."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.dashboard import study_watch
from starburst_executor.dashboard.app import make_app
from starburst_executor.dashboard.hub import Places
from starburst_executor.dashboard.safety import POLICY, Access
from starburst_executor.dashboard.study_pages import fragments
from starburst_executor.dashboard.study_watch import StudyWatch
from starburst_executor.dashboard.tabs import MOST_BYTES, Tab
from starburst_executor.store.open import open_store
from starburst_executor.study import live as live_rows
from starburst_executor.study.live import Live
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import OPEN, PENDING, RUNNING, StageRecord
from starburst_executor.study.tables import TrialRow
from starburst_executor.testing.clock import FakeClock
from tests.support.dashboard import BREAKOUTS, Client
from tests.support.study_pictures import made_up, stored

ODD = "".join(BREAKOUTS)[:150]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/studies"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    access = Access()
    app = make_app(Places([url], is_given=True), access, SystemClock())
    with closing(Client(app, {access.cookie_name: access.cookie})) as found:
        yield found


def study(url: str, name: str, *sizes: int, odd: str = "") -> StudyObjects:
    objects = StudyObjects(open_store(url), name, SystemClock())
    stored(made_up(sizes or (12, 6), (3, 1), odd=odd, name=name), objects)
    return objects


class Reader(HTMLParser):
    """Collects the kinds of elements, and the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[tuple[str, ...]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(tag,), *((tag, name) for name, _ in attrs)}


def test_studies_are_listed_with_those_that_cannot_be_read(url: str, client: Client) -> None:
    assert "There is no study in these stores" in client.get("/studies").text
    study(url, "good")
    bad = study(url, "bad")
    bad.store.put(bad.keys.record, b"garbage")
    page = client.get("/studies").text
    assert 'href="/studies/0/good"' in page
    assert "the record of a study cannot be read" in page
    assert client.get("/studies/0/bad").status_code == 500


def test_a_study_has_its_stages_figures_failures_artefacts_and_lineage(url: str, client: Client) -> None:
    study(url, "good", 40, 12)
    answer = client.get("/studies/0/good")
    assert answer.headers["content-security-policy"] == POLICY
    for words in ("52 of 52 trials ended", "the best 3 by loss", "figures/funnel.svg?theme=dark", "ValueError: loss is nan", "model", "starburst study fetch good"):  # fmt: skip
        assert words in answer.text, words
    facts = made_up((40, 12), (3, 1), name="good")
    winner = facts.winner()
    assert winner is not None
    for one in facts.lineage(winner.name):
        assert f">{one.trial}</th>" in answer.text


def test_names_that_try_to_break_out_stay_text(url: str, client: Client) -> None:
    study(url, "plain", odd="plain")
    study(url, "hostile", odd=ODD)
    plain, hostile = (Reader(client.get(f"/studies/0/{name}").text) for name in ("plain", "hostile"))
    assert hostile.found == plain.found
    assert "script" in {tag for tag, *_ in plain.found}  # its own, which is the only one
    assert client.get("/studies/0/hostile").text.count("<script") == 1


@pytest.mark.parametrize(
    ("kind", "head", "media"),
    [
        ("svg?theme=light&v=1", b"<?xml", "image/svg+xml"),
        ("svg?theme=dark&v=1", b"<?xml", "image/svg+xml"),
        ("svg", b"<?xml", "image/svg+xml"),
        ("png", b"\x89PNG", "image/png"),
        ("pdf", b"%PDF", "application/pdf"),
        ("csv", b"stage,state", "text/csv; charset=utf-8"),
    ],
)
def test_figures_as_files(url: str, client: Client, kind: str, head: bytes, media: str) -> None:
    study(url, "good")
    answer = client.get(f"/studies/0/good/figures/funnel.{kind}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    assert answer.content.startswith(head)
    is_shown = "theme" in kind
    assert ("attachment" in answer.headers.get("content-disposition", "")) is not is_shown
    assert answer.headers["cache-control"] == ("private, max-age=3600" if is_shown else "no-store")


@pytest.mark.parametrize(
    "path",
    [
        "/studies/0/nothing",
        "/studies/1/good",
        "/studies/0/good%20one",
        "/studies/x/good",
        "/studies/0/good/figures/pie.svg",
        "/studies/0/good/figures/funnel.gif",
        "/studies/0/good/figures/funnel.dark",
    ],
)
def test_what_is_not_there(url: str, client: Client, path: str) -> None:
    study(url, "good")
    assert client.get(path).status_code == 404


def test_a_study_that_was_deleted_ends_the_updates_of_its_page(
    url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_watch, "_QUIET_S", 0.1)  # it is complete, and so seldom looked at
    objects = study(url, "good")
    assert client.get("/studies/0/good").status_code == 200
    objects.store.delete([line.key for line in objects.store.list("studies/")])
    stream = client.get("/studies/0/good/events")
    assert "This study was deleted" in stream.text
    assert stream.text.rstrip().endswith("event: gone\ndata:")
    assert client.get("/studies/0/good").status_code == 404
    study(url, "good", 20, 10)  # another one of that name
    assert "30 trials ended" in client.get("/studies/0/good").text


def test_the_report_is_a_file(url: str, client: Client) -> None:
    study(url, "good")
    answer = client.get("/studies/0/good/report")
    assert answer.headers["content-disposition"] == 'attachment; filename="good.html"'
    assert "<h1>Study good</h1>" in answer.text


def test_without_matplotlib_a_page_has_everything_but_figures(
    url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    study(url, "good")
    page = client.get("/studies/0/good").text
    assert "Figures need matplotlib" in page
    assert "the best 3 by loss" in page
    assert '<img src="/studies' not in page
    assert client.get("/studies/0/good/figures/funnel.svg").status_code == 404


def test_a_watch_reads_only_what_changed(url: str) -> None:
    async def run() -> None:
        objects = study(url, "good", 40, 12)
        watch = StudyWatch(url, "good", SystemClock())
        first = await watch.fresh(0)
        assert await watch.fresh(0) is first
        drawn = await watch.figure("funnel", "light")
        assert await watch.figure("funnel", "light") is drawn
        objects.change(lambda record: replace(record, state=OPEN, stages=(record.stages[0], replace(record.stages[1], state=PENDING, table=None, survivors=()))))  # fmt: skip
        second = await watch.fresh(0)
        assert second.version != first.version
        assert second.facts.stages[0].rows is first.facts.stages[0].rows  # the table was not read again
        assert await watch.figure("funnel", "light") != drawn
        objects.store.put(objects.keys.record, b"garbage")
        third = await watch.fresh(0)
        assert "cannot be read" in third.problem
        assert third.facts is second.facts
        await watch.close()

    asyncio.run(run())


def running_stage(objects: StudyObjects) -> tuple[StageRecord, dict[int, TrialRow]]:
    """Make the second stage a running one; return it, and trials of it."""
    record = objects.read()
    curves = objects.read_table(record.stages[0].table or "")
    running = replace(record.stages[1], state=RUNNING, table=None, survivors=())
    objects.change(lambda record: replace(record, state=OPEN, stages=(record.stages[0], running)))
    return running, {row.index: replace(row, stage="fine") for row in curves[:12]}


def test_figures_of_a_running_stage_are_live(url: str) -> None:
    async def run() -> None:
        objects = study(url, "good", 40, 12)
        running, rows = running_stage(objects)
        clock = FakeClock(0)
        watch, live = StudyWatch(url, "good", clock), Live()
        shown = [await watch.fresh(0)]
        for n in (4, 8):
            live.publish(objects, [(running, {index: rows[index] for index in range(n)})])
            # Most figures are drawn again, so this is not looked at each time.
            clock.advance(1)
            assert (await watch.fresh(0)).trials_version == shown[-1].trials_version
            clock.advance(21)
            snapshot = await watch.fresh(0)
            shown.append(snapshot)
            assert len(snapshot.facts.stage("fine").rows) == n
            curve = await watch.figure("metrics", "csv")
            assert curve is not None
            assert curve.decode().count("fine/") == n
        assert len({snapshot.version_of("curves") for snapshot in shown}) == 3
        await watch.close()

    asyncio.run(run())


def test_figures_that_show_a_choice_of_trials_change_with_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr(live_rows, "_MOST_ROWS", 3)
        objects = study(url, "good", 40, 12)
        running, rows = running_stage(objects)
        clock = FakeClock(0)
        watch, live, versions = StudyWatch(url, "good", clock), Live(), set()
        for n in (4, 8):
            live.publish(objects, [(running, {index: rows[index] for index in range(n)})])
            clock.advance(21)
            snapshot = await watch.fresh(0)
            assert len(snapshot.facts.stage("fine").rows) == 3
            versions.add(snapshot.version_of("curves"))
        assert len(versions) == 2
        await watch.close()

    asyncio.run(run())


def test_every_update_is_small_also_with_long_names(url: str, client: Client) -> None:
    objects = study(url, "hostile", odd="<&\"'>" * 200)
    objects.change(lambda record: replace(record, state=OPEN, stages=(record.stages[0], replace(record.stages[1], state=RUNNING))))  # fmt: skip
    page = client.get("/studies/0/hostile")
    assert page.status_code == 200

    async def read() -> dict[str, str]:
        watch = StudyWatch(url, "hostile", SystemClock())
        made = fragments(await watch.fresh(0), "/studies/0/hostile")
        await watch.close()
        return made

    made = asyncio.run(read())
    tab, seen = Tab("study"), dict[str, str]()
    while (data := tab.update(made)) is not None:
        assert len(data.encode()) <= MOST_BYTES
        seen |= json.loads(data)
    assert set(seen) == set(made)
    assert not any("too much to send" in html for html in seen.values())


def test_five_thousand_trials_make_a_page_of_bounded_size(url: str, client: Client) -> None:
    objects = StudyObjects(open_store(url), "big", SystemClock())
    stored(made_up((3500, 1000, 500), (40, 10, 1), name="big"), objects)
    page = client.get("/studies/0/big")
    assert "5,000 of 5,000 trials ended" in page.text
    assert len(page.content) < 40_000
    begun = time.process_time()
    assert client.get("/studies/0/big").content == page.content
    assert time.process_time() - begun < 1
