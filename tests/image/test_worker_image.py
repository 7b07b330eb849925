"""The real Dockerfile, built by a real engine, with a session inside: `make image-check`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.moto_server import ROOT

NO_ENGINE = 77


@pytest.mark.image
@pytest.mark.timeout(1800)
def test_a_session_runs_in_the_image() -> None:
    done = subprocess.run(
        [ROOT / "worker_image/smoke.sh"], env={**os.environ, "PYTHON": sys.executable}, check=False, cwd=ROOT
    )
    if done.returncode == NO_ENGINE:
        pytest.skip("neither docker nor podman nor buildah answers")
    assert done.returncode == 0
