"""The user's own modules on a worker elsewhere: started in another folder, with nothing of the client's on its path."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import boto3
import pytest

from tests.sessions import kill_workers, wait_until
from tests.support.moto_server import ROOT, MotoServer

# It leads its client line by line, so that a worker can be started between, and files be changed.
CLIENT = """
import importlib, json, sys
from dataclasses import replace
from starburst_executor import StarburstExecutor, Timings

import helper, pkg.deep
from space.part import leaf

timings = replace(Timings.remote(), beat_s=0.5, look_s=0.5, poll_max_s=0.2, bell_max_s=0.3)

def from_main(x):
    import lazy
    return lazy.times(x) + helper.plus(x)

def hello(word):
    global greeting
    greeting = pkg.deep.greet(word)

executor = StarburstExecutor(workers=2, store=sys.argv[1], launcher="none", timings=timings, initializer=hello, initargs=("hi",))
print(json.dumps([executor.url, executor.key.hex()]), flush=True)
for line in sys.stdin:
    found = eval(line)
    print(json.dumps(found if isinstance(found, str) else found.result(60)), flush=True)
executor.shutdown()
"""
MODULES = {
    "client.py": CLIENT,
    "helper.py": "def plus(x):\n    return x + 1\ndef where():\n    return __file__\n",
    "lazy.py": "def times(x):\n    return x * 10\n",
    "later.py": "import lazy\nclass Late:\n    def __init__(self, x):\n        self.x = x\n    def value(self):\n        return lazy.times(self.x)\n",
    "pkg/__init__.py": "",
    "pkg/deep.py": "from importlib.resources import files\ndef greet(word):\n    return files('pkg').joinpath('data/text.txt').read_text() + word\n",
    "pkg/data/text.txt": "the data says ",
    "pkg/.env": "SECRET=1",
    "space/part/leaf.py": "def name():\n    return __name__\n",
    "unused.py": "raise SystemExit('nobody imports this')",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "project"


class Client:
    """A program of the user's in another process, and a worker that knows nothing of it."""

    def __init__(self, project: Path, store: str, tmp_path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "STARBURST_HOME": str(tmp_path / "home")}
        self.process = subprocess.Popen(
            [sys.executable, "client.py", store],
            cwd=project, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.url, key = self.hear()
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "starburst_executor.worker", self.url, "--slots", "2"],
            cwd="/", env={**environment, "STARBURST_KEY": key, "TMPDIR": str(tmp_path), "STARBURST_HOME": "/nowhere"},
        )  # fmt: skip

    def hear(self) -> list[str]:
        output: IO[str] = self.process.stdout  # type: ignore[assignment]
        return json.loads(output.readline())

    def ask(self, expression: str) -> object:
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        stdin.write(expression + "\n")
        stdin.flush()
        return self.hear()

    def end(self) -> None:
        self.process.communicate()
        assert self.worker.wait(60) == 0


@pytest.fixture
def store(tmp_path: Path, moto_server: MotoServer) -> Iterator[str]:
    yield f"s3://{moto_server.bucket}{tmp_path}"
    kill_workers(f"{tmp_path}/")


def stored(server: MotoServer, tmp_path: Path) -> dict[str, object]:
    """The code in the store: when each was written, by key."""
    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket=server.bucket, Prefix=f"{str(tmp_path)[1:]}/code/").get("Contents", ())
    return {line["Key"]: line["LastModified"] for line in listed}


def test_a_worker_elsewhere_has_the_users_modules(
    project: Path, tmp_path: Path, store: str, moto_server: MotoServer
) -> None:
    client = Client(project, store, tmp_path)
    assert client.ask("executor.submit(from_main, 4)") == 45
    assert client.ask("executor.submit(helper.plus, 4)") == 5
    assert client.ask("executor.submit(leaf.name)") == "space.part.leaf"
    assert client.ask("executor.submit(lambda: greeting)") == "the data says hi"
    where = Path(str(client.ask("executor.submit(helper.where)")))
    assert where.parents[2] == tmp_path
    assert not (where.parent / "pkg/.env").exists()
    assert not (where.parent / "unused.py").exists()
    assert len(stored(moto_server, tmp_path)) == 1

    # Imported since the session began, and named by an argument only.
    assert client.ask("str(importlib.import_module('later'))")
    assert client.ask("executor.submit(lambda late: late.value(), sys.modules['later'].Late(7))") == 70
    assert len(stored(moto_server, tmp_path)) == 2

    # An edit alone changes nothing; a reload does, in runners that had imported what it was before.
    (project / "helper.py").write_text("def plus(x):\n    return x + 1000\n")
    assert client.ask("executor.submit(helper.plus, 4)") == 5
    assert client.ask("str(importlib.reload(helper))")
    assert client.ask("executor.submit(helper.plus, 4)") == 1004
    client.end()
    assert not where.parent.exists()  # the worker has removed what it unpacked

    # The next session writes no code: what it needs is there.
    before = stored(moto_server, tmp_path)
    (project / "helper.py").write_text(MODULES["helper.py"])
    client = Client(project, store, tmp_path)
    assert client.ask("executor.submit(from_main, 4)") == 45
    client.end()
    assert stored(moto_server, tmp_path) == before


def test_code_that_was_changed_in_the_store_is_not_run(
    project: Path, tmp_path: Path, store: str, moto_server: MotoServer
) -> None:
    client = Client(project, store, tmp_path)
    # The worker has the initializer's code; what comes with a new function is read when it is needed.
    assert client.ask("executor.submit(helper.plus, 4)") == 5
    (project / "helper.py").write_text("def plus(x):\n    return x + 1000\n")
    before = set(stored(moto_server, tmp_path))
    client.worker.send_signal(signal.SIGSTOP)
    assert client.ask("str(importlib.reload(helper))")
    assert client.ask("str(globals().update(future=executor.submit(helper.plus, 4)))")
    wait_until(lambda: set(stored(moto_server, tmp_path)) > before)
    [new] = set(stored(moto_server, tmp_path)) - before
    s3 = boto3.client("s3")
    s3.copy_object(Bucket=moto_server.bucket, Key=new, CopySource={"Bucket": moto_server.bucket, "Key": before.pop()})
    client.worker.send_signal(signal.SIGCONT)
    said = client.ask("repr(future.exception(60))")
    assert "code does not match its digest and was not run" in str(said)
    client.end()


def test_a_worker_that_is_killed_leaves_no_code_behind(project: Path, tmp_path: Path, store: str) -> None:
    client = Client(project, store, tmp_path)
    where = Path(str(client.ask("executor.submit(helper.where)")))
    root = where.parents[1]
    assert root.parent == tmp_path
    client.worker.kill()
    assert client.worker.wait() == -signal.SIGKILL
    wait_until(lambda: not root.exists())
    client.process.communicate()
