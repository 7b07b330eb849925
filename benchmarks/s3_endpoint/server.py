"""HTTP/1.1 over one event loop: reads requests, lets time pass, answers, counts.

A hand-made parser, since a client and fifty workers share the machine with this; README.md of the benchmarks has its
cost. It reads what S3's clients send, one request at a time per connection, bodies with a length.

An answer is found at the *end* of its latency: a write becomes visible when it is acknowledged, and the condition of a
write must hold until then. So races are lost as often as possible.

    GET /_control/counts      requests by kind since the start, refusals, bytes, and this process's CPU seconds, in JSON
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TextIO

from benchmarks.s3_endpoint.answers import Answer, Request, Service
from benchmarks.s3_endpoint.latency import Latency

__all__ = ["AWS_LIMITS", "Connection", "Endpoint", "Limits"]

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_CONTROL = "_control"  # not a valid name of a bucket


@dataclass(frozen=True)
class Limits:
    """Requests a second. A bucket is one partition of S3 that is never split."""

    n_reads: float
    n_writes: float


# The rates that S3 guarantees for each partition; LIST counts as a read.
# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
AWS_LIMITS = Limits(n_reads=5500, n_writes=3500)


@dataclass
class Endpoint:
    """The state that all connections share.

    Args:
        trace: A file with a line for each request: times of arrival and answer, connection, kind, status, key.
    """

    latency: Latency
    limits: Limits | None = None
    trace: TextIO | None = None
    service: Service = field(default_factory=Service)
    counts: Counter[str] = field(default_factory=Counter)
    _spent: dict[tuple[str, bool], float] = field(default_factory=dict)
    n_connections: int = 0

    def counted(self) -> Answer:
        counts = {**self.counts, "cpu_s": time.process_time(), "connections": self.n_connections}
        return Answer(200, "Content-Type: application/json\r\n", json.dumps(counts).encode())

    def is_throttled(self, request: Request, kind: str, now: float) -> bool:
        """Return whether this request exceeds the rate: a token bucket that holds one second's tokens."""
        if self.limits is None:
            return False
        is_read = kind in ("get", "head", "list")
        gap = 1.0 / (self.limits.n_reads if is_read else self.limits.n_writes)
        at = max(self._spent.get((request.bucket, is_read), 0.0), now - 1.0)
        if at + gap > now + gap / 1000:  # sums of floats are not exact
            return True
        self._spent[request.bucket, is_read] = at + gap
        return False


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._request: Request | None = None
        self._n_body = 0
        self._is_busy = False
        endpoint.n_connections += 1
        self._number = endpoint.n_connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # as a TCP server makes it
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_busy:
            self._advance()

    def _advance(self) -> None:
        """Take one complete request from the buffer, if there is one."""
        if self._request is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].decode("latin-1")
            del self._buffer[: end + 4]
            self._begin(head)
        if self._request is not None and len(self._buffer) >= self._n_body:
            request, self._request = self._request, None
            if self._n_body:
                request.body = _unwrapped(bytes(memoryview(self._buffer)[: self._n_body]), request)
                del self._buffer[: self._n_body]
            self._is_busy = True
            self._take(request)

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "transfer-encoding" in headers:
            self._transport.write(_bytes(Answer(501), "GET"))
            self._transport.close()
            return
        self._request = Request.parse(method, target, headers)
        self._n_body = int(headers.get("content-length", 0))
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take(self, request: Request) -> None:
        endpoint = self._endpoint
        if request.bucket == _CONTROL:
            self._send(endpoint.counted(), request.method)
            return
        kind, now = request.kind, self._loop.time()
        if endpoint.is_throttled(request, kind, now):
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self._finish(request, kind, now, Answer(503, "Content-Type: application/xml\r\n", body))
            return
        delay_s = endpoint.latency.draw_s(kind)
        if delay_s:
            self._loop.call_later(delay_s, self._answer, request, kind, now)
        else:
            self._answer(request, kind, now)

    def _answer(self, request: Request, kind: str, came: float) -> None:
        self._finish(request, kind, came, self._endpoint.service.answer(request))

    def _finish(self, request: Request, kind: str, came: float, answer: Answer) -> None:
        endpoint = self._endpoint
        counts = endpoint.counts
        counts["not_modified" if answer.status == HTTPStatus.NOT_MODIFIED else kind] += 1
        counts["bytes_in"] += len(request.body)
        counts["bytes_out"] += len(answer.body)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            counts[f"status_{answer.status}"] += 1
        if endpoint.trace is not None:
            endpoint.trace.write(
                f"{came:.4f} {self._loop.time():.4f} {self._number} {kind} {answer.status} {len(request.body)} "
                f"{len(answer.body)} {request.key or request.query.get('prefix', '-')}\n"
            )
        self._send(answer, request.method)

    def _send(self, answer: Answer, method: str) -> None:
        if not self._transport.is_closing():
            self._transport.write(_bytes(answer, method))
        self._is_busy = False
        if self._buffer:
            self._advance()


def _bytes(answer: Answer, method: str) -> bytes:
    has_body = method != "HEAD" and answer.status not in (HTTPStatus.NOT_MODIFIED, HTTPStatus.NO_CONTENT)
    length = "" if answer.status == HTTPStatus.NOT_MODIFIED else f"Content-Length: {len(answer.body)}\r\n"
    head = f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n{answer.headers}{length}\r\n".encode()
    return head + answer.body if has_body else head


def _unwrapped(body: bytes, request: Request) -> bytes:
    """Return the body without the frames that some clients put around its parts (`Content-Encoding: aws-chunked`)."""
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return body
    pieces = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        n_bytes = int(body[at:end].partition(b";")[0], 16)
        if not n_bytes:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + n_bytes])
        at = end + 2 + n_bytes + 2
