"""The files that start workers on other people's machines, by ssh, Slurm and Kubernetes: each makes a real worker join.

ssh and Slurm are stand-ins that run the same commands on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from starburst_executor import DetachedExecutor
from tests.support.moto_server import ROOT

FILES = ROOT / "examples" / "workers"


def run(executor: DetachedExecutor, command: list[str], environment: dict[str, str]) -> None:
    """Run what starts workers until the session's tasks are done and the session is over."""
    starter = subprocess.Popen(command, env={**os.environ, "PYTHON": sys.executable, **environment})
    try:
        assert [future.result() for future in executor.futures] == [x * x for x in range(20)]
        executor.cleanup()
        assert starter.wait() == 0
    finally:
        starter.kill()
        starter.wait()
        executor.cleanup(force=True)


def session() -> DetachedExecutor:
    executor = DetachedExecutor(workers=2, launcher="none")
    for x in range(20):
        executor.submit(pow, x, 2)
    return executor


def test_workers_join_by_ssh(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$1" >> "$MACHINES"\nunset STARBURST_KEY\nexec sh -c "$2"\n', encoding="utf-8")
    ssh.chmod(0o755)
    executor = session()
    run(
        executor,
        ["sh", str(FILES / "ssh.sh"), executor.url, "1", "one", "two"],
        {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "MACHINES": str(tmp_path / "machines"),
            "STARBURST_KEY": executor.key.hex(),
        },
    )
    assert sorted((tmp_path / "machines").read_text().split()) == ["one", "two"]


def test_workers_join_as_slurm_jobs() -> None:
    executor = session()
    run(
        executor,
        ["sh", str(FILES / "slurm.sh")],
        {"URL": executor.url, "SLURM_CPUS_PER_TASK": "2", "STARBURST_KEY": executor.key.hex()},
    )


def test_workers_join_as_pods() -> None:
    job = yaml.safe_load((FILES / "kubernetes.yaml").read_text(encoding="utf-8"))
    [container] = job["spec"]["template"]["spec"]["containers"]
    executor = session()
    command = [executor.url if word == "SESSION_URL" else word for word in container["command"]]
    assert command[0] == "python"
    [name] = [one["name"] for one in container["env"]]
    run(executor, [sys.executable, *command[1:]], {name: executor.key.hex()})
