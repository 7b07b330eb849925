"""`starburst teardown`: nothing is left, nothing that runs is stopped unasked, and what was interrupted is gone on from."""

from __future__ import annotations

import pytest

from starburst_executor import config
from starburst_executor.aws.stack import teardown
from starburst_executor.aws.stack.changes import Changes
from starburst_executor.aws.stack.contents import contents, running
from starburst_executor.client.session import start
from starburst_executor.clock import SystemClock
from starburst_executor.errors import LaunchError
from starburst_executor.protocol.records import WorkerBeat, WorkerState, encode
from tests.support.aws_rig import REGION, account, run, stack

__all__ = ["account", "stack"]


def fill(stack, account) -> None:
    """What sessions leave: objects, an upload that never ended, an image, a key, definitions."""
    s3 = account.get("s3")
    for i in range(3):
        s3.put_object(Bucket=stack.bucket, Key=f"sessions/a-session/outcomes/{i}", Body=b"x")
    s3.create_multipart_upload(Bucket=stack.bucket, Key="sessions/a-session/outcomes/big")
    account.get("ecr").put_image(
        repositoryName=stack.repository,
        imageTag="one",
        imageManifest='{"schemaVersion": 2, "config": {"digest": "sha256:0"}, "layers": []}',
        imageManifestMediaType="application/vnd.docker.distribution.manifest.v2+json",
    )
    account.get("ssm").put_parameter(Name=f"{stack.parameter_prefix}a-session", Value="k", Type="SecureString")
    container = {"name": "worker", "image": "one", "memory": 512}
    for family in (f"{stack.task_family_prefix}5f", "starburst-of-somebody-else"):
        account.get("ecs").register_task_definition(family=family, containerDefinitions=[container])
    account.get("batch").register_job_definition(
        jobDefinitionName=f"{stack.task_family_prefix}5f",
        type="container",
        containerProperties={"image": "one", "vcpus": 1, "memory": 512},
    )


def test_everything_goes(account, stack):
    fill(stack, account)
    config.remember_aws(config.AwsSettings(stack="starburst", region=REGION))
    result = run("teardown", answer="starburst\n")
    assert result.exit_code == 0, result.output
    for words in ("deleted 3 objects", "deleted 1 images", "deleted 1 keys", "1 task definitions", "1 job definitions"):
        assert words in result.stderr
    assert account.get("cloudformation").describe_stacks()["Stacks"] == []
    assert account.get("s3").list_buckets()["Buckets"] == []
    assert account.get("ecr").describe_repositories()["repositories"] == []
    assert account.get("ssm").describe_parameters()["Parameters"] == []
    (kept,) = account.get("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
    assert "starburst-of-somebody-else" in kept
    assert config.resolve_aws() == config.AwsSettings()
    again = run("teardown", "--yes")
    assert again.exit_code == 3
    assert "no stack 'starburst' in eu-west-1: nothing to remove" in again.stderr


def test_a_wrong_name_changes_nothing(account, stack):
    result = run("teardown", answer="starbrust\n")
    assert result.exit_code == 1
    assert "every session in s3://starburst-bucket-" in result.stderr
    assert "not the stack's name: nothing was changed" in result.stderr
    assert len(account.get("cloudformation").describe_stacks()["Stacks"]) == 1


def test_it_is_refused_while_workers_run(account, stack):
    ecs = account.get("ecs")
    ecs.register_task_definition(family="f", containerDefinitions=[{"name": "worker", "image": "one", "memory": 512}])
    network = {"awsvpcConfiguration": {"subnets": [stack.subnets[0]], "securityGroups": [stack.security_group]}}
    ecs.run_task(cluster=stack.cluster, taskDefinition="f", launchType="FARGATE", networkConfiguration=network, count=2)
    refused = run("teardown", "--yes")
    assert refused.exit_code == 3
    assert "stack 'starburst' is in use: 2 ECS tasks; wait for them" in refused.stderr
    forced = run("teardown", "--yes", "--force")
    assert forced.exit_code == 0, forced.output
    assert "stopping 2 workers" in forced.stderr


def test_a_session_whose_workers_are_elsewhere_is_in_use_too(account, stack):
    clock, has = SystemClock(), contents(account.clients)
    opened = start(config.resolve(detached=True, store=stack.store_url()), clock, detached=True)
    assert not running(account.clients, has, clock)
    beat = WorkerBeat("20260101-w", 1, WorkerState.WORKING, slots=1, started_at=clock.now(), at=clock.now())
    session = opened.session
    session.store.create(session.keys.worker("20260101-w"), encode(beat, "nonce"))
    found = running(account.clients, has, clock)
    assert str(found) == "1 sessions with live workers"
    assert found.sessions == (session.session_id,)
    opened.store.close()


def test_a_write_that_comes_too_late_is_deleted_too(account, stack, monkeypatch):
    delete, tries = Changes.delete, []

    def late(changes: Changes) -> None:
        if not tries:
            tries.append(1)
            account.get("s3").put_object(Bucket=stack.bucket, Key="sessions/a-session/bell", Body=b"x")
            raise LaunchError("Bucket (AWS::S3::Bucket): The bucket you tried to delete is not empty")
        delete(changes)

    monkeypatch.setattr(Changes, "delete", late)
    result = run("teardown", "--yes")
    assert result.exit_code == 0, result.output
    assert account.get("s3").list_buckets()["Buckets"] == []


@pytest.mark.parametrize("step", ["_remove_parameters", "_empty"])
def test_what_was_interrupted_is_gone_on_from(account, stack, monkeypatch, step):
    fill(stack, account)
    with monkeypatch.context() as patch:

        def interrupted(*_):
            raise KeyboardInterrupt

        patch.setattr(teardown, step, interrupted)
        assert run("teardown", "--yes").exit_code == 1
    assert run("teardown", "--yes").exit_code == 0
    assert account.get("s3").list_buckets()["Buckets"] == []
    assert account.get("ssm").describe_parameters()["Parameters"] == []
