"""Every page of real sessions, on both stores: what they show, and that nothing a task wrote can leave its place."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from starburst_executor import DetachedExecutor
from starburst_executor.clock import SystemClock
from starburst_executor.dashboard.app import make_app
from starburst_executor.dashboard.hub import Places
from starburst_executor.dashboard.safety import POLICY, Access
from starburst_executor.dashboard.tabs import MOST_BYTES
from tests.sessions import detached, kill_workers, run_python, wait_until
from tests.support.dashboard import BREAKOUTS, Client, busy_session, running
from tests.support.inside import key_of
from tests.support.s3_server import S3Server


class Session:
    """A session that has ended its tasks, and where it is."""

    def __init__(self, store_url: str, executor: DetachedExecutor) -> None:
        self.store_url = store_url
        self.id = executor.id
        self.url = executor.url
        self.key = key_of(executor)
        self.base = f"/s/{executor.id}"


@pytest.fixture(scope="module", params=["sqlite", "s3"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One session for all tests that only read, on each store."""
    folder = tmp_path_factory.mktemp("dashboard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STARBURST_HOME", str(folder / "home"))
        if request.param == "sqlite":
            store_url = f"sqlite://{folder}/sessions"
        else:
            server: S3Server = request.getfixturevalue("s3_server")
            server.use(patch)
            store_url = f"s3://{server.bucket}{folder}"
        executor = busy_session(store_url)
        executor.detach()
        yield Session(store_url, executor)
        kill_workers(f"{folder}/")


