"""A local S3 over HTTP for tests: moto, with the atomic conditional writes that it lacks, in a process of its own.

moto checks a condition and then writes; between the two another request may slip in. Here one lock is around each
request, so that one writer wins per ETag, as on S3. One process speaks several dialects, each at its own endpoint and
all over the same buckets:

    plain     like Amazon
    odd       listings in no order, ETags without quotes, and conditions understood only so
    rude      500 to the loser of a conditional write
    lawless   conditions are ignored
    express   a directory bucket of S3 Express One Zone, beside the others: `express_bucket.py`

`python -m tests.support.moto_server` prints the endpoints and serves until its standard input ends. With `--account` it is an
account in which `starburst setup` finds all that it needs: `moto_more.py`.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.express_bucket import BEHIND, DirectoryBucket

DIALECTS = ("plain", "odd", "rude", "lawless", "express")
BUCKET = "starburst"
ROOT = Path(__file__).resolve().parents[2]
_LOST = b"<Error><Code>PreconditionFailed</Code><Message>If-Match</Message></Error>"


class MotoServer:
    """Endpoints of a running server and what a process must know to use them."""

    bucket = BUCKET

    def __init__(self, endpoints: dict[str, str]) -> None:
        self.endpoints = endpoints
        self.endpoint_url = endpoints["plain"]

    @property
    def environment(self) -> dict[str, str]:
        """What makes boto3 in any process talk to this server, whatever the machine's own AWS settings are."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """As `serving`."""
    with serving() as server:
        yield server


@contextmanager
def serving(*options: str) -> Iterator[MotoServer]:
    """A running server with one bucket; `AWS_*` variables point to it, for child processes too."""
    command = [sys.executable, "-m", "tests.support.moto_server", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    with process, process.stdin, pytest.MonkeyPatch.context() as patch:
        server = MotoServer(json.loads(process.stdout.readline()))
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


class _Dialect:
    """moto's WSGI application under the one lock, with a dialect's oddities."""

    lock = threading.Lock()

    def __init__(self, application: Any, dialect: str) -> None:
        self._application = DirectoryBucket(application) if dialect == "express" else application
        self._dialect = dialect

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # Outside of the lock, so that a stalled client does not delay others.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        self._translate_request(environ)
        with self.lock:
            if self._completes_too_late(environ):
                answer = ["412 Precondition Failed", [("Content-Type", "application/xml")], _LOST]
            else:
                answer = self._asked(environ)
        status, headers, body = self._translate_answer(environ, *answer)
        headers = [(name, value) for name, value in headers if name.lower() != "content-length" or not body]
        start_response(status, [*headers, ("Content-Length", str(len(body)))] if body else headers)
        return [body]

    def _asked(self, environ: dict[str, Any]) -> list[Any]:
        answer: list[Any] = []
        chunks = self._application(environ, lambda status, headers, _=None: answer.extend([status, headers]))
        return [*answer, b"".join(chunks)]

    def _completes_too_late(self, environ: dict[str, Any]) -> bool:
        """moto does not look at If-Match when a multipart upload is completed."""
        expected = environ.get("HTTP_IF_MATCH")
        if environ["REQUEST_METHOD"] != "POST" or "uploadId=" not in environ["QUERY_STRING"] or not expected:
            return False
        head = {**environ, "REQUEST_METHOD": "HEAD", "QUERY_STRING": "", "CONTENT_LENGTH": "0"}
        del head["HTTP_IF_MATCH"]
        _, headers, _ = self._asked(head)
        return bool(dict(headers).get("ETag") != expected)

    def _translate_request(self, environ: dict[str, Any]) -> None:
        for name in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            value = environ.get(name)
            if value and self._dialect == "lawless":
                del environ[name]
            elif value and value != "*" and self._dialect == "odd":
                environ[name] = '"quotes are not understood"' if value.startswith('"') else f'"{value}"'

    def _translate_answer(
        self, environ: dict[str, Any], status: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        if self._dialect == "rude" and status.startswith("412"):
            return "500 Internal Server Error", headers, body.replace(b"PreconditionFailed", b"InternalError")
        if self._dialect == "odd":
            headers = [(name, value.strip('"') if name == "ETag" else value) for name, value in headers]
            head, *lines = body.replace(b"&quot;", b"").split(b"<Contents>")
            if lines and environ["REQUEST_METHOD"] == "GET" and body.startswith(b"<?xml"):
                *lines, last = lines
                last, end, tail = last.partition(b"</Contents>")
                body = b"<Contents>".join([head, last + end, *reversed(lines)]) + tail
        return status, headers, body


def _list_services_once() -> None:
    """moto lists the folder of its own services twice for each request, which takes a quarter of the request's time."""
    from moto import backends

    names = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: names


def _serve() -> None:
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as on S3

    _list_services_once()
    if "--account" in sys.argv:
        importlib.import_module("tests.support.moto_more")  # adds what moto lacks
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    endpoints = {}
    for dialect in DIALECTS:
        server = make_server("127.0.0.1", 0, _Dialect(application, dialect), threaded=True, request_handler=Handler)
        threading.Thread(target=server.serve_forever, name=f"moto-{dialect}", daemon=True).start()
        endpoints[dialect] = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoints["plain"],
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket=BUCKET)
    client.create_bucket(Bucket=BEHIND)
    print(json.dumps(endpoints), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
