"""An S3 that answers every request with what the test says, and remembers what it was asked."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

__all__ = ["Asked", "ScriptedServer", "scripted_server"]


class Asked(NamedTuple):
    """One request; names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedServer(ThreadingHTTPServer):
    """Attributes: what is answered.

    status: Of HTTP; or "close", "reset", "stall" for no answer at all.
    code: S3's word for an error; without one `body` is what is read.
    headers: In addition to the length and an ETag; None leaves one out.
    cut: By how many bytes the body is shorter than it should be.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.go_on = threading.Event()
        self.forget()

    def forget(self) -> None:
        """Be as new; what was stalled is let go."""
        self.go_on.set()
        self.go_on = threading.Event()
        self.status: int | str = 200
        self.code, self.body, self.cut = "", b"body", 0
        self.headers: dict[str, str | None] = {}
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]

    def handle_error(self, *_: object) -> None:
        """A client that goes away is part of the script."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def answer(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.asked.append(Asked(self.command, self.path, headers, body))
        if isinstance(server.status, str):
            self.end_without_answer(server.status)
            return
        body = (
            f"<Error><Code>{server.code}</Code><Message>no</Message></Error>".encode() if server.code else server.body
        )
        if server.status == 304 or (self.command == "PUT" and not server.code):
            body = b""
        self.send_response(server.status)
        if server.status != 304:
            self.send_header("Content-Length", str(len(body) + server.cut))
        usual = {"ETag": '"etag"', "Last-Modified": "Wed, 12 Oct 2022 17:50:00 GMT"}
        for name, value in {**usual, **server.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = self.close_connection or bool(server.cut)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def end_without_answer(self, how: str) -> None:
        self.close_connection = True
        if how == "stall":
            self.server.go_on.wait(30)
        elif how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                self.rfile.close()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """A running server; `with` ends it."""
    with ScriptedServer() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            made.go_on.set()
            made.shutdown()
            thread.join()
