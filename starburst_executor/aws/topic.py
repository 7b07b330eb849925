"""Publishes to an SNS topic, which passes a message on to its subscribers, such as an e-mail address."""

from __future__ import annotations

from starburst_executor.aws.clients import FOREIGN, Clients, meaning

__all__ = ["publish"]

# Source: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
_SUBJECT_CHARACTERS = 99


def publish(clients: Clients, topic_arn: str, subject: str, body: str) -> None:
    """Publish one message. Raises: AccessDenied, LaunchError and others of `meaning`. SNS: 1 Publish."""
    line = " ".join(subject.encode("ascii", "replace").decode().split())[:_SUBJECT_CHARACTERS]
    try:
        clients.get("sns").publish(TopicArn=topic_arn, Subject=line, Message=f"{subject}\n\n{body}")
    except FOREIGN as error:
        raise meaning(error, "sending a message through SNS") from error