@pytest.fixture(autouse=True)
def key(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's key, which is in another home than that of each test."""
    monkeypatch.setenv("STARBURST_KEY", bytes(session.key).hex())


@contextmanager
def client_of(session: Session, access: Access | None = None) -> Iterator[Client]:
    access = access or Access()
    app = make_app(Places([session.store_url], is_given=True), access, SystemClock())
    cookies = {access.cookie_name: access.cookie}
    with closing(Client(app, cookies)) as client:
        yield client


@pytest.fixture
def client(session: Session) -> Iterator[Client]:
    """A browser that has the cookie."""
    with client_of(session) as found:
        yield found


# What the pages themselves write, and nothing else may.
TAGS = frozenset(
    """
    html head meta title link script noscript body a header nav main footer div section article h1 h2 h3 p
    span b i small strong code pre ul li dl dt dd table caption thead tbody tr th td time svg path rect
    figure figcaption form fieldset legend label input button details summary br img
    """.split()  # noqa: SIM905 - shorter than a list of strings
)
ATTRIBUTES = frozenset(
    """
    lang charset name content http-equiv rel href type src defer data-events data-now data-since
    class id tabindex aria-label aria-current aria-labelledby aria-hidden aria-live aria-sort role scope
    colspan datetime viewbox preserveaspectratio focusable x width height d alt method action value checked
    placeholder maxlength open title required autocomplete for
    """.split()  # noqa: SIM905 - shorter than a list of strings
)


class Page(HTMLParser):
    """What a browser would make of a page: its elements, texts of scripts, and links."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style") and data.strip():
            self.inline.append(data)
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.add(f"comment {data}")


def page_of(answer: httpx.Response, code: int = 200) -> Page:
    """Check what every page must keep, and return it."""
    assert answer.status_code == code, answer.text
    assert answer.headers["content-security-policy"] == POLICY
    page = Page(answer.text)
    assert page.inline == []
    assert page.tags <= TAGS, page.tags - TAGS
    assert page.attributes <= ATTRIBUTES, page.attributes - ATTRIBUTES
    assert [link for link in page.links if not link.startswith(("/", "?", "#")) or link.startswith("//")] == []
    assert "broken out" not in "".join(re.findall(r"<title>.*?</title>", answer.text))
    return page


def failed_task(i: int) -> str:
    return BREAKOUTS[i % len(BREAKOUTS)]


def squeezed(text: str) -> str:
    """Return text as pages show it, without blanks."""
    shown = text.translate({0x1B: 0x241B, 0: 0x2400, 0x202E: 0xFFFD})
    return "".join(shown.split())


def test_the_list_of_sessions_leads_to_the_session(session: Session, client: Client) -> None:
    page = page_of(client.get("/"))
    assert session.base in page.links
    assert "60 of 60" in page.text
    assert "open" in page.text
    assert "6" in page.text


def test_the_first_answer_of_a_session_holds_its_counts(session: Session, client: Client) -> None:
    page = page_of(client.get(session.base))
    text = squeezed(page.text)
    assert "60of60tasksended" in text
    assert "completed54" in text
    assert "failed6" in text
    assert "ValueError" in text
    assert "nothingwaits" in text
    assert re.search(r"thelasttimeby\d+requests,whichcostsnothinghere", text)


def test_tasks_are_filtered_sorted_and_counted(session: Session, client: Client) -> None:
    page = page_of(client.get(f"{session.base}/tasks"))
    assert f"{session.base}/t/0-59" in page.links
    assert "60 tasks" in page.text
    page = page_of(client.get(f"{session.base}/tasks?state=failed&sort=-seconds"))
    assert "6 tasks match" in page.text
    assert {link for link in page.links if "/t/" in link} == {f"{session.base}/t/0-{i}" for i in range(3, 60, 10)}
    assert "1 task matches" in page_of(client.get(f"{session.base}/tasks?text=reading 13")).text
    page = page_of(client.get(f"{session.base}/tasks", params={"label": BREAKOUTS[1], "state": "failed"}))
    assert "3 tasks match" in page.text
    assert page.text.count(BREAKOUTS[1]) == 4, "three labels, and the message of 0-13"
    assert {link for link in page.links if "/t/" in link} == {f"{session.base}/t/0-{i}" for i in (13, 33, 53)}
    assert "0 tasks match" in page_of(client.get(f"{session.base}/tasks", params={"label": BREAKOUTS[1][:-1]})).text
    assert "0 tasks match" in page_of(client.get(f"{session.base}/tasks?worker=%3Cscript%3Ealert(1)%3C/script%3E")).text
    forged = page_of(client.get(f"{session.base}/tasks?sort=%3Cscript%3E&after=x"), 400)
    assert "choose on the page" in forged.text


def test_what_a_task_wrote_is_text_on_every_page(session: Session, client: Client) -> None:
    for i in (3, 13, 23, 33, 43, 53):
        page = page_of(client.get(f"{session.base}/t/0-{i}"))
        assert squeezed(failed_task(i)) in squeezed(page.text)
        assert "ValueError" in page.text
    for i in (5, 15, 25, 35, 45, 55):
        assert squeezed(failed_task(i)) in squeezed(page_of(client.get(f"{session.base}/t/0-{i}")).text)
    for path in ("", "/tasks", "/tasks?state=failed", "/failures", "/workers"):
        page_of(client.get(f"{session.base}{path}"))


def test_a_task_has_its_label_and_its_attempts(session: Session, client: Client) -> None:
    # The second one, or a later one if a worker gave the task back before it had started it.
    text = squeezed(page_of(client.get(f"{session.base}/t/0-3")).text)
    (attempt,) = re.findall(r"Attempt(\d)Failedattempts2", text)
    assert int(attempt) >= 2
    assert re.search(rf"{int(attempt) - 1}ValueError.*{attempt}failed", text)
    # The list says the same, of tasks that were tried again under one claim too.
    _, *rows = re.findall(r"<tr>.*?</tr>", client.get(f"{session.base}/tasks?state=failed").text, re.DOTALL)
    assert len(rows) == 6
    (row,) = (row for row in rows if '/t/0-3"' in row)
    assert f'<td class="num">{attempt}</td>' in row
    assert not [row for row in rows if '<td class="num">1</td>' in row]
    page = page_of(client.get(f"{session.base}/t/0-13"))
    text = squeezed(page.text)
    assert squeezed(f"Label{BREAKOUTS[1]}") in text
    assert squeezed(f"1ValueError: bad reading 13: {failed_task(13)}")[:200] in text
    assert re.search(r"2failed\S{5,80}\d\d:\d\d:\d\dOfattempts", text)
    assert "followedbyanotherone" not in squeezed(page_of(client.get(f"{session.base}/t/0-14")).text)


def test_failures_are_sorted_by_kind_with_a_traceback_and_inputs(session: Session, client: Client) -> None:
    page = page_of(client.get(f"{session.base}/failures"))
    assert "6 × ValueError" in page.text
    assert "in hostile" in page.text
    assert "Traceback (most recent call last)" in page.text
    assert "3, payload=None" in page.text


@pytest.mark.parametrize("session", ["sqlite"], indirect=True)
def test_plain_values_are_shown_and_others_only_on_request(session: Session) -> None:
    access = Access()
    with client_of(session, access) as client:
        page = page_of(client.get(f"{session.base}/t/0-1"))
        assert "{'i': 1, 'text':" in page.text
        assert "Run its code" not in page.text
        page = page_of(client.get(f"{session.base}/t/0-9"))
        assert "Run its code" in page.text
        assert "<Odd" not in page.text
        path = f"{session.base}/t/0-9/result"
        page_of(client.get(path), 405)
        page_of(client.post(path, data={"form_token": "forged"}), 403)
        page_of(
            client.post(path, data={"form_token": access.form_token}, headers={"origin": "http://evil.example"}), 403
        )
        page = page_of(client.post(path, data={"form_token": access.form_token}))
        assert squeezed(f"<Odd {failed_task(9)}>") in squeezed(page.text)
        page = page_of(client.post(f"{session.base}/t/0-13/call", data={"form_token": access.form_token}))
        assert "13, payload=<Odd x>" in page.text


def test_without_the_key_counts_are_shown_and_values_are_not(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STARBURST_KEY")
    access = Access()
    with client_of(session, access) as client:
        page = page_of(client.get(session.base))
        assert "6 failed. Their kinds need the session" in page.text
        assert "bad reading" not in page.text
        page = page_of(client.get(f"{session.base}/t/0-3"))
        assert "ValueError" not in page.text
        assert "6 tasks match" in page_of(client.get(f"{session.base}/tasks?state=failed")).text
        page_of(client.post(f"{session.base}/t/0-9/result", data={"form_token": access.form_token}), 403)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/s/20200101-000000-0000dead", 404),
        ("/s/..%2f..%2fetc", 404),
        ("/s/A<script>", 404),
        ("/nothing", 404),
        ("{base}/t/0-99999", 404),
        ("{base}/t/x", 404),
        ("{base}/events?page=other", 404),
        ("{base}/events?page=task&subject=x", 400),
        ("{base}/actions/retry", 404),
        ("{base}/actions/other", 404),
        ("/static/../app.py", 404),
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(session: Session, client: Client, path: str, code: int) -> None:
    page_of(client.get(path.replace("{base}", session.base)), code)


def test_a_session_is_changed_only_if_allowed_and_asked(session: Session, tmp_path: Path) -> None:
    access = Access(allows_actions=True)
    with client_of(session, access) as client:
        assert f"{session.base}/actions/retry" in page_of(client.get(session.base)).links
        path = f"{session.base}/actions/extend"
        assert "How much later" in page_of(client.get(path)).text
        page_of(client.post(path, data={"value": "1h"}), 403)
        form = {"form_token": access.form_token, "value": "<b>never</b>"}
        for value in ("<b>never</b>", "1e400d", "nan", "inf", "-5m"):
            form["value"] = value
            assert "such as 30m" in page_of(client.post(path, data=form)).text
        form["value"] = "1h"
        assert "Done" in page_of(client.post(path, data=form)).text
        assert "tasks cancelled" in page_of(client.post(f"{session.base}/actions/cancel", data=form)).text


@pytest.mark.parametrize("session", ["sqlite"], indirect=True)
def test_a_running_task_is_stopped_by_its_button(session: Session, tmp_path: Path) -> None:
    access = Access(allows_actions=True)
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    own = Session(f"sqlite://{tmp_path}/sessions", executor)
    try:
        stop_by_button(own, executor, access)
    finally:
        executor.cleanup(force=True)
        kill_workers(f"{tmp_path}/")


def stop_by_button(own: Session, executor: DetachedExecutor, access: Access) -> None:
    with client_of(own, access) as client:
        future = executor.submit(time.sleep, 3600)
        wait_until(future.running)
        path = f"{own.base}/actions/stop"
        assert path in page_of(client.get(own.base)).links
        page_of(client.post(path, data={"form_token": "forged"}), 403)
        assert future.running()
        assert "Cancel every unfinished task" in page_of(client.get(path)).text
        assert "Done: 1 task cancelled" in page_of(client.post(path, data={"form_token": access.form_token})).text
        wait([future], timeout=60)
        assert future.cancelled()


def test_metrics_are_what_prometheus_reads(session: Session) -> None:
    access = Access()
    with client_of(session, access) as client:
        for _ in range(2):
            answer = client.get(f"{session.base}/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            families = {family.name: family for family in text_string_to_metric_families(answer.text)}
            tasks = {sample.labels["state"]: sample.value for sample in families["starburst_tasks"].samples}
            assert (tasks["completed"], tasks["failed"]) == (54, 6)
        page_of(client.get("/metrics"), 404)


def updates(stream: httpx.Response) -> Iterator[tuple[int, dict[str, str]]]:
    """Size and content of each update of a stream."""
    lines: list[str] = []
    for line in stream.iter_lines():
        if line:
            lines.append(line)
            continue
        if "event: update" in lines:
            [data] = [each[6:] for each in lines if each.startswith("data: ")]
            yield len("\n".join(lines).encode()) + 2, json.loads(data)
        lines = []


def test_updates_are_small_and_come_as_events(session: Session) -> None:
    with running(session.store_url, session.url) as dashboard, httpx.Client(timeout=60) as client:
        assert client.get(dashboard.url).status_code == 200
        base = dashboard.url.partition("?")[0]
        with client.stream("GET", f"{base}/events?page=session") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["content-security-policy"] == POLICY
            size, first = next(updates(stream))
        assert size <= MOST_BYTES
        assert first["n-failed"] == "6"
        assert "<script" not in json.dumps(first)
        assert "bad reading" in first["failures"]
        assert Page(first["failures"]).tags <= TAGS
        assert httpx.get(f"{base}/events?page=session").status_code == 401
        root = base.partition("/s/")[0]
        shown = client.get(f"{root}/").text
        seen = re.search(r"seen=(\w+)", shown)
        assert seen is not None
        # Who has the rows already is sent none; another tab is.
        for query, names in ((f"seen={seen[1]}", set()), ("", {f"^sessions/s-{session.id}"})):
            with client.stream("GET", f"{root}/events?{query}") as stream:
                size, first = next(updates(stream))
            assert size <= MOST_BYTES
            assert {name for name in first if name.startswith("^")} == names
            assert "requests/s" in first["usage"]
        assert httpx.get(f"{root}/events").status_code == 401


def test_a_session_that_is_deleted_ends_the_updates_of_its_pages(session: Session) -> None:
    doomed = detached(session.store_url, workers=1)
    assert doomed.submit(abs, -1).result() == 1
    with running(session.store_url, doomed.url) as dashboard, httpx.Client(timeout=60) as client:
        assert client.get(dashboard.url).status_code == 200
        base = dashboard.url.partition("?")[0]
        with client.stream("GET", f"{base}/events?page=task&subject=0-0") as stream:
            found = updates(stream)
            next(found)
            doomed.cleanup(force=True)
            last = [update for _, update in found][-1]  # the stream ends by itself
        assert "was deleted" in last["notice"]
        answer = client.get(base)
        assert answer.status_code == 404
        assert "The session" not in re.findall(r'class="button"[^>]*>([^<]*)', answer.text)
        # A browser repeats its request after an error, as often as it fails: the answer stays the same.
        answer = client.get(f"{base}/events?page=session")
        assert answer.status_code == 200
        assert "event: gone" in answer.text
        assert doomed.id not in client.get(f"{base.partition('/s/')[0]}/").text


@pytest.mark.parametrize("session", ["sqlite"], indirect=True)
def test_the_command_serves_a_page_and_logs_no_token(session: Session) -> None:
    program = "import faulthandler, sys; faulthandler.dump_traceback_later(90); from starburst_executor.cli import entry; sys.exit(entry(sys.argv[1:]))"
    with run_python(program, "dashboard", session.url, "--port", "0") as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert re.fullmatch(rf"http://127\.0\.0\.1:\d+{session.base}\?token=[\w-]{{43}}", address)
            with httpx.Client(timeout=60) as client:
                client.get(address)
                assert "60 of 60" in client.get(address.partition("?")[0]).text
        finally:
            process.terminate()
        assert address.partition("token=")[2] not in process.stdout.read()
