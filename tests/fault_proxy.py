"""An HTTP proxy in front of a test's S3 server that does what networks and S3 do on bad days.

One thread accepts, one serves each connection; the server behind it is asked over a connection of its own per request.
What goes wrong is a plan, changed by the test while requests fly: for each request it says which fault, if any.

    with FaultProxy(s3_server.endpoint_url) as proxy:
        proxy.plan = in_turn(Fault.ANSWER_LOST, Fault.RESET, of=is_write)
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

__all__ = ["Asked", "Fault", "FaultProxy", "Plan", "by_chance", "in_turn", "is_write"]

_SLOW_S = 0.5
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "date", "server"})


class Fault(Enum):
    """What becomes of one request."""

    REFUSED = "connection reset before the server saw the request"
    ANSWER_LOST = "carried out; the connection is reset instead of an answer"
    ERROR_AFTER = "carried out; answered 500 InternalError"
    LATE = "the connection is reset; carried out a moment later"
    CUT = "carried out; half of the answer's body, then a reset"
    SLOW = "answered half a second late"
    SLOW_DOWN = "503 SlowDown, not carried out"
    CONFLICT = "409 ConditionalRequestConflict, not carried out"
    EXPIRED = "403 ExpiredToken, not carried out"
    DENIED = "403 AccessDenied, not carried out"
    EMPTY = "200 and nothing, not carried out"
    PAGE = "200 and a page of HTML, not carried out"


class Asked(NamedTuple):
    """One request, as a plan sees it."""

    method: str
    path: str
    headers: dict[str, str]


Plan: TypeAlias = Callable[[Asked], "Fault | None"]

_CODES = {
    Fault.ERROR_AFTER: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.EXPIRED: (403, "ExpiredToken"),
    Fault.DENIED: (403, "AccessDenied"),
}
# As a gateway answers that stands before the server.
_GATEWAY = {
    Fault.EMPTY: (200, [("Content-Type", "application/xml")], b""),
    Fault.PAGE: (
        200,
        [("Content-Type", "text/html"), ("ETag", '"page"')],
        b"<html><body><p>One moment.<br></body></html>",
    ),
}
_NOT_CARRIED_OUT = frozenset(
    {Fault.REFUSED, Fault.LATE, Fault.SLOW_DOWN, Fault.CONFLICT, Fault.EXPIRED, Fault.DENIED, *_GATEWAY}
)


def is_write(asked: Asked) -> bool:
    return asked.method in ("PUT", "POST", "DELETE")


def in_turn(*faults: Fault | None, of: Callable[[Asked], bool] = lambda _: True) -> Plan:
    """These faults, in this order, for the next requests of that kind; afterwards all goes well."""
    rest, lock = list(faults), threading.Lock()

    def plan(asked: Asked) -> Fault | None:
        with lock:
            return rest.pop(0) if rest and of(asked) else None

    return plan


def by_chance(seed: int, rate: float, *faults: Fault, of: Callable[[Asked], bool] = lambda _: True) -> Plan:
    """A share of the requests of that kind fails, with one of these faults by lot."""
    lots, lock = random.Random(seed), threading.Lock()

    def plan(asked: Asked) -> Fault | None:
        with lock:
            return lots.choice(faults) if of(asked) and lots.random() < rate else None

    return plan


class FaultProxy:
    """A proxy on a port of its own; `with` ends it, and every connection.

    Attributes:
        plan: Decides for each request; may be replaced at any time.
        counts: How often each fault was done, and None: how many requests went well.
    """

    def __init__(self, endpoint_url: str) -> None:
        self._behind = urlsplit(endpoint_url).netloc
        self.plan: Plan = lambda _: None
        self.counts: Counter[Fault | None] = Counter()
        self._lock = threading.Lock()  # guards: counts, _connections
        self._connections: set[socket.socket] = set()
        self._down = threading.Event()
        self._ended = threading.Event()  # what is late waits for this, so that the end does not wait for it
        self._late: list[threading.Thread] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="fault-proxy", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def go_down(self) -> None:
        """Be away: connections are reset, those that are open and those that come."""
        self._down.set()
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        self._down.clear()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self.go_down()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for thread in self._late:
            thread.join()

    # --- for the handler ----------------------------------------------------------------------------------------------

    def decide(self, asked: Asked) -> Fault | None:
        fault = Fault.REFUSED if self._down.is_set() else self.plan(asked)
        with self._lock:
            self.counts[fault] += 1
        return fault

    def connected(self, connection: socket.socket, *, is_open: bool) -> None:
        with self._lock:
            (self._connections.add if is_open else self._connections.discard)(connection)

    def forward(self, asked: Asked, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        behind = http.client.HTTPConnection(self._behind, timeout=30)
        try:
            behind.request(asked.method, asked.path, body or None, {**asked.headers, "Connection": "close"})
            answer = behind.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            behind.close()

    def pause(self) -> None:
        """Be late: this is the fault itself, and no wait for a condition. The end of the proxy ends it."""
        self._ended.wait(_SLOW_S)

    def forward_later(self, asked: Asked, body: bytes) -> None:
        def land() -> None:
            self.pause()
            with suppress(OSError, http.client.HTTPException):
                self.forward(asked, body)

        thread = threading.Thread(target=land, name="fault-proxy-late", daemon=True)
        self._late.append(thread)
        thread.start()


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            proxy.connected(self.connection, is_open=True)

        def finish(self) -> None:
            proxy.connected(self.connection, is_open=False)
            with suppress(OSError):
                super().finish()

        def handle(self) -> None:
            with suppress(OSError):
                super().handle()

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            asked = Asked(self.command, self.path, headers)
            fault = proxy.decide(asked)
            if fault is Fault.LATE:
                proxy.forward_later(asked, body)
            if fault in (Fault.REFUSED, Fault.LATE):
                self.reset()
                return
            answer = None if fault in _NOT_CARRIED_OUT else proxy.forward(asked, body)
            if fault is Fault.SLOW:
                proxy.pause()
            if fault is Fault.ANSWER_LOST:
                self.reset()
            elif fault in _CODES:
                self.answer_error(*_CODES[fault])
            elif fault in _GATEWAY:
                self.answer(*_GATEWAY[fault], cut=False)
            elif answer is not None:
                self.answer(*answer, cut=fault is Fault.CUT)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in (*_HOP_BY_HOP, "content-length"):
                    self.send_header(name, value)
            length = {name.lower(): value for name, value in headers}.get("content-length")
            if self.command == "HEAD" and length is not None:
                self.send_header("Content-Length", length)
            elif status not in (204, 304):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.reset()

        def answer_error(self, status: int, code: str) -> None:
            body = f"<Error><Code>{code}</Code><Message>a fault for a test</Message></Error>".encode()
            self.answer(
                status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else body, cut=False
            )

        def reset(self) -> None:
            """End the connection by RST, not in good order."""
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            # The files over the socket keep it open until `finish`; the peer is to hear of it now.
            with suppress(OSError):
                self.rfile.close()

        def log_message(self, *_: object) -> None:
            """Log nothing: requests are counted."""

    return Handler
