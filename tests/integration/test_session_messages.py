"""Messages to a local web server and a local mail server, with senders that are killed in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_string
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from aiosmtpd.controller import Controller

from starburst_executor import DetachedExecutor
from starburst_executor.protocol.failures import TOO_MANY_FAILURES
from starburst_executor.protocol.money import BUDGET_EXCEEDED
from starburst_executor.protocol.records import SessionState
from tests.sessions import agent_pids, detached, wait_until
from tests.support.inside import session_of
from tests.support.moto_server import MotoServer

COMMAND_S = 100


class Hook:
    """A web server that keeps what is posted to it, and may do something before it answers."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.before_answer: Callable[[], None] = lambda: None
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append(json.loads(body))
                hook.before_answer()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server.server_port}/path"

    @property
    def ids(self) -> list[str]:
        return [note["message"].splitlines()[-1].rpartition("/")[2] for note in self.got]

    def published(self) -> list[str]:
        """The messages of a topic of SNS."""
        notes = [note["Message"] for note in self.got if note.get("Type") == "Notification"]
        return [note.splitlines()[-1].rpartition("/")[2] for note in notes]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


def half(x: int) -> float:
    return 1 / (x - 2)


def ended(store_url: str) -> DetachedExecutor:
    executor = detached(store_url, workers=1)
    wait([executor.submit(half, x) for x in range(4)])
    return executor


