"""Finds the first cause among the events of a failed stack operation, and advice for it.

CloudFormation reports a failure many times: the failed resource, the resources that were cancelled because of it, and the
rollback. Only the first event names the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Cause", "advice", "first_cause", "is_too_early", "start_advice"]

_RIGHTS = "docs/howto/aws-setup.md lists the rights that setup needs"
# Pattern of the reason, and advice; the first match counts.
_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"explicit deny|service control policy",
        "a policy of your organisation forbids it: ask the account's administrator",
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
        "use an existing VPC (--vpc ID --subnet ID --subnet ID), or request a higher quota of VPCs (L-F678F1CE)",
    ),
    (
        r"maximum number of internet gateways|InternetGatewayLimitExceeded",
        "use an existing VPC (--vpc ID --subnet ID --subnet ID), or request a higher quota of internet gateways (L-A4707A72)",
    ),
    (
        r"TooManyBuckets|more buckets than allowed",
        "delete an unused bucket, or request a higher quota of buckets (L-DC2B2D3D)",
    ),
    (
        r"LimitExceeded|[Qq]uota|limit.* (?:reached|exceeded)",
        "a quota of the account is used up: remove unused resources, or request more in the Service Quotas console",
    ),
    (
        r"[Ss]ervice[- ][Ll]inked [Rr]ole|AWSServiceRoleFor",
        "a service-linked role was missing or is too new to be visible: run the same command again in a minute",
    ),
    (
        r"already exists|EntityAlreadyExists|AlreadyExistsException",
        (
            "a resource with that name already exists, perhaps from a stack that was not completely removed: remove it, or use "
            "another name (--stack NAME)"
        ),
    ),
    (
        r"RouteAlreadyExists|route table .* already has a route",
        "the route tables already have an endpoint for S3: run the same command again, and it is left out",
    ),
    (
        r"[Ii]nvalid.*(?:subnet|vpc)|does not exist.*(?:subnet|vpc)|(?:subnet|vpc)-\w+.* does not exist",
        "correct --vpc and --subnet: the subnets must be of that VPC and region",
    ),
    (
        r"[Rr]ate exceeded|Throttl|ServiceUnavailable|Internal(?:Failure|Error)",
        "AWS was busy: run the same command again",
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
_ADVICE_ELSE = "correct the problem in the message and run the same command again"
_TOO_EARLY = (
    r"[Ii]nvalid IAM [Ii]nstance [Pp]rofile|not authorized to perform: sts:AssumeRole|cannot be assumed|"
    r"[Uu]nable to assume the|[Ii]nvalid [Pp]rincipal|[Vv]erify that the .*service[- ]linked role exists"
)
# The same for a worker that could not be started.
# Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
_START_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"(?:retrieve|pull) secrets?.*not authorized to perform: [\w:-]+ on (?:the )?resource:? \"?(?P<what>arn:[^\s\"]+)",
        "allow workers to use it: `starburst setup --secret {what}`",
    ),
    (
        r"(?:retrieve|pull) secrets?.*not authorized to perform: kms:Decrypt",
        "the secret is encrypted with a key of your own: allow it with `starburst setup --secret KEY-ARN`",
    ),
    (
        r"(?:retrieve|pull) secrets?.*(?:ResourceNotFound|invalid ssm parameters|did not contain)",
        "correct the reference in secrets=, or create the secret",
    ),
    (
        r"iam:PassRole on resource:? \"?(?P<what>arn:[^\s\"]+)",
        "allow users to pass that role: `starburst setup --pass-role {what}`",
    ),
    (
        r"unable to assume the role '(?P<what>[^']+)'",
        "{what} must trust ecs-tasks.amazonaws.com; `starburst doctor` checks whether the stack's own roles exist",
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
    """A failed resource and the reason.

    Attributes:
        resource: Its name in the template.
        kind: Its type: `AWS::EC2::VPC`.
        reason: The message of its service.
    """

    resource: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.resource} ({self.kind}): {self.reason}"


def first_cause(events: Iterable[dict[str, Any]]) -> Cause | None:
    """Return the first failure among events in CloudFormation's order, newest first; None if there is none."""
    cause = None
    for event in events:
        reason = str(event.get("ResourceStatusReason", ""))
        if str(event["ResourceStatus"]).endswith("_FAILED") and reason and not reason.startswith(_ECHOES):
            cause = Cause(str(event["LogicalResourceId"]), str(event.get("ResourceType", "")), reason)
    return cause


def advice(reason: str) -> str:
    """Return advice for the reason of a failed stack operation."""
    return _found(_ADVICE, reason) or _ADVICE_ELSE


def start_advice(reason: str) -> str:
    """Return advice for the reason of a failed worker start; empty if there is none."""
    return _found(_START_ADVICE, reason)


def _found(table: tuple[tuple[str, str], ...], reason: str) -> str:
    for pattern, words in table:
        match = re.search(pattern, reason)
        if match:
            return words.replace("{what}", (match.groupdict().get("what") or "").rstrip("."))
    return ""


def is_too_early(reason: str) -> bool:
    """Whether a service did not see a role yet that was created seconds before.

    Source: https://github.com/hashicorp/terraform-provider-aws/issues/24910 (instance profiles),
    https://github.com/1Password/scim-examples/issues/356 (service-linked roles)
    """
    return re.search(_TOO_EARLY, reason) is not None
