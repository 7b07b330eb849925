"""The environment of a worker's container, and its use by the image."""

from __future__ import annotations

import json
import re

from starburst_executor.launch.bootstrap import grace_of
from tests.support.aws_fakes.containers import ENTRY_POINT
from tests.support.moto_server import ROOT


def test_the_fakes_run_what_the_image_runs():
    """A job of Batch gives arguments only: what runs them is the image's."""
    dockerfile = (ROOT / "worker_image" / "Dockerfile").read_text(encoding="utf-8")
    match = re.search(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.MULTILINE)
    assert match is not None
    assert json.loads(match[1]) == ENTRY_POINT


def test_a_worker_of_batch_releases_its_tasks_before_it_is_killed():
    """Batch gives thirty seconds; on ECS the definition says how many, and the session's own time counts."""
    assert grace_of("batch", 30.0) == 20.0
    assert grace_of("batch", 5.0) == 5.0
    assert grace_of("ecs", 60.0) == grace_of(None, 60.0) == 60.0