def waiting(executor: DetachedExecutor, *urls: str) -> subprocess.Popen[str]:
    words = [word for url in urls for word in ("--notify", url)]
    command = [sys.executable, "-m", "starburst_executor.cli", "wait", executor.url, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_message_arrives_although_its_sender_is_killed(store_url: str, hook: Hook) -> None:
    executor = ended(store_url)
    sender = waiting(executor, hook.url)

    def kill() -> None:
        # The message has arrived; its sender can neither know that nor mark it.
        os.kill(sender.pid, signal.SIGKILL)
        sender.wait()

    hook.before_answer = kill
    sender.communicate(timeout=COMMAND_S)
    assert hook.ids == ["first-failure"]
    hook.before_answer = lambda: None
    sender = waiting(executor, hook.url)
    output, _ = sender.communicate(timeout=COMMAND_S)
    assert sender.returncode == 1, output  # a task has failed
    # The repetition has the same id. What was marked is not sent again.
    assert hook.ids == ["first-failure", "first-failure", "completed-4"]
    waiting(executor, hook.url).communicate(timeout=COMMAND_S)
    assert len(hook.got) == 3
    assert "3 completed, 1 failed" in hook.got[-1]["message"]
    assert f"starburst errors {executor.id}" in hook.got[-1]["message"]
    executor.cleanup(force=True)


def test_the_dashboard_sends_messages_while_no_browser_looks(tmp_path: Any, hook: Hook) -> None:
    executor = ended(f"sqlite://{tmp_path}/sessions")
    command = [sys.executable, "-m", "starburst_executor.cli", "dashboard", executor.url, "--notify", hook.url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sender:
        hook.before_answer = sender.kill
        assert sender.wait(COMMAND_S) == -signal.SIGKILL
    assert hook.ids == ["first-failure"]
    hook.before_answer = lambda: None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sender:
        wait_until(lambda: not executor.status().unsent and "completed-4" in hook.ids)
        sender.terminate()
    assert hook.ids == ["first-failure", "first-failure", "completed-4"]
    executor.cleanup(force=True)


class Mails:
    """A mail server that keeps what it gets, and may do something before it answers."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.before_answer: Callable[[], None] = lambda: None
        with socket.socket() as free:  # aiosmtpd does not choose one itself
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self.controller.start()

    @property
    def url(self) -> str:
        address = f"smtp=127.0.0.1&port={self.port}&mode=insecure&from=me@example.org&to=you@example.org"
        return f"mailto://127.0.0.1:{self.port}?{address}"

    @property
    def ids(self) -> list[str]:
        texts = [message_from_string(text).get_payload(decode=True) for text in self.got]
        return [re.findall(r"message \S+/(\S+)", text.decode())[-1] for text in texts if isinstance(text, bytes)]

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.got.append(envelope.content.decode())
        self.before_answer()
        return "250 OK"


@pytest.fixture
def mails() -> Iterator[Mails]:
    mails = Mails()
    yield mails
    mails.controller.stop()


def test_mail_arrives_although_its_sender_is_killed(tmp_path: Any, mails: Mails) -> None:
    executor = ended(f"sqlite://{tmp_path}/sessions")
    sender = waiting(executor, mails.url)
    mails.before_answer = sender.kill
    sender.communicate(timeout=COMMAND_S)
    assert mails.ids == ["first-failure"]
    mails.before_answer = lambda: None
    sender = waiting(executor, mails.url)
    output, _ = sender.communicate(timeout=COMMAND_S)
    assert sender.returncode == 1, output
    assert mails.ids == ["first-failure", "first-failure", "completed-4"]
    assert "Subject:" in mails.got[1]
    assert executor.id in mails.got[1]
    executor.cleanup(force=True)


ENDS = {
    "max-failures": (SessionState.BROKEN, TOO_MANY_FAILURES),
    "budget": (SessionState.BROKEN, BUDGET_EXCEEDED),
    "broken": (SessionState.BROKEN, ""),
    "expired": (SessionState.EXPIRED, ""),
}


@pytest.mark.stress
@pytest.mark.parametrize("event", ENDS)
def test_every_message_reaches_every_recipient_although_each_one_kills_its_sender(
    tmp_path: Any, hook: Hook, mails: Mails, event: str
) -> None:
    executor = ended(f"sqlite://{tmp_path}/sessions")
    state, error = ENDS[event]
    session_of(executor).manifest.change(lambda manifest: replace(manifest, state=state, error=error, reason="a test"))
    n_runs = 0
    while n_runs < 9:
        n_runs += 1
        sender = waiting(executor, hook.url, mails.url)
        n_before = [len(hook.ids), len(mails.ids)]

        def kill(server: Hook | Mails, n: int, sender: subprocess.Popen[str] = sender) -> None:
            # Each server kills the sender of what it gets for the first time.
            if any(server.ids.count(message) == 1 for message in server.ids[n:]):
                sender.kill()

        hook.before_answer = partial(kill, hook, n_before[0])
        mails.before_answer = partial(kill, mails, n_before[1])
        sender.communicate(timeout=COMMAND_S)
        if sender.returncode != -signal.SIGKILL:
            break
    assert n_runs == 5  # four deaths: of two messages to two recipients
    for server in (hook, mails):
        assert Counter(server.ids) == {"first-failure": 2, event: 2}
    assert executor.status().unsent == ()
    executor.cleanup(force=True)


def test_a_wrong_url_is_refused_before_anything_is_started(tmp_path: Any) -> None:
    command = [
        sys.executable,
        "-m",
        "starburst_executor.cli",
        "wait",
        f"sqlite://{tmp_path}/x/y",
        "--notify",
        "oops://se:cret@x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S)
    assert done.returncode == 2
    assert "cret" not in done.stderr


def test_workers_send_to_a_topic_with_no_client_there_although_one_is_killed(
    tmp_path: Any, hook: Hook, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    sns = boto3.client("sns")
    topic = sns.create_topic(Name=f"topic-{tmp_path.name}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=hook.url.replace("json://", "http://"))
    hook.got.clear()  # of the subscription
    monkeypatch.setenv("STARBURST_TOPIC", topic)
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)

    has_left = threading.Event()

    def kill() -> None:
        # The topic has the message; its sender can neither know that nor mark it.
        assert has_left.wait(COMMAND_S)
        hook.before_answer = lambda: None
        for pid in agent_pids(executor.url):
            os.kill(pid, signal.SIGKILL)

    hook.before_answer = kill
    wait([executor.submit(half, x) for x in range(4)])
    executor.detach()
    has_left.set()
    wait_until(lambda: hook.got and not agent_pids(executor.url))
    first = hook.published()
    with worker_of(executor):
        wait_until(lambda: {"first-failure", "completed-4"} <= set(hook.published()[len(first) :]))
        # What has arrived is marked afterwards.
        wait_until(lambda: not executor.status().unsent)
    assert set(first) == {"first-failure"}
    assert set(hook.published()) == {"first-failure", "completed-4"}
    executor.cleanup(force=True)


@contextmanager
def worker_of(executor: DetachedExecutor) -> Iterator[None]:
    """A worker that is started by hand."""
    environment = {**os.environ, "STARBURST_KEY": executor.key.hex()}
    command = [sys.executable, "-m", "starburst_executor.worker", executor.url, "--slots", "1"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
