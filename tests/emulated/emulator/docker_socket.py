"""A small fake of Docker's socket API: the part that MiniStack's ECS calls. A container is a process on this machine.

    python docker_socket.py --socket PATH --work FOLDER --worker-python PATH

Whatever image is asked for, the process runs `python -m starburst_executor.worker` with the interpreter given, which is
what the entry point of the worker image does. Each container has a folder FOLDER/<id> with `config.json` (as Docker was
asked for it) and `log`. The program ends, and kills all its processes, on SIGTERM or when its standard input closes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NEVER = "0001-01-01T00:00:00Z"  # Docker's word for a time that has not come
STREAM = "application/vnd.docker.raw-stream"


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Container:
    """One container: created, then running, then exited."""

    def __init__(self, name: str | None, config: dict[str, Any], work: Path, worker_python: str) -> None:
        self.id = uuid.uuid4().hex * 2
        self.name = name or self.id[:12]
        self.config = config
        self.python = worker_python
        self.status, self.exit_code = "created", 0
        self.created, self.started, self.finished = now(), NEVER, NEVER
        self.folder = work / self.id[:12]
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.log.touch()
        (self.folder / "config.json").write_text(json.dumps(config, indent=1))
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = threading.Event()

    def start(self) -> None:
        entry_point = self.config.get("Entrypoint") or [self.python, "-m", "starburst_executor.worker"]
        path = f"{os.path.dirname(self.python)}:{os.defpath}"
        environment = {"PATH": path, "HOME": str(self.folder), "TMPDIR": str(self.folder), "LANG": "C.UTF-8"}
        for line in self.config.get("Env") or []:
            key, _, value = line.partition("=")
            # There is no network of containers: the host is this machine.
            environment[key] = value.replace("host.docker.internal", "127.0.0.1")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*entry_point, *(self.config.get("Cmd") or [])],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.status, self.started = "running", now()
        threading.Thread(target=self._watch, args=(self.process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        self.exit_code = 128 - code if code < 0 else code
        self.finished, self.status = now(), "exited"
        self.ended.set()

    def kill(self, number: int) -> None:
        """Docker signals the first process only; SIGKILL ends the whole container."""
        if self.process is None or self.ended.is_set():
            return
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if number == signal.SIGKILL else os.kill)(self.process.pid, number)

    def stop(self, grace_s: float) -> None:
        self.kill(signal.SIGTERM)
        if self.process is not None and not self.ended.wait(grace_s):
            self.kill(signal.SIGKILL)
            self.ended.wait(5)

    def inspect(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Created": self.created,
            "Image": "sha256:0",
            "State": {
                "Status": self.status,
                "Running": self.status == "running",
                "ExitCode": self.exit_code,
                "StartedAt": self.started,
                "FinishedAt": self.finished,
            },
            # Tty: the log is plain bytes rather than Docker's frames of stdout and stderr.
            "Config": {"Tty": True, **{key: self.config.get(key) for key in ("Labels", "Env", "Image")}},
            "HostConfig": {"LogConfig": {"Type": "json-file"}},
            "NetworkSettings": {"Networks": {}, "IPAddress": "127.0.0.1", "Ports": {}},
        }

    def summary(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "Labels": self.config.get("Labels") or {},
            "State": self.status,
            "Image": self.config.get("Image"),
            "ImageID": "",
        }


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, socket: Path, work: Path, worker_python: str) -> None:
        self.work, self.worker_python = work, worker_python
        self.containers: dict[str, Container] = {}
        self.lock = threading.Lock()
        super().__init__(str(socket), Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)  # BaseHTTPRequestHandler wants an address and a port

    def listed(self) -> list[Container]:
        with self.lock:
            return list(self.containers.values())

    def find(self, key: str) -> Container | None:
        return next((one for one in self.listed() if one.id.startswith(key) or one.name == key), None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        try:
            self._answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_DELETE = do_PUT = do_HEAD = handle_any

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = re.sub(r"^/v[\d.]+", "", url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/_ping":
            self._send(200, b"OK", "text/plain")
        elif path == "/version":
            self._json(
                200, {"ApiVersion": "1.45", "MinAPIVersion": "1.24", "Version": "fake", "Os": "linux", "Arch": "amd64"}
            )
        elif path == "/info":
            self._json(200, {"ServerVersion": "fake"})
        elif path == "/containers/create":
            server = self.server
            made = Container(query.get("name"), json.loads(body), server.work, server.worker_python)
            with server.lock:
                server.containers[made.id] = made
            self._json(201, {"Id": made.id, "Warnings": []})
        elif path == "/containers/json":
            self._json(200, [one.summary() for one in self.server.listed()])
        elif path.startswith("/images/create"):
            self._send(200, b'{"status":"pulled"}\n')
        elif path.startswith("/images/"):
            self._json(200, {"Id": f"sha256:{'0' * 64}", "RepoTags": [], "RepoDigests": [], "Config": {}})
        elif path.startswith("/networks"):
            self._json(200, [])
        elif match := re.fullmatch(r"/containers/([^/]+)(?:/(\w+))?", path):
            self._container(unquote(match[1]), match[2], query)
        else:
            self._unknown()

    def _container(self, key: str, action: str | None, query: dict[str, str]) -> None:
        container = self.server.find(key)
        if container is None:
            self._json(404, {"message": f"No such container: {key}"})
        elif self.command == "DELETE":
            container.stop(0)
            with self.server.lock:
                self.server.containers.pop(container.id, None)
            self._send(204)
        elif action == "json":
            self._json(200, container.inspect())
        elif action == "start":
            container.start()
            self._send(204)
        elif action == "stop":
            container.stop(float(query.get("t", 10)))
            self._send(204)
        elif action == "kill":
            name = query.get("signal", "SIGKILL")
            container.kill(int(name) if name.isdigit() else getattr(signal, name))
            self._send(204)
        elif action == "wait":
            container.ended.wait()
            self._json(200, {"StatusCode": container.exit_code})
        elif action == "logs" and query.get("follow", "").lower() in ("1", "true"):
            self._follow(container)
        elif action == "logs":
            self._send(200, container.log.read_bytes(), STREAM)
        else:
            self._unknown()

    def _follow(self, container: Container) -> None:
        self.send_response(200)
        self.send_header("Content-Type", STREAM)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with container.log.open("rb") as log:
            while True:
                ended = container.ended.is_set()  # before reading, so that the last lines are not lost
                if data := log.read():
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                elif ended:
                    break
                else:
                    container.ended.wait(0.2)
        self.wfile.write(b"0\r\n\r\n")

    def _unknown(self) -> None:
        print(f"not implemented: {self.command} {self.path}", file=sys.stderr, flush=True)
        self._json(404, {"message": f"not implemented: {self.command} {self.path}"})

    def _json(self, code: int, value: Any) -> None:
        self._send(code, json.dumps(value).encode())

    def _send(self, code: int, body: bytes = b"", content_type: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Api-Version", "1.45")
        self.end_headers()
        self.wfile.write(body)


def wait_for_end_of_input() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock this thread would hold at exit
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--work", type=Path, required=True, help="a folder for containers")
    parser.add_argument("--worker-python", required=True, help="the interpreter of an environment with the library")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.socket.unlink(missing_ok=True)
    server = Server(arguments.socket, arguments.work.resolve(), os.path.abspath(arguments.worker_python))
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    signal.signal(signal.SIGINT, lambda *_: end.set())
    threading.Thread(target=lambda: (wait_for_end_of_input(), end.set()), daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    end.wait()
    server.shutdown()
    for container in server.listed():
        container.kill(signal.SIGTERM)
    deadline = time.monotonic() + 5
    for container in server.listed():
        container.stop(max(0.0, deadline - time.monotonic()))
    arguments.socket.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
