"""Messages to a local web server and a local mail server, with senders that are killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from starburst_executor import DetachedExecutor
from tests.sessions import detached

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


class Mails:
    def __init__(self) -> None:
        self.got: list[str] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.got.append(envelope.content.decode())
        return "250 OK"


def test_mail_arrives_and_a_recipient_that_is_down_changes_nothing(tmp_path: Any) -> None:
    executor = ended(f"sqlite://{tmp_path}/sessions")
    mails = Mails()
    with socket.socket() as free:  # aiosmtpd does not choose one itself
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(mails, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        address = f"smtp=127.0.0.1&port={port}&mode=insecure&from=me@example.org&to=you@example.org"
        sender = waiting(executor, f"mailto://127.0.0.1:{port}?{address}")
        output, _ = sender.communicate(timeout=COMMAND_S)
        assert sender.returncode == 1, output
        assert len(mails.got) == 2
        assert "Subject:" in mails.got[1]
        assert executor.id in mails.got[1]
    finally:
        controller.stop()
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
