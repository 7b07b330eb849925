"""Starts the emulated AWS: the fake Docker socket, and MiniStack on a free port. Run it with MiniStack's interpreter.

    python start.py --worker-python PATH [--auth] [--region NAME] [--log FILE]

Prints one line of JSON when both answer: `endpoint`, `region`, `access_key_id`, `secret_access_key`, `socket`, `work`,
and `environment`, the variables for the programs under test. Everything ends, and its temporary folder is removed, when
standard input closes or on SIGTERM. All state is in memory: each start is an empty account.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

HERE = Path(__file__).resolve().parent
START_S, STOP_S = 60.0, 15.0


def wait_for_end_of_input() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock this thread would hold at exit
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker-python", required=True, help="the interpreter of an environment with the library")
    parser.add_argument("--auth", action="store_true", help="check IAM policies; the printed keys are root's")
    parser.add_argument("--region", default="eu-west-1")
    parser.add_argument("--log", type=Path, help="where both write what they log; else nowhere")
    arguments = parser.parse_args()

    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    threading.Thread(target=lambda: (wait_for_end_of_input(), end.set()), daemon=True).start()

    work = Path(tempfile.mkdtemp(prefix="emulated-"))  # short: a socket's path has at most 107 bytes
    children: list[subprocess.Popen[bytes]] = []
    try:
        with (arguments.log or Path(os.devnull)).open("ab") as log:
            said = start(arguments, work, children, log)
        print(json.dumps(said), flush=True)
        while not end.wait(0.5):
            dead = next((child for child in children if child.poll() is not None), None)
            if dead is not None:
                print(f"{dead.args[1]} ended with status {dead.returncode}", file=sys.stderr)
                return 1
        return 0
    finally:
        # Containers first: what they still write has somewhere to go.
        for child in children:
            stop(child)
        shutil.rmtree(work, ignore_errors=True)


def start(
    arguments: argparse.Namespace, work: Path, children: list[subprocess.Popen[bytes]], log: BinaryIO
) -> dict[str, object]:
    docker, port = work / "docker.sock", free_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}  # MiniStack's root
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STARBURST_"))}
    environment = {
        **quiet,
        **keys,
        "DOCKER_HOST": f"unix://{docker}",
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": arguments.region,
        "AUTH": "true" if arguments.auth else "false",
        "IOT_MTLS_ENABLED": "false",  # these two listen on ports of their own
        "SFTP_ENABLED": "false",
        "TMPDIR": str(work),
        "STATE_DIR": str(work / "state"),
        "S3_DATA_DIR": str(work / "s3"),
    }

    def run(*command: str) -> subprocess.Popen[bytes]:
        # Their standard input closes with this process, even if it is killed.
        child = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd=work
        )
        children.append(child)
        return child

    python = os.path.abspath(shutil.which(arguments.worker_python) or arguments.worker_python)
    boxes = str(work / "containers")
    fake = run(str(HERE / "docker_socket.py"), "--socket", str(docker), "--work", boxes, "--worker-python", python)
    wait(docker.exists, fake)
    endpoint = f"http://127.0.0.1:{port}"
    wait(lambda: answers(endpoint), run(str(HERE / "patched.py")))
    return {
        "endpoint": endpoint,
        "region": arguments.region,
        "access_key_id": keys["AWS_ACCESS_KEY_ID"],
        "secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
        "socket": str(docker),
        "work": str(work),
        "environment": {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": arguments.region, **keys},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=2):
            return True
    except OSError:
        return False


def wait(is_ready: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not is_ready():
        # Between two looks it waits for the child's end, which it so sees at once.
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.1)
        if child.returncode is not None or time.monotonic() > deadline:
            raise SystemExit(f"{child.args[1]} did not start: see --log")


def stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    sys.exit(main())
