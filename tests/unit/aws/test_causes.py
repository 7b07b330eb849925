"""`causes.py`: one failure out of many events, and what to do about it."""

from __future__ import annotations

import pytest

from starburst_executor.aws.stack.causes import Cause, advice, first_cause


def event(resource: str, status: str, reason: str = "", kind: str = "AWS::EC2::VPC") -> dict[str, str]:
    return {
        "LogicalResourceId": resource,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
        "ResourceType": kind,
    }


def test_the_first_failure_is_the_cause_and_its_echoes_are_not():
    newest_first = [
        event("starburst", "ROLLBACK_COMPLETE", kind="AWS::CloudFormation::Stack"),
        event("Repository", "DELETE_FAILED", "RepositoryNotEmptyException"),
        event("starburst", "ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create: [Vpc, Bucket]."),
        event("Bucket", "CREATE_FAILED", "Resource creation cancelled"),
        event("Vpc", "CREATE_FAILED", "The maximum number of VPCs has been reached."),
        event("Vpc", "CREATE_IN_PROGRESS"),
    ]
    assert first_cause(newest_first) == Cause("Vpc", "AWS::EC2::VPC", "The maximum number of VPCs has been reached.")
    assert first_cause([event("Vpc", "CREATE_COMPLETE")]) is None


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "User: arn:aws:iam::1:user/u is not authorized to perform: iam:CreateRole on resource: r",
            "lack the right iam:CreateRole",
        ),
        (
            "API: ec2:CreateVpc You are not authorized to perform this operation.",
            "lack the right that the message names",
        ),
        (
            "… is not authorized to perform: s3:CreateBucket with an explicit deny in a service control policy",
            "your organisation",
        ),
        ("The maximum number of VPCs has been reached. (Service: Ec2, Status Code: 400)", "--vpc ID --subnet ID"),
        ("The maximum number of internet gateways has been reached", "L-A4707A72"),
        ("You have attempted to create more buckets than allowed", "L-DC2B2D3D"),
        ("Resource of type 'AWS::ECR::Repository' with identifier 'starburst' already exists.", "use another name"),
        (
            "Unable to assume the service linked role. Please verify that the ECS service linked role exists.",
            "in a minute",
        ),
        ("Rate exceeded (Service: Iam)", "run the same command again"),
        ("The bucket you tried to delete is not empty", "starburst teardown"),
        ("The subnet ID 'subnet-1' does not exist", "correct --vpc and --subnet"),
        ("You have reached the limit on compute environments: limit exceeded", "quota"),
        ("something that nobody has seen", "correct the problem in the message"),
    ],
)
def test_advice(reason, said):
    assert said in advice(reason)
