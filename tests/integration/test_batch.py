"""Sessions on AWS Batch, whole: the real launcher, a fake of Batch that runs each job as a process, S3 by the benchmarks' endpoint."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import Batch, ConfigError, DetachedExecutor, ExecutorBroken, StarburstExecutor
from starburst_executor.launch.aws import batch_submitting, launches_seen
from starburst_executor.session.beats import read_beats
from tests.sessions import REMOTE, run_python, wait_until
from tests.support.aws_fakes.batch import FakeBatch
from tests.support.aws_fakes.refusal import Page
from tests.support.aws_fakes.server import IMAGE, FakeAws
from tests.support.inside import session_of

_CLIENT = """
import sys
from dataclasses import replace
sys.path[:0] = ["tests/integration"]
from starburst_executor import Batch, DetachedExecutor
from starburst_executor.session.beats import read_beats
from test_batch import slow_square
from tests.sessions import REMOTE
ex = DetachedExecutor(workers=4, launcher=Batch(image=sys.argv[1], spot=True), timings=replace(REMOTE, launch_s=60))
for n in range(40):
    ex.submit(slow_square, n)
ex.flush()
print(ex.url, ex.key.hex(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches_seen, "POLL_S", 0.2)
    monkeypatch.setattr(batch_submitting, "_PAUSE_S", 0.2)


def slow_square(n: int) -> int:
    time.sleep(0.15)
    return n * n


def gated_square(gate: Path, n: int) -> int:
    """As `slow_square`, once the test has opened a gate: so there is work for as long as a test needs it."""
    while not gate.exists():
        time.sleep(0.01)
    return slow_square(n)


def executor(workers: int = 1, launch_s: float = 60.0, **options: object) -> StarburstExecutor:
    launcher = Batch(image=IMAGE, **options)  # type: ignore[arg-type]
    return StarburstExecutor(workers=workers, launcher=launcher, timings=replace(REMOTE, launch_s=launch_s))


def test_a_run_whose_client_is_killed_loses_workers_to_spot_and_completes(aws: FakeAws) -> None:
    client = run_python(_CLIENT, IMAGE)
    assert client.stdout is not None
    url, key = client.stdout.readline().split()
    wait_until(lambda: len(aws.batch.running()) == 4)
    client.kill()
    client.wait()
    client.stdout.close()
    executor = DetachedExecutor.reattach(url, key=key, launcher="none")
    wait_until(lambda: len(executor.collect()) >= 8)
    taken = aws.batch.running()[:2]
    aws.batch.interrupt(taken[0], notice=False)
    aws.batch.interrupt(taken[1])
    assert [outcome.value for outcome in executor.collect(wait=True, timeout=100)] == [n * n for n in range(40)]
    executor.detach()
    # Batch alone has started them again, and knows why the first ones ended; the one with a notice ends after its last commit.
    assert aws.batch.n_calls("submitjob") == 1
    wait_until(lambda: all(aws.batch.jobs[job_id]["attempts"] for job_id in taken))
    attempts = [aws.batch.jobs[job_id]["attempts"][0] for job_id in taken]
    assert [one["statusReason"] for one in attempts] == ["Your Spot Task was interrupted."] * 2
    assert sorted(one["container"]["exitCode"] for one in attempts) == [137, 143]
    assert key not in json.dumps([aws.batch.calls, list(aws.batch.jobs.values()), list(aws.batch.definitions.values())])
    DetachedExecutor.reattach(url, key=key).cleanup(force=True)
    assert aws.parameters == {}
    wait_until(lambda: not aws.batch.running())


def test_a_submission_whose_answer_was_lost_is_found_and_not_made_twice(aws: FakeAws) -> None:
    aws.batch.lose_next = True
    with executor(1) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
        assert [beat.launcher_id for beat, _ in read_beats(session_of(ex))] == list(aws.batch.jobs)
    assert aws.batch.n_calls("submitjob") == 1
    assert "arrayProperties" not in next(iter(aws.batch.requests.values())), "one worker is a plain job"
    wait_until(lambda: not aws.batch.running())


def test_leaving_does_not_wait_for_capacity(aws: FakeAws) -> None:
    aws.batch.stuck = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"
    with DetachedExecutor(workers=2, launcher=f"aws?image={IMAGE}", timings=REMOTE) as ex:
        futures = [ex.submit(slow_square, n) for n in range(2)]
    assert not any(future.done() for future in futures)
    assert aws.batch.n_calls("submitjob") == 1
    again = DetachedExecutor.reattach(ex.url, key=ex.key)
    aws.batch.stuck = None
    assert [future.result(timeout=60) for future in again.futures] == [0, 1]
    again.cleanup(force=True)
    assert aws.batch.n_calls("submitjob") == 1


def test_too_many_workers_are_ended_by_the_array_since_children_have_no_tags(aws: FakeAws) -> None:
    aws.batch.stuck = "waiting"
    launcher = Batch(image=IMAGE)
    ex = DetachedExecutor(workers=3, launcher=launcher, timings=REMOTE)
    ex.submit(abs, -1)
    wait_until(lambda: len(aws.batch.jobs) == 4)
    ex.scale(5)
    wait_until(lambda: len(aws.batch.jobs) == 7)
    ex.scale(3)
    wait_until(lambda: aws.batch.n_calls("terminatejob") >= 1)
    # The newer array as a whole; of the older one no child.
    ended = {job["jobName"] for job in aws.batch.jobs.values() if job.get("isTerminated")}
    assert len(ended) == 1
    assert sum(":" in job_id and not job.get("isTerminated") for job_id, job in aws.batch.jobs.items()) == 3
    ex.scale(2)
    wait_until(lambda: any(":" in request["jobId"] for name, request in aws.batch.calls if name == "terminatejob"))
    assert sum(":" in job_id and not job.get("isTerminated") for job_id, job in aws.batch.jobs.items()) == 3
    ex.cleanup(force=True)


@pytest.mark.parametrize("case", ["stuck", "no image", "no key"])
def test_workers_that_never_come_are_an_error_that_says_why(aws: FakeAws, case: str) -> None:
    words = {
        "stuck": "within 1 s: 1 jobs: 1 RUNNABLE; CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
        "no image": "CannotPullContainerError",
        "no key": "KeyNotFound: the session's key was deleted",
    }[case]
    if case == "stuck":
        aws.batch.stuck = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"
    elif case == "no image":
        aws.batch._images.clear()
    else:
        aws.hidden_parameters = True
    with executor(launch_s=1.0 if case == "stuck" else 60.0) as ex:
        error = ex.submit(abs, -1).exception(timeout=60)
    assert isinstance(error, ExecutorBroken)
    assert words in str(error)
    assert aws.parameters == {}
    wait_until(lambda: all(job["status"] == "FAILED" for job in aws.batch.jobs.values()))


def test_an_attempt_that_runs_is_no_death(aws: FakeAws, caplog: pytest.LogCaptureFixture) -> None:
    aws.batch.shows_running = True
    with caplog.at_level(logging.INFO), executor(2) as ex:
        futures = [ex.submit(slow_square, n) for n in range(16)]
        wait_until(lambda: aws.batch.n_calls("describejobs") >= 3)
        assert "a worker has ended" not in caplog.text
        assert [future.result(timeout=60) for future in futures] == [n * n for n in range(16)]
    assert all(len(job["attempts"]) <= 1 for job in aws.batch.jobs.values())


def test_an_image_that_could_not_be_pulled_for_a_moment_is_pulled_again(aws: FakeAws) -> None:
    class Later(set[str]):
        n_looks = 0

        def __contains__(self, image: object) -> bool:
            self.n_looks += 1
            return self.n_looks > 2 and super().__contains__(image)

    aws.batch._images = Later({IMAGE})
    with executor(1) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    (job,) = aws.batch.jobs.values()
    reasons = [attempt["container"].get("reason", "") for attempt in job["attempts"]]
    assert ["CannotPullContainerError" in reason for reason in reasons[:2]] == [True, True]
    assert aws.batch.n_calls("submitjob") == 1


def test_what_passes_before_a_job_is_submitted_is_waited_for(aws: FakeAws) -> None:
    aws.troubles["PutParameter"].extend([Page()] * 2)
    aws.troubles["describejobdefinitions"].append(Page())
    aws.troubles["GetParameter"].append(Page())
    with executor(1) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    assert aws.batch.n_calls("submitjob") == 1


def test_a_job_of_nearly_the_same_name_is_not_taken_for_ours(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = FakeBatch._listjobs

    def more(self: FakeBatch, request: dict[str, Any]) -> dict[str, Any]:
        name = request["filters"][0]["values"][0].upper()
        return {"jobSummaryList": [{"jobId": "another", "jobName": name}, *listed(self, request)["jobSummaryList"]]}

    monkeypatch.setattr(FakeBatch, "_listjobs", more)
    with executor(1) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1


def test_a_worker_that_is_taken_down_for_the_tenth_time_goes_on_with_no_client_there(
    aws: FakeAws, tmp_path: Path
) -> None:
    aws.batch.n_attempts_before = 9
    ex = DetachedExecutor(workers=1, launcher=Batch(image=IMAGE, spot=True), timings=replace(REMOTE, launch_s=60))
    gates = [tmp_path / f"gate-{i}" for i in range(2)]
    for n in range(30):
        ex.submit(gated_square, gates[n // 15], n)
    ex.detach()
    watching = DetachedExecutor.reattach(ex.url, key=ex.key, launcher="none")
    taken: set[str] = set()
    for gate in gates:
        wait_until(lambda: watching.status().running == 1 and not taken.issuperset(aws.batch.running()))
        (job_id,) = set(aws.batch.running()) - taken
        taken.add(job_id)
        aws.batch.interrupt(job_id)
        gate.touch()
    assert sorted(one.value for one in watching.collect(wait=True, timeout=90)) == [n * n for n in range(30)]
    assert aws.batch.n_calls("submitjob") == 3
    first, second, third = (job["jobName"] for job in aws.batch.jobs.values())
    assert second.startswith(f"{first}-next-")
    assert third.startswith(f"{first}-next-")
    watching.detach()
    # Whoever attaches finds them all, counts what was taken, and ends them.
    again = DetachedExecutor.reattach(ex.url, key=ex.key)
    assert again.submit(abs, -1).result(timeout=60) == 1
    wait_until(lambda: again.cost().interruptions == 29)
    again.cleanup(force=True)
    wait_until(lambda: not aws.batch.running())
    assert {request["jobId"] for name, request in aws.batch.calls if name == "terminatejob"} == set(aws.batch.jobs)


@pytest.mark.parametrize("after", [1, 2])
def test_a_worker_goes_on_on_demand_after_a_stated_number_of_interruptions_with_no_client_there(
    aws: FakeAws, tmp_path: Path, after: int
) -> None:
    launcher = Batch(image=IMAGE, spot=True, fallback=True, fallback_after=after)
    ex = DetachedExecutor(workers=1, launcher=launcher, timings=replace(REMOTE, launch_s=60))
    # Those of a gate open once the worker before was taken: at least four are done by each, and one runs when it is taken.
    gates = [tmp_path / f"gate-{i}" for i in range(5)]
    gates[0].touch()
    for n in range(40):
        ex.submit(gated_square, gates[n // 8], n)
    ex.detach()
    watching = DetachedExecutor.reattach(ex.url, key=ex.key, launcher="none")
    n_done = 0
    for i in range(after + 1):
        n_done = wait_until(lambda least=n_done + 4: (n := len(watching.collect())) >= least and n)
        wait_until(lambda: watching.status().running == 1)
        (job_id,) = aws.batch.running()
        container = aws.batch.containers[job_id]
        aws.batch.interrupt(job_id)
        gates[i + 1].touch()
        wait_until(lambda known=container: known not in aws.batch.containers.values())
    for gate in gates:
        gate.touch()
    assert sorted(one.value for one in watching.collect(wait=True, timeout=90)) == [n * n for n in range(40)]
    # As often on Spot as was stated; then On-Demand, where Batch starts it as often as it can.
    spot, on_demand = aws.batch.jobs.values()
    assert [job["jobQueue"] for job in (spot, on_demand)] == [
        aws.outputs["BatchFargateSpotQueue"],
        aws.outputs["BatchFargateQueue"],
    ]
    assert [len(job["attempts"]) for job in (spot, on_demand)] == [after, 1]
    assert aws.batch.requests[on_demand["jobId"]]["retryStrategy"]["attempts"] == 10
    watching.detach()
    # A client that attaches finds both, takes neither for missing, and ends both.
    again = DetachedExecutor.reattach(ex.url, key=ex.key)
    assert again.submit(abs, -1).result(timeout=60) == 1
    wait_until(lambda: again.cost().interruptions == after + 1)
    assert aws.batch.n_calls("submitjob") == 2
    again.cleanup(force=True)
    wait_until(lambda: not aws.batch.running())


def test_a_worker_that_a_client_ends_has_no_successor(aws: FakeAws) -> None:
    aws.batch.n_attempts_before = 9
    with executor(1, spot=True) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    wait_until(lambda: not aws.batch.running())
    assert aws.batch.n_calls("submitjob") == 1


@pytest.mark.parametrize(
    ("options", "share"), [({"share": "TeamA", "priority": 7}, ("TeamA", 7)), ({}, ("maryann", 0))]
)
def test_workers_and_their_successors_are_of_one_share(
    aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], share: tuple[str, int]
) -> None:
    monkeypatch.setenv("LOGNAME", "mary-ann")
    aws.batch.shares_fairly = True
    aws.outputs["BatchFairShare"] = "yes"
    aws.batch.n_attempts_before = 9
    launcher = Batch(image=IMAGE, spot=True, **options)
    ex = DetachedExecutor(workers=1, launcher=launcher, timings=replace(REMOTE, launch_s=60))
    for n in range(12):
        ex.submit(gated_square, tmp_path / "gate", n)
    ex.flush()
    wait_until(lambda: ex.status().running == 1)
    (first,) = aws.batch.running()
    aws.batch.interrupt(first)
    (tmp_path / "gate").touch()
    assert sorted(one.value for one in ex.collect(wait=True, timeout=90)) == [n * n for n in range(12)]
    assert aws.batch.n_calls("submitjob") == 2
    jobs = aws.batch.jobs.values()
    assert {(job["shareIdentifier"], job["schedulingPriority"]) for job in jobs} == {share}
    ex.cleanup(force=True)
    wait_until(lambda: not aws.batch.running())


@pytest.mark.parametrize("options", [{"share": "TeamA"}, {"priority": 7}])
def test_a_share_of_queues_that_have_none_is_refused(aws: FakeAws, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"have no fair share: leave it out, or .*setup --fair-share"):
        executor(1, **options)
    assert aws.batch.n_calls("submitjob") == 0


def mode_and_password() -> tuple[str, str]:
    return os.environ["MODE"], os.environ["DB"]


def test_variables_secrets_and_a_role_of_ones_own(aws: FakeAws) -> None:
    aws.secrets["/ours/db"] = "squeamish ossifrage"
    mine = "arn:aws:iam::123456789012:role/mine"
    with executor(1, env={"MODE": "fast"}, secrets={"DB": "/ours/db"}, role=mine) as ex:
        assert ex.submit(mode_and_password).result(timeout=60) == ("fast", "squeamish ossifrage")
    (definition,) = aws.batch.definitions.values()
    properties = definition["containerProperties"]
    assert properties["secrets"] == [{"name": "DB", "valueFrom": "/ours/db"}]
    assert properties["jobRoleArn"] == mine
    assert "squeamish" not in json.dumps(aws.batch.calls)


def test_file_systems_disks_and_shells(aws: FakeAws) -> None:
    aws.outputs["ShellAllowed"] = "yes"
    mounts = {"/data": "fs-0a1b2c3d:/ours", "/own": "fs-0a1b2c3d/fsap-0a1b2c3d"}
    with executor(1, mounts=mounts, ephemeral_gb=50) as ex:
        assert ex.submit(abs, -1).result(timeout=60) == 1
    (definition,) = aws.batch.definitions.values()
    properties = definition["containerProperties"]
    assert properties["ephemeralStorage"] == {"sizeInGiB": 50}
    assert properties["enableExecuteCommand"] is True
    assert properties["mountPoints"] == [
        {"sourceVolume": "efs-0", "containerPath": "/data"},
        {"sourceVolume": "efs-1", "containerPath": "/own"},
    ]
    encrypted = {"fileSystemId": "fs-0a1b2c3d", "transitEncryption": "ENABLED"}
    assert [volume["efsVolumeConfiguration"] for volume in properties["volumes"]] == [
        {**encrypted, "rootDirectory": "/ours"},
        {**encrypted, "authorizationConfig": {"accessPointId": "fsap-0a1b2c3d"}},
    ]


def test_a_secret_that_may_not_be_read_names_the_option_that_allows_it(aws: FakeAws) -> None:
    with executor(1, secrets={"DB": "/ours/db"}) as ex:
        error = ex.submit(abs, -1).exception(timeout=60)
    assert "`starburst setup --secret arn:aws:ssm:us-east-1:123456789012:parameter/ours/db`" in str(error)


def test_what_batch_cannot_run_is_refused_by_the_constructor(aws: FakeAws) -> None:
    with pytest.raises(ConfigError, match="no Batch queue for on='ec2'"):
        executor(1, on="ec2")
    with pytest.raises(ConfigError, match="at most 10000 jobs"):
        Batch(image=IMAGE).open().check(10_001)
