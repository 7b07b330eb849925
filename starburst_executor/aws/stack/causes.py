"""Why a stack could not be made, in words: the first cause among its events, and what to do about it.

CloudFormation reports one failure many times: the resource that failed, those that were cancelled for it, and then the
roll back. Only the first says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Cause", "advice", "first_cause", "is_too_early", "start_advice"]

_RIGHTS = "docs/howto/aws-setup.md lists the rights that setting up needs"
# What the reason says, and what to do: the first that matches counts.
_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"explicit deny|service control policy",
        "a policy of your organisation forbids it: ask whoever administers the account",
    ),
    (
        r"not authorized to perform:? ?(?P<what>[\w-]+:\w+)",
        f"these credentials lack the right {{what}}: have an administrator grant it or deploy the template; {_RIGHTS}",
    ),
    (
        r"AccessDenied|UnauthorizedOperation|not authorized",
        f"these credentials lack the right that the message names: have an administrator grant it; {_RIGHTS}",
    ),
    (
        r"maximum number of VPCs|VpcLimitExceeded|NetworkVpcLimitExceeded",
        "use a VPC that exists (--vpc ID --subnet ID --subnet ID), or ask for a higher quota of VPCs (L-F678F1CE)",
    ),
    (
        r"maximum number of internet gateways|InternetGatewayLimitExceeded",
        "use a VPC that exists (--vpc ID --subnet ID --subnet ID), or ask for a higher quota of internet gateways (L-A4707A72)",
    ),
    (
        r"TooManyBuckets|more buckets than allowed",
        "delete a bucket that nobody needs, or ask for a higher quota of buckets (L-DC2B2D3D)",
    ),
    (
        r"LimitExceeded|[Qq]uota|limit.* (?:reached|exceeded)",
        "a quota of the account is used up: remove what is not needed, or ask for more in the Service Quotas console",
    ),
    (
        r"[Ss]ervice[- ][Ll]inked [Rr]ole|AWSServiceRoleFor",
        "a role that is linked to the service was missing or is too new to be seen: run the same again in a minute",
    ),
    (
        r"already exists|EntityAlreadyExists|AlreadyExistsException",
        (
            "something of that name is there already, perhaps from a stack that was not wholly removed: remove it, or choose "
            "another name (--stack NAME)"
        ),
    ),
    (
        r"RouteAlreadyExists|route table .* already has a route",
        "the route tables have an endpoint for S3 already: run the same again, and it is left out",
    ),
    (
        r"[Ii]nvalid.*(?:subnet|vpc)|does not exist.*(?:subnet|vpc)|(?:subnet|vpc)-\w+.* does not exist",
        "correct --vpc and --subnet: the subnets must be of that VPC and region",
    ),
    (
        r"[Rr]ate exceeded|Throttl|ServiceUnavailable|Internal(?:Failure|Error)",
        "AWS was busy: run the same again",
    ),
    (
        r"not empty|BucketNotEmpty|RepositoryNotEmpty",
        "it is not empty: `starburst teardown` empties it first",
    ),
    (
        r"SubscriptionRequired|OptInRequired|not subscribed",
        "the account or region is not enabled for this service yet: enable it in the console",
    ),
)
_ADVICE_ELSE = "correct what it says and run the same again"
_TOO_EARLY = (
    r"[Ii]nvalid IAM [Ii]nstance [Pp]rofile|not authorized to perform: sts:AssumeRole|cannot be assumed|"
    r"[Uu]nable to assume the|[Ii]nvalid [Pp]rincipal|[Vv]erify that the .*service[- ]linked role exists"
)
# The same of a worker that could not be started.
# Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
_START_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"(?:retrieve|pull) secrets?.*not authorized to perform: [\w:-]+ on (?:the )?resource:? \"?(?P<what>arn:[^\s\"]+)",
        "let workers be started with it: `starburst setup --secret {what}`",
    ),
    (
        r"(?:retrieve|pull) secrets?.*not authorized to perform: kms:Decrypt",
        "the secret's key is your own: `starburst setup --secret KEY-ARN` lets it be used",
    ),
    (
        r"(?:retrieve|pull) secrets?.*(?:ResourceNotFound|invalid ssm parameters|did not contain)",
        "correct the reference in secrets=, or make the secret",
    ),
    (
        r"iam:PassRole on resource:? \"?(?P<what>arn:[^\s\"]+)",
        "let users hand that role on: `starburst setup --pass-role {what}`",
    ),
    (
        r"unable to assume the role '(?P<what>[^']+)'",
        "{what} must trust ecs-tasks.amazonaws.com; of the stack's own `starburst doctor` says whether they are there",
    ),
)
_ECHOES = (
    "Resource creation cancelled",
    "Resource update cancelled",
    "Resource deletion cancelled",
    "The following resource",
)


@dataclass(frozen=True, slots=True)
class Cause:
    """One resource that failed, and why.

    Attributes:
        resource: Its name in the template.
        kind: Its type: `AWS::EC2::VPC`.
        reason: What its service said.
    """

    resource: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.resource} ({self.kind}): {self.reason}"


def first_cause(events: Iterable[dict[str, Any]]) -> Cause | None:
    """What failed first, among events as CloudFormation gives them, newest first; None if nothing did."""
    found = None
    for event in events:
        reason = str(event.get("ResourceStatusReason", ""))
        if str(event["ResourceStatus"]).endswith("_FAILED") and reason and not reason.startswith(_ECHOES):
            found = Cause(str(event["LogicalResourceId"]), str(event.get("ResourceType", "")), reason)
    return found


def advice(reason: str) -> str:
    """What to do about a reason."""
    return _found(_ADVICE, reason) or _ADVICE_ELSE


def start_advice(reason: str) -> str:
    """What to do about a worker that could not be started for this reason; empty if that is not known."""
    return _found(_START_ADVICE, reason)


def _found(table: tuple[tuple[str, str], ...], reason: str) -> str:
    for pattern, words in table:
        match = re.search(pattern, reason)
        if match:
            return words.replace("{what}", (match.groupdict().get("what") or "").rstrip("."))
    return ""


def is_too_early(reason: str) -> bool:
    """Whether something used a role that was made seconds before, and that its service could not see yet.

    Source: https://github.com/hashicorp/terraform-provider-aws/issues/24910 (instance profiles),
    https://github.com/1Password/scim-examples/issues/356 (roles that are linked to services)
    """
    return re.search(_TOO_EARLY, reason) is not None
