"""Launchers' options are plain values: compared by their fields, used by any number of sessions, opened without a request."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from starburst_executor import Batch, Ec2, Fargate, Local
from starburst_executor.launch.base import Options
from starburst_executor.testing import FakeClock

HERE = {"image": "workers:1", "stack": "team", "region": "eu-west-1"}
KINDS: list[Options] = [Local(agents=2), Fargate(cpu=2, **HERE), Ec2(gpus=1, **HERE), Batch(spot=True, **HERE)]


@pytest.mark.parametrize("options", KINDS, ids=lambda options: type(options).__name__)
def test_a_copy_is_equal_and_each_opening_is_a_launcher_of_its_own(options: Options) -> None:
    copy = pickle.loads(pickle.dumps(options))
    assert copy == options
    assert hash(copy) == hash(options)
    first, second = options.open(FakeClock()), options.open(FakeClock())
    assert first is not second
    assert first.name == second.name
    assert options == copy, "opening it changes nothing"


@pytest.mark.parametrize("options", KINDS, ids=lambda options: type(options).__name__)
@pytest.mark.parametrize("handle", ["", "no handle", "00", "c0ffee"])
def test_a_handle_that_is_malformed_has_no_workers(options: Options, handle: str) -> None:
    workers = options.open(FakeClock()).resume(handle)
    assert workers.deaths() == []
    assert workers.expected() == []
    assert (workers.slots_alive(), workers.interruptions(), workers.shed(5)) == (0, 0, 0)
    assert workers.describe() == ""
    assert not workers.give_up("a-worker", "no beat")
    for verb in (workers.drain, workers.kill, workers.end_session, workers.let_go, workers.forget):
        verb()


def test_options_are_made_and_opened_without_the_sdk_of_aws() -> None:
    """As is another user's session that is only read."""
    program = (
        "import sys\nfrom starburst_executor import Batch, Ec2, Fargate\n"
        "for kind in (Fargate, Ec2, Batch): kind()\n"
        "assert 'boto3' not in sys.modules and 'botocore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
