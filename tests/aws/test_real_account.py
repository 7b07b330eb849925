"""The stack itself, as a real account has it; and one session on an EC2 instance, if the stack starts any."""

from __future__ import annotations

import pytest
import there

from starburst_executor import Ec2
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.doctor import WRONG, examine
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.clock import SystemClock
from tests.aws.conftest import Purse

pytestmark = [pytest.mark.aws, pytest.mark.timeout(1800)]


def test_doctor_finds_nothing_wrong(clients: Clients, real: Stack) -> None:
    findings = list(examine(clients, SystemClock()))
    print(*findings, sep="\n")
    # A small quota is the account's, not the stack's.
    assert [one for one in findings if one.verdict == WRONG and one.check != "quotas"] == []


def test_an_instance_with_the_image_that_parameter_store_names_joins_and_works(
    purse: Purse, clients: Clients, real: Stack
) -> None:
    if real.ec2_provider is None:
        pytest.skip("the stack has no EC2: `starburst setup --ec2`")
    with purse.attached(Ec2(spot=True, slots=1, **purse.here), 1) as executor:
        assert executor.submit(there.square, 7).result(timeout=900) == 49
