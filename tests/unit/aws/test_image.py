"""Images of workers: found by their tag, built once, by an engine here or by CodeBuild."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from starburst_executor.aws.image import images as image
from starburst_executor.aws.image.environment import Environment, find_environment
from starburst_executor.aws.image.images import build_image, image_uri, list_images
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.testing import FakeClock

REGION = "eu-west-1"


class FakeCodeBuild:
    """Builds go through these statuses, one a look; a build that succeeds pushes."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.started: list[dict[str, Any]] = []
        self.statuses = ["IN_PROGRESS", "SUCCEEDED"]
        self.phases: list[dict[str, Any]] = []

    def start_build(self, **request: Any) -> dict[str, Any]:
        self.started.append(request)
        return {"build": {"id": "images:1", "buildStatus": "IN_PROGRESS"}}

    def batch_get_builds(self, ids: list[str]) -> dict[str, Any]:
        assert ids == ["images:1"]
        status = self.statuses.pop(0)
        if status == "SUCCEEDED":
            told = {one["name"]: one["value"] for one in self.started[-1]["environmentVariablesOverride"]}
            self.account.push(told["IMAGE_TAG"])
        logs = {"groupName": "/starburst/starburst", "streamName": "build/1", "deepLink": "https://console"}
        return {"builds": [{"id": "images:1", "buildStatus": status, "phases": self.phases, "logs": logs}]}


class FakeLogs:
    def __init__(self) -> None:
        self.pages = [["Step 1", "Step 2"], ["no space left"]]

    def get_log_events(self, *, nextToken: str = "0", startFromHead: bool, **_: Any) -> dict[str, Any]:
        assert startFromHead
        number = int(nextToken)
        page = self.pages[number] if number < len(self.pages) else []
        return {"events": [{"message": f"{line}\n"} for line in page], "nextForwardToken": str(number + bool(page))}


class Account:
    """ECR and S3 are moto's; moto builds nothing, so CodeBuild is our own."""

    region = REGION

    def __init__(self) -> None:
        self.made: dict[str, Any] = {name: boto3.client(name, region_name=REGION) for name in ("ecr", "s3")}
        self.made["codebuild"], self.made["logs"] = FakeCodeBuild(self), FakeLogs()
        repository = self.made["ecr"].create_repository(repositoryName="starburst")["repository"]
        self.made["s3"].create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
        self.stack = Stack(
            name="starburst", region=REGION, account_id="123456789012", bucket="bucket", cluster="c", subnets=("s",),
            security_group="sg", execution_role_arn="e", worker_role_arn="w", repository_uri=repository["repositoryUri"],
            log_group="/starburst/starburst", parameter_prefix="/p/", task_family_prefix="starburst",
            client_policy_arn="p", codebuild_project="images",
        )  # fmt: skip

    def get(self, service: str) -> Any:
        return self.made[service]

    def push(self, tag: str) -> None:
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        config = {"digest": f"sha256:{tag.encode().hex():0<64.64}", "size": 1}
        manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []})
        self.made["ecr"].put_image(repositoryName="starburst", imageManifest=manifest, imageTag=tag)


