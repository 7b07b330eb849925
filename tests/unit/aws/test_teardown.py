"""`starburst teardown`: nothing is left, nothing that runs is stopped unasked, and what was interrupted is gone on from."""

from __future__ import annotations

import pytest

from starburst_executor import config
from starburst_executor.aws.stack import teardown
from starburst_executor.aws.stack.changes import Changes
from starburst_executor.aws.stack.contents import Contents, contents, running
from starburst_executor.client.opening import start
from starburst_executor.clock import SystemClock
from starburst_executor.errors import LaunchError
from starburst_executor.protocol.records import WorkerBeat, WorkerState, encode
from starburst_executor.testing import FakeClock
from tests.support.aws_rig import REGION, account, run, stack

__all__ = ["account", "stack"]


def fill(stack, account) -> None:
    """What sessions leave: objects, an upload that never ended, an image, a key, definitions."""
    s3 = account.get("s3")
    for i in range(3):
        s3.put_object(Bucket=stack.bucket, Key=f"sessions/a-session/outcomes/{i}", Body=b"x")
    s3.create_multipart_upload(Bucket=stack.bucket, Key="sessions/a-session/outcomes/big")
    s3.put_object(Bucket=stack.express_bucket, Key="sessions/another/manifest", Body=b"x")
    s3.create_multipart_upload(Bucket=stack.express_bucket, Key="sessions/another/outcomes/big")
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
    for words in (
        "deleted 3 objects",
        "deleted 1 objects from starburst-expressbucket",
        "deleted 1 images",
        "deleted 1 keys",
        "1 task definitions",
        "1 job definitions",
    ):
        assert words in result.stderr
    assert account.get("cloudformation").describe_stacks()["Stacks"] == []
    assert account.get("s3").list_buckets()["Buckets"] == []
    assert account.get("ecr").describe_repositories()["repositories"] == []
    assert account.get("ssm").describe_parameters()["Parameters"] == []
    (kept,) = account.get("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
    assert "starburst-of-somebody-else" in kept
    assert config.resolve_aws() == config.AwsSettings()
    again = run("teardown", "--yes")
    assert again.exit_code == 4
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
    assert refused.exit_code == 4
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


# ------------------------------------------------------------------------------------------- what holds on to the stack


class ManifestLists:
    """ECR with one image that is three manifests: the list that names the others cannot be among those that are held."""

    def __init__(self, *, never: bool = False) -> None:
        self.digests = {"sha256:b-list", "sha256:a-amd64", "sha256:c-attestation"}
        self.never = never
        self.calls: list[list[str]] = []

    def get_paginator(self, _):
        return self

    def paginate(self, **_):
        # One that has two tags is listed twice.
        yield {"imageIds": [{"imageDigest": one} for one in self.digests for _ in range(2)]}

    def batch_delete_image(self, repositoryName, imageIds):
        asked = {one["imageDigest"] for one in imageIds}
        self.calls.append(sorted(asked))
        has_list = "sha256:b-list" in self.digests
        held = {one for one in asked if self.never or (has_list and one != "sha256:b-list")}
        self.digests -= asked - held
        reason = "Requested image referenced by manifest list"
        failures = [
            {"imageId": {"imageDigest": one}, "failureCode": "ImageReferencedByManifestList", "failureReason": reason}
            for one in sorted(held)
        ]
        return {"imageIds": [], "failures": failures}


def test_an_image_of_several_manifests_goes_by_its_list_first():
    ecr = ManifestLists()
    assert teardown._empty_repository(ecr, "starburst") == 3
    assert ecr.digests == set()
    assert len(ecr.calls) == 2


def test_images_that_stay_are_said_to_and_why():
    with pytest.raises(LaunchError, match=r"ImageReferencedByManifestList: Requested image referenced .*images=3"):
        teardown._empty_repository(ManifestLists(never=True), "starburst")


def test_policies_that_were_attached_by_hand_are_detached(account, stack):
    iam = account.get("iam")
    iam.create_user(UserName="ada")
    iam.attach_user_policy(UserName="ada", PolicyArn=stack.client_policy_arn)
    # A role of a user's own, for `role=`.
    iam.create_role(RoleName="ours", AssumeRolePolicyDocument="{}")
    iam.attach_role_policy(RoleName="ours", PolicyArn=stack.worker_policy_arn)
    more = iam.create_policy(
        PolicyName="data",
        PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", '
        '"Resource": "arn:aws:s3:::ours/*"}]}',
    )["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=stack.worker_role_arn.rpartition("/")[2], PolicyArn=more)
    result = run("teardown", "--yes")
    assert result.exit_code == 0, result.output
    assert "from 1 users, groups and roles" in result.stderr
    assert f"detached {more} from the role" in result.stderr
    assert iam.list_attached_user_policies(UserName="ada")["AttachedPolicies"] == []
    assert iam.list_attached_role_policies(RoleName="ours")["AttachedPolicies"] == []
    assert [one["Arn"] for one in iam.list_policies(Scope="Local")["Policies"]] == [more]


class LiveInstances:
    """Auto Scaling, with instances that take three looks to end."""

    settings = config.AwsSettings()

    def __init__(self) -> None:
        self.n_looks = 0
        self.calls: list[tuple[str, object]] = []

    def get(self, _):
        return self

    def describe_auto_scaling_groups(self, AutoScalingGroupNames):
        self.n_looks += 1
        alive = [{"InstanceId": "i-1"}] if self.n_looks < 4 else []
        return {
            "AutoScalingGroups": [{"AutoScalingGroupName": one, "Instances": alive} for one in AutoScalingGroupNames]
        }

    def describe_scheduled_actions(self, AutoScalingGroupName):
        return {"ScheduledUpdateGroupActions": [{"ScheduledActionName": "starburst-warm"}]}

    def delete_scheduled_action(self, **asked):
        self.calls.append(("unschedule", asked["ScheduledActionName"]))

    def update_auto_scaling_group(self, **asked):
        self.calls.append(("resize", asked["MaxSize"]))


def test_instances_that_live_are_ended_and_waited_for():
    clients, said = LiveInstances(), []
    has = Contents("stack", {"Ec2Group": "group"})
    teardown._end_instances(clients, FakeClock(), has, said.append)  # type: ignore[arg-type]
    assert clients.calls == [("unschedule", "starburst-warm"), ("resize", 0)]
    assert clients.n_looks == 4
    assert said == ["ending 1 instances"]
