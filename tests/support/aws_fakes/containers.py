"""Containers as processes: what an ECS task or a job of Batch runs, on this machine, with its own environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.left_behind import MARKS
from tests.support.moto_server import ROOT

# As the image of `worker_image/Dockerfile` has it.
ENTRY_POINT = ["/usr/bin/tini", "-s", "--", "python", "-m", "starburst_executor.worker"]
_WORKER = ENTRY_POINT[-3:]


def environment_of(definition: dict[str, Any], override: dict[str, Any], secrets: dict[str, str]) -> dict[str, str]:
    """A container's variables: its definition's, the launch's own over them, and secrets by their values."""
    plain = [*definition.get("environment", []), *override.get("environment", [])]
    given = {variable["name"]: variable["value"] for variable in plain}
    return given | {secret["name"]: secrets[secret["valueFrom"]] for secret in definition.get("secrets", [])}


def refused_secret(definition: dict[str, Any], secrets: dict[str, str]) -> str | None:
    """What AWS says of a secret that the execution role may not read; None if it may read all.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
    """
    missing = [secret["valueFrom"] for secret in definition.get("secrets", []) if secret["valueFrom"] not in secrets]
    if not missing:
        return None
    what = f"arn:aws:ssm:us-east-1:123456789012:parameter/{missing[0].lstrip('/')}"
    action = "ssm:GetParameters"
    if ":secretsmanager:" in missing[0]:
        what, action = missing[0], "secretsmanager:GetSecretValue"
    return (
        "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to "
        "retrieve secrets: service call has been retried 1 time(s): AccessDeniedException: User: arn:aws:sts::123456789012:"
        f"assumed-role/execution/0a1b is not authorized to perform: {action} on resource: {what} because no identity-based "
        f"policy allows the {action} action"
    )


class Container:
    """One process; its output is kept as a log stream would be.

    Args:
        command: All that is run, entry point and arguments, in an image whose Python is this one.
        environment: What the container's definition says.
        platform: What the engine adds, credentials of the role included.
        hangs: It runs, and never comes as far as to say anything.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        platform: dict[str, str],
        folder: Path,
        *,
        hangs: bool = False,
    ) -> None:
        arguments = command[3:] if command[:3] == ENTRY_POINT[:3] else command
        assert arguments[:3] == _WORKER, command
        arguments = ["-c", "import signal; signal.pause()"] if hangs else arguments[1:]
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR", *MARKS)}
        # The image holds this library and the modules of the tests.
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "integration")])
        home = {"HOME": str(folder), "PYTHONPATH": path, "STARBURST_HOME": str(folder / "none")}
        self.environment = {**inherited, **home, **platform, **environment}
        self._log = folder / f"{os.urandom(8).hex()}.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments], env=self.environment, stdout=output, stderr=output, cwd=folder
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        """Its exit status as containers have it: 128 and the signal for one that was killed."""
        status = self._process.wait()
        return 128 - status if status < 0 else status

    def lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def stop(self, kill_after_s: float) -> None:
        """SIGTERM, then SIGKILL."""
        self._signal(signal.SIGTERM)
        timer = threading.Timer(kill_after_s, self.kill)
        timer.daemon = True
        timer.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