class FakeEngine:
    """Records its calls, and pushes into the account."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.is_late = False  # another user pushes the same tag first

    def login(self, registry: str, user: str, password: str) -> None:
        self.calls.append(("login", registry, user, bool(password)))

    def build(self, folder: Path, reference: str, arch: str, arguments: dict[str, str]) -> None:
        self.calls.append(("build", reference, arch, arguments, sorted(path.name for path in folder.iterdir())))
        if self.is_late:
            self.account.push(reference.partition(":")[2])
        if self.error is not None:
            raise self.error

    def push(self, reference: str) -> None:
        self.calls.append(("push", reference))
        self.account.push(reference.partition(":")[2])


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield Account()


@pytest.fixture
def engine(account: Account, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine(account)
    monkeypatch.setattr(image, "find_container_engine", lambda say, wanted: engine)
    monkeypatch.setattr(image, "native_arch", lambda: "x86_64")
    return engine


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "requirements.txt").write_text("numpy\n")
    return find_environment(tmp_path)


def build(account: Account, environment: Environment, arch: str = "x86_64", **how: Any) -> tuple[str, list[str]]:
    said: list[str] = []
    uri = build_image(account, account.stack, environment, arch, clock=FakeClock(), say=said.append, **how)  # type: ignore[arg-type]
    return uri, said


def test_no_image_is_an_error_that_says_what_to_type(
    account: Account, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = r"run `starburst image build \. --arch arm64`.*requirements=.*requirements\.txt"
    with pytest.raises(LaunchError, match=words):
        image_uri(account, account.stack, environment, "arm64")  # type: ignore[arg-type]
    # What a script imports is found by the script's name only.
    script = tmp_path / "my run.py"
    script.write_text("import tqdm\n")
    with pytest.raises(LaunchError, match=r"run `starburst image build 'my run\.py'`, or"):
        image_uri(account, account.stack, find_environment(script=script))  # type: ignore[arg-type]


def test_an_image_is_built_once_with_an_engine_here(
    account: Account, environment: Environment, engine: FakeEngine
) -> None:
    uri, said = build(account, environment)
    assert uri == f"{account.stack.repository_uri}:{environment.tag('x86_64')}"
    login, built, pushed = engine.calls
    assert login == ("login", account.stack.repository_uri.partition("/")[0], "AWS", True)
    assert built == ("build", uri, "x86_64", environment.build_arguments(), sorted(environment.files()))
    assert pushed == ("push", uri)
    assert said[-1] == f"pushed: {uri}"
    assert image_uri(account, account.stack, environment) == uri  # type: ignore[arg-type]
    assert build(account, environment) == (uri, [f"exists: {uri}"])
    assert len(engine.calls) == 3


def test_codebuild_builds_for_another_processor(account: Account, environment: Environment, engine: FakeEngine) -> None:
    uri, said = build(account, environment, "arm64")
    assert not engine.calls
    [request] = account.get("codebuild").started
    assert request["environmentTypeOverride"] == "ARM_CONTAINER"
    assert request["sourceLocationOverride"] == f"bucket/builds/{environment.tag('arm64')}.zip"
    body = account.get("s3").get_object(Bucket="bucket", Key=f"builds/{environment.tag('arm64')}.zip")["Body"].read()
    assert set(zipfile.ZipFile(BytesIO(body)).namelist()) == {*environment.files(), "buildspec.yml"}
    told = {one["name"]: one["value"] for one in request["environmentVariablesOverride"]}
    assert told == {"IMAGE_TAG": environment.tag("arm64"), **environment.build_arguments()}
    assert said[1:] == ["building on AWS CodeBuild: images:1", "Step 1", "Step 2", "no space left", f"pushed: {uri}"]


@pytest.mark.parametrize("how", [{"engine": "codebuild"}, {}])
def test_codebuild_builds_if_asked_to_or_if_no_engine_answers(
    account: Account, environment: Environment, monkeypatch: pytest.MonkeyPatch, how: dict[str, str]
) -> None:
    monkeypatch.setattr(image, "find_container_engine", lambda say, wanted: None)
    monkeypatch.setattr(image, "native_arch", lambda: "x86_64")
    build(account, environment, **how)
    [request] = account.get("codebuild").started
    assert "environmentTypeOverride" not in request


def test_an_account_that_may_build_nothing_is_told_what_to_do(account: Account, environment: Environment) -> None:
    message = "Cannot have more than 0 builds in queue for the account"
    error = ClientError({"Error": {"Code": "AccountLimitExceededException", "Message": message}}, "StartBuild")

    class Refusing:
        def start_build(self, **_: Any) -> None:
            raise error

    account.made["codebuild"] = Refusing()
    with pytest.raises(LaunchError, match=r"0 builds in queue.*request a higher quota in the Service Quotas console"):
        build(account, environment, engine="codebuild")


def test_an_answer_without_images_is_no_image(account: Account) -> None:
    class Empty:
        def describe_images(self, **_: Any) -> dict[str, Any]:
            return {"imageDetails": []}

    account.made["ecr"] = Empty()
    assert not image._exists(account, account.stack, "a-tag")  # type: ignore[arg-type]


def test_a_build_that_fails_there_says_why_with_its_last_lines(account: Account, environment: Environment) -> None:
    account.get("codebuild").statuses = ["IN_PROGRESS", "FAILED"]
    account.get("codebuild").phases = [
        {"phaseType": "PRE_BUILD", "phaseStatus": "SUCCEEDED"},
        {"phaseType": "BUILD", "phaseStatus": "FAILED", "contexts": [{"message": "exit status 1"}]},
    ]
    with pytest.raises(
        LaunchError, match=r"(?s)status=FAILED, phase=BUILD: exit status 1.*Step 2\nno space left\n.*https://console"
    ):
        build(account, environment, engine="codebuild")


def test_a_stack_without_codebuild_says_what_else_there_is(account: Account, environment: Environment) -> None:
    account.stack = replace(account.stack, codebuild_project=None)
    with pytest.raises(LaunchError, match="created without CodeBuild: install docker, podman or buildah"):
        build(account, environment, engine="codebuild")


def test_the_second_of_two_builders_is_content_with_the_first_ones(
    account: Account, environment: Environment, engine: FakeEngine
) -> None:
    engine.is_late, engine.error = True, LaunchError("tag invalid: it already exists")
    uri, _ = build(account, environment)
    assert image_uri(account, account.stack, environment) == uri  # type: ignore[arg-type]


def test_a_build_that_fails_here_is_an_error(account: Account, environment: Environment, engine: FakeEngine) -> None:
    engine.error = LaunchError("`docker build` failed")
    with pytest.raises(LaunchError, match="`docker build` failed"):
        build(account, environment)


def test_without_the_right_to_push_nothing_is_built(
    account: Account, environment: Environment, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetAuthorizationToken")

    monkeypatch.setattr(account.get("ecr"), "get_authorization_token", refuse)
    with pytest.raises(LaunchError, match=r"lack a right.*`--engine codebuild` needs no such right"):
        build(account, environment)
    assert not engine.calls


def test_an_unknown_processor_is_refused(account: Account, environment: Environment) -> None:
    with pytest.raises(ConfigError, match="must be x86_64 or arm64"):
        build(account, environment, "sparc")


def test_images_are_listed_newest_first(account: Account) -> None:
    assert list_images(account, account.stack) == []  # type: ignore[arg-type]
    account.push("one")
    account.push("another")
    found = list_images(account, account.stack)  # type: ignore[arg-type]
    assert {one.tag for one in found} == {"one", "another"}
    assert [one.pushed_at for one in found] == sorted((one.pushed_at for one in found), reverse=True)
    assert found[0].uri == f"{account.stack.repository_uri}:{found[0].tag}"
