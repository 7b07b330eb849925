"""The client of `smoke.sh`: writes the folder to build in; runs a session whose only worker is in a container.

smoke.py context PROJECT FOLDER [BASE_IMAGE]     fills FOLDER; prints arguments for the container engine, a word a line
smoke.py session [--read-only] -- COMMAND …      COMMAND runs the image; "{env}" in it becomes --env options
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import smoke_tasks

from starburst_executor import StarburstExecutor, Timings
from starburst_executor.aws.image.environment import find_environment
from tests.support.moto_server import BUCKET, MotoServer, serving

# Folders besides /tmp in which Debian lets every user write. On a read-only root only mounted folders are writable.
WRITABLE = {"/tmp", "/var/tmp", "/run/lock", "/var/lock"}
N_TASKS = 500


def context(project: str, folder: str, base_image: str = "") -> None:
    environment = find_environment(Path(project), base_image=base_image or None)
    Path(folder).mkdir()
    for name, body in environment.files().items():
        Path(folder, name).write_bytes(body)
    for name, value in environment.build_arguments().items():
        print(f"--build-arg\n{name}={value}")


def session(command: list[str], *, is_read_only: bool) -> None:
    with serving() as server:
        timings = replace(Timings.remote(), beat_s=0.5, look_s=0.5)
        store = f"s3://{BUCKET}/smoke?endpoint_url={server.endpoint_url}"
        executor = StarburstExecutor(workers=2, store=store, launcher="none", timings=timings)
        worker = start(command, server, executor)
        found = executor.submit(smoke_tasks.look_around).result(120)
        for name, value in found.items():
            print(f"{name:20} {value}")
        check(found, is_read_only=is_read_only)
        assert executor.submit(smoke_tasks.keep_a_file, "text").result(60) == "text"
        assert list(executor.map(smoke_tasks.square, range(N_TASKS))) == [x * x for x in range(N_TASKS)]
        base = 7
        assert executor.submit(lambda x: x + base, 1).result(60) == 8
        executor.shutdown()
        assert worker.wait(60) == 0, f"the worker ended with status {worker.returncode}"
        print(f"a session of {N_TASKS + 3} tasks ran in a container; the worker left in good order")


def start(command: list[str], server: MotoServer, executor: StarburstExecutor) -> subprocess.Popen[bytes]:
    variables = {**server.environment, "STARBURST_KEY": executor.key.hex()}
    del variables["AWS_CONFIG_FILE"], variables["AWS_SHARED_CREDENTIALS_FILE"]
    options = [f"--env={name}={value}" for name, value in variables.items()]
    words = [word for given in command for word in (options if given == "{env}" else [given])]
    return subprocess.Popen([*words, executor.url, "--slots", "2"])


def check(found: dict[str, object], *, is_read_only: bool) -> None:
    assert found["python"] == list(sys.version_info[:2])
    assert (found["uid"], found["gid"]) == (10001, 10001), "runs as another user"
    assert str(found["library"]).startswith("/opt/starburst/venv/"), "not the installed library"
    assert found["is_compiled"], "every start would compile the library again"
    assert str(found["code"]).startswith("/tmp/starburst-code-"), "the user's module did not come with the session"
    assert found["temporary"] == "/tmp"
    assert not found["key_in_environment"]
    allowed = {"/tmp"} if is_read_only else WRITABLE
    assert set(found["writable"]) <= allowed, f"can be written: {found['writable']}"  # type: ignore[call-overload]


def main() -> None:
    parser = argparse.ArgumentParser(description="The client of smoke.sh.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("context")
    one.add_argument("words", nargs="+")
    two = commands.add_parser("session")
    two.add_argument("--read-only", action="store_true")
    two.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "context":
        context(*options.words)
    else:
        session(options.words[1:], is_read_only=options.read_only)


if __name__ == "__main__":
    main()
