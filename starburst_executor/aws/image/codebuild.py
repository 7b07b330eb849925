"""Builds images with AWS CodeBuild, so that the client's machine needs no container engine.

    files ──zip──► s3://<bucket>/builds/<tag>.zip ──StartBuild──► docker build, docker push ──► the stack's repository

A build costs $0.01 per minute on the project's machine. Source: https://aws.amazon.com/codebuild/pricing/
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, meaning
from starburst_executor.aws.image.environment import context_zip
from starburst_executor.aws.stack.outputs import BUILDS, Stack
from starburst_executor.clock import Clock
from starburst_executor.errors import LaunchError

__all__ = ["NO_BUILDS_ADVICE", "build_there"]

# AWS's error in a new account: "Cannot have more than 0 builds in queue for the account".
_NO_BUILDS = "builds in queue for the account"
NO_BUILDS_ADVICE = (
    "the quota of this account, as of many new ones, allows no builds: request a higher quota in the Service Quotas console (AWS "
    "CodeBuild, concurrently running builds for Linux/Medium), which takes about a day, or build with docker, podman or buildah on this machine"
)
_POLL_S = 5.0
_LAST_LINES = 20
# The project's own settings are for x86_64. Source:
# https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-available.html
_ARM = {"environmentTypeOverride": "ARM_CONTAINER", "imageOverride": "aws/codebuild/amazonlinux-aarch64-standard:3.0"}
# The project defines REPOSITORY_URI; each build passes the other variables. A failed build is not pushed.
_SPEC = """\
version: 0.2
phases:
  pre_build:
    commands:
      - aws ecr get-login-password | docker login --username AWS --password-stdin "${REPOSITORY_URI%%/*}"
  build:
    commands:
      - docker build --build-arg BASE_IMAGE --build-arg PYTHON --tag "$REPOSITORY_URI:$IMAGE_TAG" .
      - docker push "$REPOSITORY_URI:$IMAGE_TAG"
"""


def build_there(
    clients: Clients,
    stack: Stack,
    tag: str,
    files: Mapping[str, bytes],
    arguments: Mapping[str, str],
    arch: str,
    *,
    clock: Clock,
    say: Callable[[str], None],
) -> None:
    """Build and push an image; return when it is in the repository. The build continues if this call is interrupted.

    Raises:
        LaunchError: the stack has no project, or the build failed; the message contains the log's last lines.
    CodeBuild: 1 StartBuild, 1 BatchGetBuilds every 5 s. S3: 1 PUT. CloudWatch Logs: 1 GetLogEvents every 5 s.
    """
    if stack.codebuild_project is None:
        raise LaunchError(
            f"stack {stack.name!r} was created without CodeBuild: install docker, podman or buildah, or run "
            "`starburst setup --codebuild`"
        )
    key = f"{BUILDS}{tag}.zip"
    variables = [{"name": name, "value": value} for name, value in {"IMAGE_TAG": tag, **arguments}.items()]
    codebuild = clients.get("codebuild")
    try:
        body = context_zip({**files, "buildspec.yml": _SPEC.encode()})
        clients.get("s3").put_object(Bucket=stack.bucket, Key=key, Body=body)
        build = codebuild.start_build(
            projectName=stack.codebuild_project,
            sourceTypeOverride="S3",
            sourceLocationOverride=f"{stack.bucket}/{key}",
            environmentVariablesOverride=variables,
            **(_ARM if arch == "arm64" else {}),
        )["build"]
        say(f"building on AWS CodeBuild: {build['id']}")
        log = _Log(clients, say)
        while build["buildStatus"] == "IN_PROGRESS":
            clock.wait(threading.Event(), _POLL_S)
            build = codebuild.batch_get_builds(ids=[build["id"]])["builds"][0]
            log.follow(build)
    except FOREIGN as error:
        failure = meaning(error, f"building the image {tag}")
        if _NO_BUILDS in str(error):
            raise LaunchError(f"{failure}; {NO_BUILDS_ADVICE}") from error
        raise failure from error
    if build["buildStatus"] != "SUCCEEDED":
        link = build.get("logs", {}).get("deepLink", "")
        raise LaunchError(
            f"the image could not be built: build={build['id']}, status={build['buildStatus']}, {_why(build)}; its last "
            f"lines:\n{log.last()}\nthe whole log: {link}"
        )


def _why(build: Mapping[str, Any]) -> str:
    """Return the failed phase and CodeBuild's reason."""
    for phase in build.get("phases", []):
        if phase.get("phaseStatus") not in (None, "SUCCEEDED"):
            words = "; ".join(str(context.get("message", "")) for context in phase.get("contexts", []))
            return f"phase={phase['phaseType']}: {words}".rstrip(": ")
    return "no phase failed"


class _Log:
    """A build's log, which is passed on line by line as it grows."""

    def __init__(self, clients: Clients, say: Callable[[str], None]) -> None:
        self._clients = clients
        self._say = say
        self._token: str | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)

    def follow(self, build: Mapping[str, Any]) -> None:
        """Pass on the new lines; ignore errors, since only the build's status decides."""
        place = build.get("logs", {})
        if not place.get("groupName") or not place.get("streamName"):
            return
        more = {} if self._token is None else {"nextToken": self._token}
        try:
            answer = self._clients.get("logs").get_log_events(
                logGroupName=place["groupName"], logStreamName=place["streamName"], startFromHead=True, **more
            )
        except FOREIGN:
            return
        self._token = answer.get("nextForwardToken")
        for event in answer.get("events", []):
            self._say(str(event["message"]).rstrip())
            self._lines.append(str(event["message"]).rstrip())

    def last(self) -> str:
        return "\n".join(self._lines)
