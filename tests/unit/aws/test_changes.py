"""`changes.py` against a CloudFormation whose answers are written down: failures, waiting, states that were left behind."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from starburst_executor.aws.stack.changes import Change, Changes
from starburst_executor.config import AwsSettings
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.testing import FakeClock


def error(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Any")


class FakeCloudFormation:
    """One stack, whose state is the next of a list at each look, and whose events are listed up to that state.

    Attributes:
        states: What DescribeStacks answers, one after the other, the last one for ever; "" for no stack.
        proposal: What DescribeChangeSet answers.
        events: Newest first, by the number of looks after which they are there.
    """

    def __init__(self, *states: str, events: list[dict[str, str]] | None = None) -> None:
        self.states = list(states)
        self.proposal: dict[str, Any] = {"Status": "CREATE_COMPLETE", "Changes": []}
        self.events = events or []
        self.calls: list[str] = []
        self.begun = False
        self.refusal: ClientError | None = None

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.refusal is not None:
            raise self.refusal

    def describe_stacks(self, StackName):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if not state:
            raise error("ValidationError", f"Stack with id {StackName} does not exist")
        return {"Stacks": [{"StackStatus": state, "StackId": "arn:stack", "Parameters": [{"ParameterKey": "Ec2"}]}]}

    def create_change_set(self, **asked):
        self._note(f"create {asked['ChangeSetType']}")
        self.parameters = asked["Parameters"]

    def describe_change_set(self, **_):
        if "create CREATE" not in self.calls and "create UPDATE" not in self.calls:
            raise error("ChangeSetNotFound", "no such change set")
        return self.proposal

    def execute_change_set(self, **_):
        self._note("execute")
        self.begun = True

    def delete_change_set(self, **_):
        self._note("drop")

    def delete_stack(self, StackName):
        self._note("delete")
        self.begun = True

    def get_paginator(self, _):
        return self

    def paginate(self, StackName):
        yield {"StackEvents": self.events if self.begun else []}


class FakeClients:
    settings = AwsSettings(region="eu-west-1")
    region = "eu-west-1"

    def __init__(self, cloudformation: FakeCloudFormation) -> None:
        self._cloudformation = cloudformation

    def get(self, service):
        assert service == "cloudformation"
        return self._cloudformation


def changes_of(cloudformation: FakeCloudFormation) -> tuple[Changes, list[str]]:
    said: list[str] = []
    return Changes(FakeClients(cloudformation), FakeClock(), said.append), said  # type: ignore[arg-type]


def event(number: int, resource: str, status: str, reason: str = "") -> dict[str, str]:
    kind = "AWS::CloudFormation::Stack" if resource == "starburst" else "AWS::EC2::VPC"
    return {
        "EventId": str(number),
        "LogicalResourceId": resource,
        "ResourceType": kind,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }


FAILED = [
    event(5, "starburst", "ROLLBACK_COMPLETE"),
    event(4, "Bucket", "CREATE_FAILED", "Resource creation cancelled"),
    event(3, "Vpc", "CREATE_FAILED", "The maximum number of VPCs has been reached."),
    event(2, "Vpc", "CREATE_IN_PROGRESS"),
    event(1, "starburst", "CREATE_IN_PROGRESS", "User Initiated"),
]


def test_a_failure_is_told_by_its_first_cause_and_what_to_do():
    cloudformation = FakeCloudFormation("REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE", events=FAILED)
    changes, said = changes_of(cloudformation)
    with pytest.raises(LaunchError) as caught:
        changes.apply()
    assert str(caught.value) == (
        "stack 'starburst' in eu-west-1: ROLLBACK_COMPLETE: Vpc (AWS::EC2::VPC): The maximum number of VPCs has been "
        "reached.; use an existing VPC (--vpc ID --subnet ID --subnet ID), or request a higher quota of VPCs (L-F678F1CE)"
    )
    assert [line.split() for line in said][:2] == [
        ["create", "in", "progress", "starburst"],
        ["create", "in", "progress", "Vpc"],
    ]
    assert said[2].endswith("Vpc: The maximum number of VPCs has been reached.")
    assert len(said) == len(FAILED)


def test_right_after_the_call_the_state_before_it_is_not_taken_for_the_end():
    changing = ["CREATE_COMPLETE", "CREATE_COMPLETE", "CREATE_COMPLETE", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"]
    cloudformation = FakeCloudFormation(*changing)
    cloudformation.events = []
    begun, done = event(1, "starburst", "UPDATE_IN_PROGRESS"), event(2, "starburst", "UPDATE_COMPLETE")
    looks = iter([[], [], [], [begun], [done, begun]])
    cloudformation.paginate = lambda StackName: iter([{"StackEvents": next(looks, [])}])  # type: ignore[method-assign]
    changes, said = changes_of(cloudformation)
    changes.apply()
    assert [line.split()[0:2] for line in said] == [["update", "in"], ["update", "complete"]]


def test_nothing_differs_is_no_failure():
    cloudformation = FakeCloudFormation("CREATE_COMPLETE")
    cloudformation.proposal = {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}
    assert changes_of(cloudformation)[0].propose("", {}, {}) is None


def test_proposals_are_refused_in_words():
    cloudformation = FakeCloudFormation("")
    cloudformation.proposal = {"Status": "FAILED", "StatusReason": "Parameter Zones failed to satisfy constraint"}
    with pytest.raises(LaunchError, match="CloudFormation refused the changes: Parameter Zones failed"):
        changes_of(cloudformation)[0].propose("", {}, {})


def test_a_proposal_names_what_is_replaced_and_keeps_what_is_not_chosen():
    cloudformation = FakeCloudFormation("UPDATE_COMPLETE")
    record = {"Action": "Modify", "LogicalResourceId": "Vpc", "ResourceType": "AWS::EC2::VPC", "Replacement": "True"}
    cloudformation.proposal = {"Status": "CREATE_COMPLETE", "Changes": [{"ResourceChange": record}]}
    (change,) = changes_of(cloudformation)[0].propose("", {"Batch": "yes"}, {}) or []
    assert change == Change("Modify", "Vpc", "AWS::EC2::VPC", replaced=True)
    assert str(change).endswith("(replaced)")
    assert cloudformation.parameters == [
        {"ParameterKey": "Batch", "ParameterValue": "yes"},
        {"ParameterKey": "Ec2", "UsePreviousValue": True},
    ]


@pytest.mark.parametrize(
    ("states", "calls"),
    [
        ([""], ["create CREATE"]),
        (["REVIEW_IN_PROGRESS"], ["create CREATE"]),
        (["CREATE_COMPLETE"], ["create UPDATE"]),
        (["UPDATE_ROLLBACK_COMPLETE"], ["create UPDATE"]),
        (["UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"], ["create UPDATE"]),
        (["ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE", "DELETE_IN_PROGRESS", ""], ["delete", "create CREATE"]),
        (["DELETE_FAILED", "DELETE_FAILED", "DELETE_IN_PROGRESS", ""], ["delete", "create CREATE"]),
        (["CREATE_IN_PROGRESS", "CREATE_IN_PROGRESS", "CREATE_FAILED", "CREATE_FAILED", "CREATE_FAILED", ""],
         ["delete", "create CREATE"]),
    ],
)  # fmt: skip
def test_whatever_an_earlier_attempt_left_is_gone_on_from(states, calls):
    cloudformation = FakeCloudFormation(*states)
    changes_of(cloudformation)[0].propose("", {}, {})
    assert cloudformation.calls == calls


def test_a_stuck_roll_back_needs_a_person():
    with pytest.raises(LaunchError, match="aws cloudformation continue-update-rollback --stack-name starburst"):
        changes_of(FakeCloudFormation("UPDATE_ROLLBACK_FAILED"))[0].propose("", {}, {})


def test_a_missing_right_is_named():
    cloudformation = FakeCloudFormation("")
    cloudformation.refusal = error(
        "AccessDenied", "User u is not authorized to perform: cloudformation:CreateChangeSet on …"
    )
    with pytest.raises(
        LaunchError, match="lack the right cloudformation:CreateChangeSet: have an administrator grant it"
    ):
        changes_of(cloudformation)[0].propose("", {}, {})
    cloudformation.refusal = error("ExpiredToken", "The security token included in the request is expired")
    with pytest.raises(ConfigError, match="the credentials have expired: log in again"):
        changes_of(cloudformation)[0].propose("", {}, {})


def test_what_cannot_be_deleted_is_said():
    failed = [event(2, "Bucket", "DELETE_FAILED", "The bucket you tried to delete is not empty")]
    cloudformation = FakeCloudFormation("CREATE_COMPLETE", "DELETE_IN_PROGRESS", "DELETE_FAILED", events=failed)
    with pytest.raises(LaunchError, match="not empty; it is not empty: `starburst teardown` empties it first"):
        changes_of(cloudformation)[0].delete()
