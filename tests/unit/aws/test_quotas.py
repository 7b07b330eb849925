"""What an account may run and what it runs: read as Service Quotas and CloudWatch tell it, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from starburst_executor.aws.billing.quotas import KINDS, kind_of_instance, read_quota, request_quota
from starburst_executor.cli.main import run
from starburst_executor.errors import ConfigError, LaunchError, QuotaExceeded
from starburst_executor.launch.aws.remote import Account
from starburst_executor.testing import FakeClock

METRIC = {
    "MetricNamespace": "AWS/Usage",
    "MetricName": "ResourceCount",
    "MetricDimensions": {"Service": "Fargate", "Type": "Resource", "Resource": "vCPU", "Class": "Standard/OnDemand"},
}


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Asked")


class FakeClients:
    """Both services in one; asked for by any name."""

    region = "eu-west-1"

    def __init__(self, applied: float | None = 64.0, values: list[float] | None = None) -> None:
        self.applied, self.values = applied, values if values is not None else [12.0, 10.0]
        self.refuses: dict[str, str] = {}
        self.metric: dict[str, Any] = METRIC
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get(self, service: str) -> FakeClients:
        return self

    def __getattr__(self, operation: str) -> Any:
        def ask(**request: Any) -> dict[str, Any]:
            self.asked.append((operation, request))
            if operation in self.refuses:
                raise refused(self.refuses[operation])
            return getattr(FakeClients, f"_{operation}")(self)  # type: ignore[no-any-return]

        return ask

    def _get_service_quota(self) -> dict[str, Any]:
        if self.applied is None:
            raise refused("NoSuchResourceException")
        return {"Quota": {"QuotaName": "Fargate vCPUs", "Value": self.applied, "UsageMetric": self.metric}}

    def _get_aws_default_service_quota(self) -> dict[str, Any]:
        return {"Quota": {"QuotaName": "Fargate vCPUs", "Value": 6.0, "UsageMetric": self.metric}}

    def _get_metric_data(self) -> dict[str, Any]:
        return {"MetricDataResults": [{"Id": "used", "Values": self.values}]}

    def _request_service_quota_increase(self) -> dict[str, Any]:
        return {"RequestedQuota": {"Status": "PENDING"}}


def read(clients: Any) -> Any:
    return read_quota(clients, KINDS["fargate"], FakeClock())


def test_what_is_left_is_the_limit_less_what_the_named_metric_said_last() -> None:
    clients = FakeClients()
    found = read(clients)
    assert (found.limit, found.in_use, found.room) == (64.0, 12.0, 52.0)
    (query,) = clients.asked[-1][1]["MetricDataQueries"]
    assert {"Name": "Service", "Value": "Fargate"} in query["MetricStat"]["Metric"]["Dimensions"]


def test_without_a_point_nothing_runs_and_without_a_metric_nobody_knows() -> None:
    assert read(FakeClients(values=[])).in_use == 0.0
    clients = FakeClients()
    clients.metric = {}
    assert (read(clients).in_use, read(clients).room) == (None, 64.0)


def test_a_quota_that_was_never_changed_is_the_default_one() -> None:
    assert read(FakeClients(applied=None)).limit == 6.0


def test_what_may_not_be_read_is_gone_on_without() -> None:
    clients = FakeClients()
    clients.refuses["get_metric_data"] = "AccessDenied"
    assert read(clients).in_use is None
    clients.refuses["get_service_quota"] = "AccessDeniedException"
    assert read(clients) is None


def test_more_in_use_than_allowed_leaves_nothing() -> None:
    assert read(FakeClients(applied=8.0)).room == 0.0


@pytest.mark.parametrize(
    ("instance_type", "kind"),
    [
        ("c7g.xlarge", "ec2"),
        ("m7i-flex.large", "ec2"),
        ("t3.micro", "ec2"),
        ("g5.xlarge", "ec2-gpu"),
        ("gr6.4xlarge", "ec2-gpu"),
        ("p5.48xlarge", None),
        ("inf2.xlarge", None),
        ("hpc7g.4xlarge", None),
        ("dl1.24xlarge", None),
        ("", None),
    ],
)
def test_an_instance_counts_against_the_quota_of_its_family(instance_type: str, kind: str | None) -> None:
    assert kind_of_instance(instance_type, spot=False) == kind
    assert kind_of_instance(instance_type, spot=True) == (kind and f"{kind}-spot")


def test_no_more_is_asked_for_than_fits() -> None:
    account = Account(None)  # type: ignore[arg-type]  # nothing of the settings is needed here
    account.__dict__["clients"] = FakeClients(applied=20.0)
    assert account.fitting("fargate", 2, 4.0) == (2, None)
    n_fit, error = account.fitting("fargate", 5, 4.0)
    assert n_fit == 2
    assert isinstance(error, QuotaExceeded)
    assert "may run 20 vCPUs" in str(error)
    assert "uses 12: 5 × 4 vCPUs do not fit, 2 do" in str(error)
    assert "starburst quota fargate --request 32" in str(error)
    with pytest.raises(QuotaExceeded):
        account.fitting("fargate", 1, 16.0)


def test_asking_for_more() -> None:
    clients: Any = FakeClients()
    assert request_quota(clients, KINDS["ec2-spot"], 256) == "PENDING"
    assert clients.asked[-1][1] == {"ServiceCode": "ec2", "QuotaCode": "L-34B43A08", "DesiredValue": 256}
    clients.refuses["request_service_quota_increase"] = "ResourceAlreadyExistsException"
    with pytest.raises(LaunchError, match="ResourceAlreadyExists"):
        request_quota(clients, KINDS["ec2-spot"], 256)
    with pytest.raises(ConfigError):
        request_quota(clients, KINDS["ec2-spot"], 0)


def test_the_command_shows_and_asks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clients = FakeClients()
    monkeypatch.setattr("starburst_executor.aws.clients.Clients", lambda _: clients)
    assert run(["quota", "fargate"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["fargate", "64", "12", "52"]
    monkeypatch.setattr("starburst_executor.aws.billing.quotas.read_quota", lambda *_: None)
    assert run(["quota", "fargate"]) == 0
    assert "?: these credentials may not read it" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("starburst_executor.aws.clients.Clients", lambda _: clients)
    assert run(["quota", "fargate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["kind"], found["quota"]["limit"]) == (1, "fargate", 64)
    assert run(["quota", "fargate", "--request", "128", "--yes"]) == 0
    assert "PENDING" in capsys.readouterr().out
    assert run(["quota", "moon"]) == 2
    assert "no such kind of quota: 'moon'" in capsys.readouterr().err
    assert run(["quota", "--request", "128"]) == 2
