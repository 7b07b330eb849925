"""Sessions on Fargate, whole: the real launcher, a fake of ECS that runs each ECS task as a process, S3 by the benchmarks' endpoint."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from starburst_executor import (
    ConfigError,
    DetachedExecutor,
    ExecutorBroken,
    Fargate,
    LaunchError,
    NoCapacity,
    QuotaExceeded,
    StarburstExecutor,
    Timings,
)
from starburst_executor.client.looks import Looks
from starburst_executor.errors import StarburstError
from starburst_executor.launch.aws import ecs_placing, launches_seen
from starburst_executor.launch.aws.ecs_handle import EcsHandle
from starburst_executor.session.beats import read_beats
from tests.sessions import REMOTE, wait_until
from tests.support.aws_fakes.ecs import CAPACITY, VCPUS, Step, failing, losing, refusing
from tests.support.aws_fakes.refusal import Page, Refusal
from tests.support.aws_fakes.server import IMAGE, FakeAws
from tests.support.inside import parts_of, session_of

ROLE_MISSING = "unable to assume the role"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """ECS is asked, and asked again, in fractions of seconds."""
    monkeypatch.setattr(launches_seen, "POLL_S", 0.2)
    for name, value in {"_PAUSE_S": 0.05, "_PAUSE_MOST_S": 0.2}.items():
        monkeypatch.setattr(ecs_placing, name, value)


def timings(launch_s: float = 60.0) -> Timings:
    return replace(REMOTE, launch_s=launch_s)


def executor(workers: int = 1, launch_s: float = 60.0, **options: object) -> StarburstExecutor:
    return StarburstExecutor(
        workers=workers,
        launcher=Fargate(image=IMAGE, **options),  # type: ignore[arg-type]
        timings=timings(launch_s),
    )


def error_of(aws: FakeAws, launch_s: float = 60.0, **options: object) -> str:
    """What the one task of a session ends with that gets no worker; nothing is left behind by it."""
    with executor(launch_s=launch_s, **options) as ex:
        error = ex.submit(abs, -1).exception(timeout=60)
    assert isinstance(error, ExecutorBroken)
    assert aws.parameters == {}
    assert aws.ecs.not_stopped() == []
    return str(error)


def slow_square(n: int) -> tuple[int, str]:
    time.sleep(0.15)
    return n * n, os.environ.get("ECS_CONTAINER_METADATA_URI_V4", "")


def gated_square(gate: Path, n: int) -> tuple[int, str]:
    """As `slow_square`, once the test has opened a gate: so there is work for as long as a test needs it."""
    while not gate.exists():
        time.sleep(0.01)
    return slow_square(n)


def environment() -> dict[str, str]:
    own = Path("/proc/self/environ").read_text(encoding="utf-8", errors="replace")
    return {**os.environ, "/proc/self/environ": own}


# --- what is to work --------------------------------------------------------------------------------------------------


def test_a_spot_session_loses_a_third_of_its_workers_in_mid_run_and_completes(aws: FakeAws) -> None:
    with executor(6, spot=True) as ex:
        futures = [ex.submit(slow_square, n) for n in range(120)]
        wait_until(lambda: len(aws.ecs.running()) == 6)
        wait_until(lambda: sum(future.done() for future in futures) >= 12)
        taken = aws.ecs.running()[:2]
        for task_id in taken:
            aws.ecs.interrupt(task_id)
        # One gets no two minutes.
        aws.ecs.containers[taken[0]].kill()

        def is_replaced() -> bool:
            # There is work until a lost worker is replaced, however slow this machine is.
            if sum(not future.done() for future in futures) < 6:
                futures.append(ex.submit(slow_square, len(futures)))
            return len(aws.ecs.tasks) >= 7

        wait_until(is_replaced)
        results = [future.result(timeout=100) for future in futures]
    assert [square for square, _ in results] == [n * n for n in range(len(futures))]
    assert len({where for _, where in results}) > 2
    assert {task["capacityProviderName"] for task in aws.ecs.tasks.values()} == {"FARGATE_SPOT"}
    assert aws.parameters == {}
    wait_until(lambda: not aws.ecs.not_stopped())


def test_the_key_is_in_no_description_and_no_environment(aws: FakeAws) -> None:
    with executor(1) as ex:
        seen = ex.submit(environment).result(timeout=60)
        key = ex.key.hex()
        assert list(aws.parameters.values()) == [key]
        assert key not in json.dumps(seen)
        assert key not in json.dumps(aws.ecs.calls)
        assert key not in json.dumps(list(aws.ecs.tasks.values()))
        assert key not in json.dumps(list(aws.ecs.definitions.values()))
    assert not any("KEY" in name and value == key for name, value in seen.items())


def secrets_seen_elsewhere() -> list[str]:
    """Which processes of this container besides the runners and what they were forked from hold the secret."""
    found = []
    for line in Path("/proc").glob("[0-9]*/status"):
        try:
            own = (line.parent / "environ").read_bytes()
            parent = line.read_text().split("PPid:\t")[1].split()[0]
        except (OSError, IndexError):
            continue
        if b"squeamish" in own:
            found.append(f"{line.parent.name}<{parent}")
    return found


def test_after_so_many_interruptions_workers_are_started_on_demand(
    aws: FakeAws, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Those of a gate open once the worker before was taken.
    gates = [tmp_path / f"gate-{i}" for i in range(3)]
    gates[0].touch()
    with executor(1, cpu=2, slots=1, spot=True, fallback=True, fallback_after=2) as ex:
        futures = [ex.submit(gated_square, gates[min(n // 10, 2)], n) for n in range(40)]
        for n_seen in (1, 2):
            wait_until(lambda n=n_seen: len(aws.ecs.tasks) == n and len(aws.ecs.running()) == 1)  # type: ignore[misc]
            wait_until(lambda n=n_seen: len({f.result()[1] for f in futures if f.done()}) == n)  # type: ignore[misc]
            aws.ecs.interrupt(aws.ecs.running()[0])
            gates[n_seen].touch()
        assert [future.result(timeout=100)[0] for future in futures] == [n * n for n in range(40)]
        cost = ex.cost()
        parts = parts_of(ex)
        beats_of = partial(parts.workforce.beats, fresh=True)
        status = Looks(session_of(ex), beats_of=beats_of, cost_of=parts.spending.of).look()
    providers = [task["capacityProviderName"] for task in aws.ecs.tasks.values()]
    assert providers == ["FARGATE_SPOT", "FARGATE_SPOT", "FARGATE"]
    assert "after 2 interruptions, workers are started on FARGATE" in caplog.text
    assert cost.interruptions == 2
    assert "; 2 interruptions, " in str(cost)
    assert (status.vcpus, status.memory_gb, status.gpus) == (2.0, 4.0, 0)
    assert "2 vCPUs, 4 GB, 0 GPUs" in str(status)


@pytest.mark.parametrize(("launcher", "is_said"), [("fargate", True), ("ec2", True), ("batch", False), ("none", False)])
def test_a_detached_session_says_where_nobody_replaces_lost_workers(
    aws: FakeAws, caplog: pytest.LogCaptureFixture, launcher: str, is_said: bool
) -> None:
    spec = launcher if launcher == "none" else f"{launcher}?image={IMAGE}"
    ex = DetachedExecutor(workers=1, launcher=spec, store=f"s3://{aws.outputs['Bucket']}", timings=timings())
    assert ("replaced only while a client is attached" in caplog.text) is is_said
    assert ('launcher="batch"' in caplog.text) is is_said
    ex.cleanup(force=True)


def environment_and_holders() -> tuple[dict[str, str], list[str], int]:
    return environment(), secrets_seen_elsewhere(), os.getppid()


def test_variables_and_secrets_reach_tasks_and_the_secrets_nothing_else(aws: FakeAws) -> None:
    aws.secrets["/ours/db"] = "squeamish ossifrage"
    with executor(1, env={"MODE": "fast"}, secrets={"DB_PASSWORD": "/ours/db"}) as ex:
        seen, holders, nursery = ex.submit(environment_and_holders).result(timeout=60)
        assert (seen["MODE"], seen["DB_PASSWORD"]) == ("fast", "squeamish ossifrage")
        # The nursery and its runners have it; the worker, the nursery's parent, does not.
        (worker,) = [one.partition("<")[2] for one in holders if one.startswith(f"{nursery}<")]
        assert worker not in {one.partition("<")[0] for one in holders}
        (definition,) = aws.ecs.definitions.values()
        (container,) = definition["containerDefinitions"]
        assert container["secrets"] == [{"name": "DB_PASSWORD", "valueFrom": "/ours/db"}]
        assert {"name": "MODE", "value": "fast"} in container["environment"]
        told = [aws.ecs.calls, list(aws.ecs.tasks.values()), [one.lines() for one in aws.ecs.containers.values()]]
        assert "squeamish" not in json.dumps(told)
        store = session_of(ex).store
        bodies = [store.get(line.key) for line in store.list(session_of(ex).keys.folder)]
        assert bodies
        assert not any(b"squeamish" in one.body for one in bodies if one is not None and b"fast" not in one.body)


def test_a_file_system_is_in_the_definition(aws: FakeAws) -> None:
    with executor(1, mounts={"/data": "fs-0a1b2c3d"}) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    (definition,) = aws.ecs.definitions.values()
    system = {"fileSystemId": "fs-0a1b2c3d", "transitEncryption": "ENABLED"}
    assert definition["volumes"] == [{"name": "efs-0", "efsVolumeConfiguration": system}]
    (container,) = definition["containerDefinitions"]
    assert container["mountPoints"] == [{"sourceVolume": "efs-0", "containerPath": "/data"}]


def test_another_client_starts_workers_with_the_same_variables_secrets_and_role(aws: FakeAws) -> None:
    aws.secrets["/ours/db"] = "squeamish ossifrage"
    mine = "arn:aws:iam::123456789012:role/mine"
    aws.ecs.roles.add(mine)
    launcher = Fargate(image=IMAGE, env={"MODE": "fast"}, secrets={"DB": "/ours/db"}, role=mine)
    ex = DetachedExecutor(workers=1, launcher=launcher, timings=timings())
    ex.submit(abs, -1).result(timeout=60)
    ex.detach()
    for task_id in aws.ecs.not_stopped():
        aws.ecs.take_down(task_id, "UserInitiated", "by hand")
    wait_until(lambda: not aws.ecs.not_stopped())
    again = DetachedExecutor.reattach(ex.url, key=ex.key)
    seen = again.submit(environment).result(timeout=60)
    assert (seen["MODE"], seen["DB"]) == ("fast", "squeamish ossifrage")
    assert {one["taskRoleArn"] for one in aws.ecs.definitions.values()} == {mine}
    assert aws.ecs.n_calls("RegisterTaskDefinition") == 1
    again.cleanup(force=True)


def denied() -> None:
    import boto3
    from botocore.exceptions import ClientError

    assert boto3
    sentence = (
        "User: arn:aws:sts::1:assumed-role/w/t is not authorized to perform: s3:GetObject on resource: "
        '"arn:aws:s3:::ours/2026/a.parquet" because no identity-based policy allows the s3:GetObject action'
    )
    raise ClientError({"Error": {"Code": "AccessDenied", "Message": sentence}}, "GetObject")


def test_what_a_task_was_denied_names_the_option_that_allows_it(aws: FakeAws) -> None:
    with executor(1) as ex:
        error = ex.submit(denied).exception(timeout=60)
    assert "AccessDenied" in str(error)
    assert "`starburst setup --read s3://ours/2026`" in str(error.__cause__)  # type: ignore[union-attr]


def test_a_secret_that_may_not_be_read_names_the_option_that_allows_it(aws: FakeAws) -> None:
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:db-Ab12"
    error = error_of(aws, secrets={"DB": arn})
    assert "TaskFailedToStart: ResourceInitializationError" in error
    assert f"`starburst setup --secret {arn}`" in error


def test_a_role_that_may_not_be_handed_on_names_the_option_that_allows_it(aws: FakeAws) -> None:
    role = "arn:aws:iam::123456789012:role/mine"
    words = f"User: arn:aws:iam::1:user/u is not authorized to perform: iam:PassRole on resource: {role} because no"
    aws.ecs.script.append(refusing("AccessDeniedException", words))
    aws.ecs.roles.add(role)
    assert f"`starburst setup --pass-role {role}`" in error_of(aws, role=role)
    assert "must trust ecs-tasks.amazonaws.com" in error_of(aws, role="arn:aws:iam::123456789012:role/nobody")


def test_cleanup_stops_exactly_this_sessions_workers(aws: FakeAws) -> None:
    def begin() -> tuple[DetachedExecutor, list[str]]:
        before = set(aws.ecs.tasks)
        ex = DetachedExecutor(workers=1, launcher=Fargate(image=IMAGE), timings=timings())
        assert ex.submit(abs, -1).result(timeout=60) == 1
        return ex, list(set(aws.ecs.tasks) - before)

    (one, ones), (other, others) = begin(), begin()
    assert len(ones) == len(others) == 1
    # As if its client had died between RunTask and the handle; it does not come as far as to leave by itself.
    aws.ecs.n_hang = 1
    orphan = aws.ecs._start(next(r for n, r in aws.ecs.calls if n == "RunTask" and r["startedBy"] == one.id), "FARGATE")
    one.cleanup(force=True)
    wait_until(lambda: aws.ecs.not_stopped() == others)
    assert aws.ecs.tasks[orphan["taskArn"].rpartition("/")[2]]["stopCode"] == "UserInitiated"
    assert list(aws.parameters) == [f"/starburst/starburst/{other.id}"]
    assert other.submit(abs, -2).result(timeout=60) == 2
    other.cleanup(force=True)
    assert aws.parameters == {}


def test_another_client_goes_on_with_the_same_launcher(aws: FakeAws) -> None:
    """What it is, is in the manifest; a size that differs would be another task definition."""
    ex = DetachedExecutor(workers=1, launcher=f"fargate?cpu=0.5&image={IMAGE}", timings=timings())
    assert ex.submit(abs, -1).result(timeout=60) == 1
    ex.detach()
    for task_id in aws.ecs.not_stopped():
        aws.ecs.take_down(task_id, "UserInitiated", "by hand")
    wait_until(lambda: not aws.ecs.not_stopped())
    again = DetachedExecutor.reattach(ex.url, key=ex.key)
    assert again.submit(abs, -2).result(timeout=60) == 2
    assert {task["cpu"] for task in aws.ecs.tasks.values()} == {"512"}
    assert len(aws.ecs.tasks) == 2
    assert aws.ecs.n_calls("RegisterTaskDefinition") == 1
    again.detach()
    # Whoever has chosen another launcher stops them with the session's own.
    DetachedExecutor.reattach(ex.url, key=ex.key, launcher="none").cleanup(force=True)
    assert aws.parameters == {}
    wait_until(lambda: not aws.ecs.not_stopped())
    # The second worker may see that the session is over, and leave, before it is stopped.
    first, second = (task["stopCode"] for task in aws.ecs.tasks.values())
    assert (first, second in ("UserInitiated", "EssentialContainerExited")) == ("UserInitiated", True)


def test_fewer_workers_are_drained_and_the_others_kept(aws: FakeAws) -> None:
    with DetachedExecutor(workers=3, launcher=Fargate(image=IMAGE), timings=timings()) as ex:
        futures = [ex.submit(slow_square, n) for n in range(24)]
        wait_until(lambda: len(aws.ecs.running()) == 3)
        ex.scale(2)
        wait_until(lambda: len(aws.ecs.running()) == 2)
        assert [future.result(timeout=60)[0] for future in futures] == [n * n for n in range(24)]
        assert len(aws.ecs.tasks) == 3
        ex.cleanup(force=True)


def test_without_spare_capacity_it_falls_back_to_on_demand_where_that_is_asked_for(aws: FakeAws) -> None:
    aws.ecs.script.append(failing(CAPACITY))
    with executor(1, spot=True, fallback=True) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    assert [task["capacityProviderName"] for task in aws.ecs.tasks.values()] == ["FARGATE"]


# --- what goes wrong on the way ---------------------------------------------------------------------------------------


def test_what_passes_starts_each_worker_once(aws: FakeAws) -> None:
    aws.ecs.script += [
        refusing("ThrottlingException", "Rate exceeded"),
        refusing("ServerException", "Service Unavailable", 500),
        failing(CAPACITY),
        losing(),
    ]
    with executor(2) as ex:
        assert list(ex.map(abs, range(-4, 0), timeout=60)) == [4, 3, 2, 1]
    assert aws.ecs.n_calls("RunTask") == 5
    assert len(aws.ecs.tasks) == 2


def test_of_two_clients_that_register_a_definition_at_once_one_goes_on_with_the_others(aws: FakeAws) -> None:
    message = "Too many concurrent attempts to create a new revision of the specified family."
    aws.troubles["RegisterTaskDefinition"].extend([Refusal("ClientException", message)] * 2)
    with executor(1) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    assert len(aws.ecs.tasks) == 1


@pytest.mark.parametrize("operation", ["DescribeTaskDefinition", "PutParameter", "GetParameter"])
def test_what_passes_before_or_after_workers_are_started_is_waited_for(aws: FakeAws, operation: str) -> None:
    # Pages are what the SDK does not try again.
    aws.troubles[operation].extend([Page()] * 2)
    with executor(1) as ex:
        assert ex.submit(abs, -1).result(timeout=100) == 1
    assert len(aws.ecs.tasks) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        failing("AGENT"),
        refusing("ClientException", "Tasks provisioning capacity limit exceeded."),
        failing("RESOURCE:ENI"),
    ],
    ids=["agent", "provisioning", "interface"],
)
def test_no_room_for_now_is_waited_for(aws: FakeAws, trouble: Step) -> None:
    aws.ecs.script += [trouble, trouble]
    with executor(1) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    assert aws.ecs.n_calls("RunTask") == 3


def test_no_room_for_some_is_said_and_the_others_work(aws: FakeAws, caplog: pytest.LogCaptureFixture) -> None:
    aws.ecs.script.append(failing("AGENT", n_started=1))
    aws.ecs.script.extend([refusing("ClientException", "Tasks provisioning capacity limit exceeded.")] * 50)
    with caplog.at_level(logging.WARNING), executor(3) as ex:
        assert list(ex.map(abs, range(-4, 0), timeout=60)) == [4, 3, 2, 1]
    assert "slots=1, asked=3: ECS answered for FARGATE: AGENT" in caplog.text


def test_ids_with_hyphens_are_ids(aws: FakeAws) -> None:
    aws.ecs.hyphens = True
    with executor(2) as ex:
        assert list(ex.map(abs, range(-4, 0), timeout=60)) == [4, 3, 2, 1]
        assert all("-" in one for one in aws.ecs.tasks)
        # One of the two may do all of it before the other one beats.
        beats = wait_until(lambda: len(found := read_beats(session_of(ex))) == 2 and found)
        names = [beat.launcher_id for beat, _ in beats]
        assert all(name.startswith("arn:") for name in names)
        assert {name.rpartition("/")[2] for name in names} == set(aws.ecs.tasks)
    wait_until(lambda: not aws.ecs.not_stopped())


def test_those_that_started_work_and_the_others_are_said_to_be_missing(
    aws: FakeAws, caplog: pytest.LogCaptureFixture
) -> None:
    aws.ecs.script.append(failing(CAPACITY, n_started=1))
    aws.ecs.script.extend([failing(CAPACITY)] * 50)
    with caplog.at_level(logging.WARNING), executor(3) as ex:
        assert list(ex.map(abs, range(-4, 0), timeout=60)) == [4, 3, 2, 1]
    assert len(aws.ecs.tasks) == 1
    assert f"slots=1, asked=3: ECS answered for FARGATE: {CAPACITY}" in caplog.text


def test_the_quota_limits_what_is_asked_for(aws: FakeAws, caplog: pytest.LogCaptureFixture) -> None:
    aws.quotas["L-3032A538"] = 2
    with caplog.at_level(logging.WARNING), executor(6) as ex:
        assert list(ex.map(abs, range(-4, 0), timeout=60)) == [4, 3, 2, 1]
    assert {request["count"] for name, request in aws.ecs.calls if name == "RunTask"} == {2}
    assert "slots=2, asked=6" in caplog.text
    assert "starburst quota fargate --request 6" in caplog.text


def test_no_capacity_becomes_an_error_in_time(aws: FakeAws) -> None:
    aws.ecs.script.extend([failing(CAPACITY)] * 1000)
    assert CAPACITY in error_of(aws, launch_s=1.0)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (failing(VCPUS), VCPUS),
        (failing("MISSING"), "ECS answered for FARGATE: MISSING"),
        (refusing("AccessDeniedException", "not authorized to perform: ecs:RunTask"), "lack a right.*ecs:RunTask"),
        (refusing("BlockedException", "Your account is currently blocked."), "BlockedException"),
    ],
    ids=["quota", "missing", "not allowed", "blocked"],
)
def test_what_ecs_refuses_for_good_is_an_error_at_once(aws: FakeAws, trouble: Step, words: str) -> None:
    aws.ecs.script.append(trouble)
    assert re.search(words, error_of(aws))
    assert aws.ecs.n_calls("RunTask") == 1


def test_a_missing_role_is_an_error_at_once(aws: FakeAws) -> None:
    aws.ecs.roles.clear()
    assert ROLE_MISSING in error_of(aws)


def test_an_image_that_cannot_be_pulled_is_an_error_with_the_words_of_ecs(aws: FakeAws) -> None:
    aws.ecs.images.clear()
    error = error_of(aws)
    assert "TaskFailedToStart: CannotPullContainerError" in error
    assert IMAGE in error


def test_a_worker_that_ends_before_its_first_beat_is_an_error_with_its_last_lines(aws: FakeAws) -> None:
    aws.hidden_parameters = True
    error = error_of(aws)
    assert "EssentialContainerExited" in error
    assert "exit status 3" in error
    assert "KeyNotFound: the session's key was deleted" in error


def test_workers_that_stay_on_their_way_are_an_error_in_time_that_says_where_they_are(aws: FakeAws) -> None:
    aws.ecs.never_start = True
    error = error_of(aws, launch_s=1.0)
    assert "was heard of within 1 s: 1 ECS tasks: 1 PROVISIONING" in error


def test_a_worker_that_never_beats_is_stopped_and_replaced_while_others_work(
    aws: FakeAws, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aws.ecs.n_hang = 1
    with caplog.at_level(logging.WARNING), executor(2, launch_s=8.0) as ex:
        futures = [ex.submit(gated_square, tmp_path / "gate", n) for n in range(20)]
        wait_until(lambda: sum(task.get("stopCode") == "UserInitiated" for task in list(aws.ecs.tasks.values())) == 1)
        wait_until(lambda: len(aws.ecs.tasks) == 3)
        (tmp_path / "gate").touch()
        assert [future.result(timeout=100)[0] for future in futures] == [n * n for n in range(20)]
        (hung,) = [
            task for task in aws.ecs.tasks.values() if task.get("stoppedReason", "").startswith("no beat within")
        ]
        assert "a worker never beat and is stopped" in caplog.text
        wait_until(lambda: "a worker has ended" in caplog.text)
        assert f"UserInitiated: {hung['stoppedReason']}" in caplog.text


def test_leaving_a_detached_session_without_a_worker_says_why(aws: FakeAws) -> None:
    for trouble, kind in ((failing(CAPACITY), NoCapacity), (failing(VCPUS), QuotaExceeded)):
        aws.ecs.script.clear()
        aws.ecs.script.extend([trouble] * 1000)
        ex = DetachedExecutor(workers=1, launcher=Fargate(image=IMAGE), timings=timings(6.0))
        # The client must be on its way out before the launch is given up: otherwise the future says why.
        ex.submit(abs, -1)
        with pytest.raises(kind):
            ex.detach()
        DetachedExecutor.reattach(ex.url, key=ex.key).cleanup(force=True)


# --- before anything is asked of ECS ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"launcher": Fargate(image=IMAGE), "store": "sqlite:///tmp/x"}, "workers on AWS cannot reach a store on this"),
        ({"launcher": "fargate?cpu=3"}, "the nearest is cpu=4"),
        ({"launcher": "fargate?cpus=3"}, "no such option: 'cpus'"),
        ({"launcher": "fargate?spot=maybe"}, "spot='maybe' is not bool"),
    ],
)
def test_what_cannot_work_is_refused_by_the_constructor(aws: FakeAws, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StarburstExecutor(workers=1, **settings)  # type: ignore[arg-type]
    assert aws.ecs.n_calls("RunTask") == 0


def test_without_a_stack_the_constructor_says_what_to_type(aws: FakeAws) -> None:
    del aws.outputs["Cluster"]
    with pytest.raises(StarburstError, match="starburst setup"):
        executor()


@pytest.mark.parametrize(("given", "launch_s"), [(None, 600.0), (45.0, 45.0)])
def test_how_long_its_workers_may_take_is_the_launchers_to_say_or_the_users(
    aws: FakeAws, given: float | None, launch_s: float
) -> None:
    with StarburstExecutor(workers=1, launcher=Fargate(image=IMAGE), launch_timeout=given) as ex:
        manifest = session_of(ex).manifest.current
        assert manifest.timings == replace(Timings.remote(), launch_s=launch_s)
        assert manifest.idle_exit, "what is idle there costs money"
        assert ex.url.startswith(f"s3://{aws.outputs['Bucket']}/")
    assert aws.ecs.calls == []


# --- a launch in steps ------------------------------------------------------------------------------------------------


def test_two_clients_at_the_same_step_start_the_same_workers(aws: FakeAws) -> None:
    """As when a client counts as dead, and wakes."""
    from starburst_executor.launch.base import Order

    aws.ecs.never_start = True
    order = Order("0190a0b0c0d-0011", "s3://starburst/sessions/a-session?region=us-east-1", "00" * 32, 25, True)
    first, second = Fargate(image=IMAGE).open(), Fargate(image=IMAGE, cpu=0.5).open()
    plan = first.start(order)
    assert aws.parameters == {}
    assert aws.ecs.calls == []
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda launcher: launcher.start(order, plan.handle), [first, second])
    assert (one.n_slots, one.more_s, two.n_slots, two.more_s) == (25, None, 25, None)
    handles = [EcsHandle.load(step.handle) for step in (one, two)]
    assert handles[0] is not None
    assert handles[1] is not None
    assert sorted(handles[0].tasks) == sorted(handles[1].tasks)
    assert len(aws.ecs.tasks) == 25
    assert [request["count"] for name, request in aws.ecs.calls if name == "RunTask"].count(5) == 2
    with pytest.raises(LaunchError, match="not one of Amazon ECS"):
        first.start(order, "no handle")
