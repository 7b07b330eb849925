"""Studies end to end: drivers that are killed, two at once, on the workers; failures of every kind; branches, gates, changed code."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import DetachedExecutor, Stage, Study, StudyChanged, StudyNotFound
from starburst_executor.study import stage as stages
from starburst_executor.study.events import Event
from starburst_executor.study.fleet import Fleet
from starburst_executor.study.sessions import SessionWorkers
from tests.sessions import store_of, timings_for, wait_until
from tests.support.campaign import SURVIVORS, TRIALS
from tests.support.inside import session_of
from tests.support.moto_server import ROOT
from tests.support.small_disk import mounted

# Each test runs on the embedded store with `make test`, and on S3 too with `make stress`: there a study makes the same requests.
STORES = ["sqlite", pytest.param("s3", marks=pytest.mark.stress)]


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from store_of(request, tmp_path, monkeypatch)


def drive(
    folder: Path, store: str, *words: str, moment: str = "none", cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start the command `starburst study …` on the campaign, in a process that kills itself at a moment."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "CAMPAIGN_FOLDER": str(folder),
        # The campaign's `python3` is this one.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    line = [sys.executable, "-m", "tests.support.campaign.dying", moment, "study", *words, "--store", store]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd or folder
    )


def campaign_in(folder: Path, name: str) -> Path:
    """Write the campaign's file, trials and program to a folder, as a study of that name."""
    folder.mkdir()
    for file in ("trials.py", "tool.py", "study.yaml"):
        text = (ROOT / "tests/support/campaign" / file).read_text(encoding="utf-8")
        (folder / file).write_text(text.replace("study: campaign", f"study: {name}"), encoding="utf-8")
    return folder


def essence(study: Study) -> list[Any]:
    """Everything that two equal studies have in common, without times."""
    rows = {stage.name: study.table(stage.name) for stage in study.status().stages}
    return [
        (
            (stage.name, stage.completed, stage.failed, stage.cancelled, stage.survivors, stage.metrics),
            [(row.index, row.state, row.metrics, row.params, row.artefacts) for row in rows[stage.name]],
        )
        for stage in study.status().stages
    ]


def ended(folder: Path) -> Counter[str]:
    return Counter((folder / "ended").read_text(encoding="utf-8").split())


def make(name: str, store: str, stages: list[Stage], **options: Any) -> Study:
    return Study(name, stages, store=store, timings=timings_for(store), **{"workers": 2, **options})


MOMENTS = ["decided s0", "middle s1", "decided s2", "writing lost", "choosing", "writing landed"]


@pytest.mark.timeout(900)
def test_a_driver_killed_at_each_moment_ends_as_an_undisturbed_one(store_url: str, tmp_path: Path) -> None:
    killed, plain = (campaign_in(tmp_path / name, name) for name in ("killed", "plain"))
    for number, moment in enumerate(MOMENTS):
        # By the file; or by the name, from another folder.
        words, cwd = (("run", "study.yaml"), killed) if number % 2 == 0 else (("resume", "killed"), tmp_path)
        driver = drive(killed, store_url, *words, moment=moment, cwd=cwd)
        said, errors = driver.communicate(timeout=300)
        assert driver.returncode == -signal.SIGKILL, (moment, said, errors)
    for folder in (killed, plain):
        driver = drive(folder, store_url, "run", "study.yaml")
        said, errors = driver.communicate(timeout=300)
        assert driver.returncode == 0, errors
        assert f"study {folder.name}: complete" in said
    studies = [Study.resume(name, store=store_url) for name in ("killed", "plain")]
    assert essence(studies[0]) == essence(studies[1])
    assert [len(stage.survivors) for stage in studies[0].status().stages] == list(SURVIVORS)
    kinds = {row.kind for stage in studies[0].status().stages for row in studies[0].table(stage.name)}
    assert kinds == {"", "raised", "crashed", "timed out"}
    assert studies[0].validate() == studies[1].validate() == []
    # No finished trial ran again, and none was left out. One that hangs until its time is over did not finish.
    assert ended(killed) == ended(plain)
    assert set(ended(killed).values()) == {1}
    assert sum(ended(killed).values()) == sum(TRIALS) - 1
    for study in studies:
        study.delete()
        study.close()
    with pytest.raises(StudyNotFound):
        Study.resume("killed", store=store_url)


@pytest.mark.timeout(900)
def test_two_drivers_at_once_do_each_trial_once(store_url: str, tmp_path: Path) -> None:
    folder = campaign_in(tmp_path / "both", "both")
    drivers = [drive(folder, store_url, "run", "study.yaml") for _ in range(2)]
    for driver in drivers:
        said, errors = driver.communicate(timeout=300)
        assert "study both: complete" in said, errors
    assert set(ended(folder).values()) == {1}
    study = Study.resume("both", store=store_url)
    assert study.validate() == []
    study.delete()
    study.close()


# --------------------------------------------------------------------------------------------------------------- failures


def misbehave(trial: Any) -> dict[str, float]:
    kind = trial.params["kind"]
    if kind == "crashed":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "timed out":
        while True:
            pass
    elif kind == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (2**31, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return {"score": len(bytearray(2**34))}
    elif kind == "disk full":
        with open(trial.params["file"], "ab", buffering=0) as file:
            while True:
                file.write(b"x" * 10_000)
    elif kind == "raised":
        raise ValueError("oops")
    return {"score": trial.index}


KINDS = ["crashed", "timed out", "memory", "disk full", "raised"]


def fails_by_kind(store_url: str, n_good: int, n_each: int, file: Path) -> None:
    kinds = ["fine"] * n_good + KINDS * n_each
    cases = [{"kind": kind, "file": str(file)} for kind in kinds]
    stage = Stage("all", misbehave, cases=cases, select=("score", 2), options={"timeout": 1.0})
    study = make("kinds", store_url, [stage, Stage("next", misbehave, 1)])
    status = study.run(progress=False)
    found = {(row.params["kind"], row.kind) for row in study.table("all") if row.state == "failed"}
    assert found == {(kind, kind) for kind in KINDS}
    assert (status.state, status.stages[0].completed, status.stages[0].failed) == (
        "complete",
        n_good,
        len(KINDS) * n_each,
    )
    assert status.stages[0].survivors == (f"all/{n_good - 1}", f"all/{n_good - 2}")
    assert study.validate() == []
    study.delete()
    study.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, and limits of memory")
def test_failures_have_their_kind_and_the_study_goes_on(store_url: str) -> None:
    fails_by_kind(store_url, 4, 1, Path("/dev/full"))


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_a_hundred_trials_of_which_a_third_crash_hang_exhaust_memory_or_fill_a_small_disk(
    store_url: str, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        fails_by_kind(store_url, 65, 7, disk / "filled")
        assert (disk / "filled").stat().st_size > 900_000


COUNTER = "import sys, time; print('n =', sys.argv[1]); time.sleep(0 if sys.argv[1] != '3' else 600); sys.exit(int(sys.argv[1]) == 2)"


def leave_deaf(trial: Any) -> dict[str, float]:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    return {"score": float(trial.index)}


def hang_deaf(trial: Any) -> dict[str, float]:
    if trial.index == 0:
        return leave_deaf(trial)
    if trial.index == 2:
        leave_deaf(trial)
    if trial.index == 3:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return waits_for_ever(trial)


def test_a_timeout_counts_whatever_a_trial_does_with_its_signal(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_ROOM_S", 1.0)
    study = make("deaf", store_url, [Stage("hang", hang_deaf, 5, options={"timeout": 1, "retries": 1})], workers=1)
    assert study.run(progress=False).is_complete
    assert [row.kind for row in study.table("hang")] == ["", *["timed out"] * 4]


def test_a_command_that_fails_or_hangs_is_a_failed_trial(store_url: str) -> None:
    stage = Stage(
        "sweep",
        command=[sys.executable, "-c", COUNTER, "{n}"],
        cases=[{"n": n} for n in range(4)] + [{"m": 1}],
        metrics={"n": {"regex": r"n = (\d+)"}},
        options={"timeout": 5.0},
        select=("n", 1),
    )
    study = make("command", store_url, [stage])
    assert study.run(progress=False).stages[0].survivors == ("sweep/1",)
    rows = study.table("sweep")
    assert [(row.state, row.kind) for row in rows] == [
        ("completed", ""), ("completed", ""), ("failed", "raised"), ("failed", "timed out"), ("failed", "raised"),
    ]  # fmt: skip
    assert "exited with status 1" in rows[2].error
    assert "'n'" in rows[4].error
    study.delete()
    study.close()


# --------------------------------------------------------------------------------------------------------------- branches


def meet(trial: Any) -> dict[str, float]:
    folder = Path(trial.params["folder"])
    (folder / trial.stage).touch()
    other = {"left": "right", "right": "left"}[trial.stage]
    wait_until(lambda: (folder / other).exists())
    return {"score": 1}


def pass_on(trial: Any) -> dict[str, float]:
    return {"score": trial.index}


def test_both_branches_of_a_diamond_run_at_once(store_url: str, tmp_path: Path) -> None:
    study = make(
        "diamond",
        store_url,
        [
            Stage("top", pass_on, cases=[{"folder": str(tmp_path)}]),
            Stage("left", meet, 1, depends_on="top"),
            Stage("right", meet, 1, depends_on="top"),
            Stage("bottom", pass_on, 4, depends_on=("left", "right")),
        ],
    )
    status = study.run(progress=False)
    assert status.is_complete
    assert [row.params["folder"] for row in study.table("bottom")] == [str(tmp_path)] * 4
    study.delete()
    study.close()


# ----------------------------------------------------------------------------------------------------- people and changes


def test_a_gate_is_approved_from_another_process(store_url: str) -> None:
    stages = [Stage("first", pass_on, 4, select=("score", 1), gate=True), Stage("second", pass_on, 2)]
    study = make("gated", store_url, stages)
    waits = threading.Event()

    def hear(event: Event) -> None:
        if event.kind == "gate":
            waits.set()

    driver = threading.Thread(target=lambda: study.run(progress=hear))
    driver.start()
    assert waits.wait(60)
    code = f"from starburst_executor import Study; Study.resume('gated', store={store_url!r}).approve('first', by='ada', note='good')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    driver.join(60)
    assert study.status().is_complete
    assert [event.data["by"] for event in study.events() if event.kind == "gate"] == ["ada"]
    study.delete()
    study.close()


def double(trial: Any) -> dict[str, float]:
    return {"score": trial.index * 2}


def test_changed_code_is_refused_or_accepted_and_written_down(store_url: str) -> None:
    def study(run: Any, n: int = 4) -> Study:
        stages = [Stage("first", run, 4, select=("score", 2)), Stage("second", pass_on, n)]
        return make("changing", store_url, stages)

    first = study(pass_on)
    assert first.run(progress=False).is_complete
    with pytest.raises(StudyChanged, match=r"stage first: run was pass_on, is double: study=changing; undo that"):
        study(double).run(progress=False)
    with pytest.raises(StudyChanged, match="stage second: trials was 4, is 9"):
        study(pass_on, 9).run(progress=False)
    changed = study(double)
    status = changed.run(progress=False, accept_changes=True)
    assert (status.is_complete, len(status.changes)) == (True, 1)
    assert status.stages[0].metrics == ({"score": 3}, {"score": 2})  # the decision stands
    status = changed.run(progress=False, restart="first")
    assert status.stages[0].metrics == ({"score": 6}, {"score": 4})
    assert [stage.edition for stage in status.stages] == [2, 2]
    assert changed.validate() == []
    changed.delete()
    for one in (first, changed):
        one.close()


SLOW = """
import sys, time
from pathlib import Path
from starburst_executor import Stage, Study
from tests.sessions import timings_for
def wait(trial):
    while trial.index >= 2 and not Path(sys.argv[2], "go").exists():
        time.sleep(0.01)
    return {"score": trial.index}
if __name__ == "__main__":
    sys.argv[1:] = sys.argv[1:]
    store, folder = sys.argv[1:3]
    def wait(trial, folder=folder):
        while trial.index >= 2 and not Path(folder, "go").exists():
            time.sleep(0.01)
        return {"score": trial.index}
    study = Study("stopped", [Stage("only", wait, 4, select=("score", 1))], store=store, workers=2, timings=timings_for(store))
    print(study.run(progress=lambda event: print(event.text, flush=True)).state, flush=True)
"""


def test_sigterm_stops_a_driver_and_its_trials_go_on(store_url: str, tmp_path: Path) -> None:
    script = tmp_path / "stopped.py"
    script.write_text(SLOW, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(script), store_url, str(tmp_path)]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline().startswith("stage only runs")
        driver.send_signal(signal.SIGTERM)
        driver.stdout.read()
        assert driver.wait(60) == 128 + signal.SIGTERM
    assert not Study.resume("stopped", store=store_url).status().is_driven
    (tmp_path / "go").touch()
    # From another folder, by its stored function.
    code = f"from starburst_executor import Study; print(Study.resume('stopped', store={store_url!r}).run(progress=False).state)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=environment, check=True, timeout=100
    )
    assert done.stdout == "complete\n"
    study = Study.resume("stopped", store=store_url)
    assert study.status().stages[0].survivors == ("only/3",)
    study.delete()
    study.close()


def stay(trial: Any) -> dict[str, float]:
    folder = Path(trial.params["folder"])
    (folder / str(trial.index)).touch()
    wait_until(lambda: (folder / "go").exists())
    return {"score": trial.index}


def test_an_abort_without_a_driver_cancels_what_waits_and_more_workers_go_on(store_url: str, tmp_path: Path) -> None:
    def made(workers: int) -> Study:
        stage = Stage("only", stay, 9, cases=[{"folder": str(tmp_path)}], select=("score", 1))
        return make("enough", store_url, [stage], workers=workers)

    study = made(2)
    driver = threading.Thread(target=lambda: study.run(progress=False))
    driver.start()
    wait_until(lambda: len(list(tmp_path.glob("[0-9]"))) == 2)
    study.stop()
    driver.join(60)
    assert not study.status().is_driven
    study.abort("enough")
    session = DetachedExecutor.reattach(study.status().session)
    assert session.status().cancelled == 7
    (tmp_path / "go").touch()
    assert study.run(progress=False).state == "aborted"
    more = made(3)
    status = more.run(progress=False, continue_aborted=True)
    assert (status.is_complete, status.stages[0].completed) == (True, 9)
    assert session_of(session).manifest.refresh().slots == 3
    session.detach()
    assert more.validate() == []
    more.delete()
    for one in (study, more):
        one.close()


def test_the_workers_drive_a_study_that_is_started(store_url: str) -> None:
    study = make("started", store_url, [Stage("first", pass_on, 6, select=("score", 2)), Stage("second", pass_on, 3)])
    assert study.start().state == "open"
    wait_until(lambda: study.status().is_complete, 100)
    assert study.validate() == []
    study.delete()
    study.close()


def lost_once(trial: Any) -> dict[str, float]:
    """Goes on from its checkpoint after its process was killed."""
    step = trial.restore(0)
    if step == 0:
        trial.checkpoint(7)
        raise ValueError("the first attempt ends here")
    return {"step": step}


def test_a_trial_goes_on_from_its_checkpoint(store_url: str) -> None:
    study = make("long", store_url, [Stage("only", lost_once, 2, options={"retries": 1})])
    status = study.run(progress=False)
    assert [row.metrics for row in study.table("only")] == [{"step": 7}, {"step": 7}]
    assert status.is_complete
    study.delete()
    study.close()


def learn(trial: Any) -> dict[str, float]:
    """Trials with an odd index are bad; they look whether they should stop until that is so."""
    deadline = time.monotonic() + 600  # so that a fault ends the test, not a busy machine
    step = 0
    while step < 3 or (trial.index % 2 and time.monotonic() < deadline):
        trial.report(step % 3, score=-1.0 if trial.index % 2 else 1.0)
        if trial.should_prune():
            return {}
        step += 1
        if trial.index % 2:
            time.sleep(0.1)
    return {"score": 1.0}


OF_OPTUNA = {"metric": "score", "pruner": "MedianPruner", "options": {"n_startup_trials": 1}}


@pytest.mark.parametrize("prune", [("score", 1), OF_OPTUNA], ids=["ours", "optuna"])
def test_trials_worse_than_the_median_are_pruned(store_url: str, prune: Any) -> None:
    study = make("pruned", store_url, [Stage("only", learn, 6, prune=prune)])
    status = study.run(progress=False)
    assert (status.stages[0].completed, status.stages[0].cancelled) == (3, 3)
    assert {row.kind for row in study.table("only") if row.index % 2} == {"pruned"}
    study.delete()
    study.close()


def test_a_study_that_is_deleted_while_it_is_driven_leaves_nothing(store_url: str) -> None:
    study = make("deleted", store_url, [Stage("s", waits_for_ever, 4)])
    caught: list[BaseException] = []

    def run() -> None:
        try:
            study.run(progress=False)
        except StudyNotFound as error:
            caught.append(error)

    driver = threading.Thread(target=run)
    driver.start()
    wait_until(lambda: any(one.n_tasks for one in DetachedExecutor.list_sessions(store_url)))
    Study.resume("deleted", store=store_url).delete()
    driver.join()
    assert len(caught) == 1
    assert "deleted" not in Study.names(store_url)
    assert [one.id for one in DetachedExecutor.list_sessions(store_url) if one.state == "open"] == []


def test_a_session_that_is_opened_while_its_study_is_deleted_goes_with_it(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make("deleted", store_url, [Stage("s", waits_for_ever, 4)])
    opened: list[str] = []
    right = SessionWorkers.open

    def open_one(workers: SessionWorkers, url: str) -> Fleet | None:
        fleet = right(workers, url)
        if fleet is not None and not url:
            opened.append(fleet.url)
            if len(opened) == 2:  # before the record names it
                Study.resume("deleted", store=store_url).delete()
        return fleet

    monkeypatch.setattr(SessionWorkers, "open", open_one)
    waiting = threading.Thread(target=lambda: _delete_session_with_tasks(store_url))
    waiting.start()
    with pytest.raises(StudyNotFound):
        study.run(progress=False)
    waiting.join()
    assert len(opened) == 2
    assert [one.id for one in DetachedExecutor.list_sessions(store_url) if one.state == "open"] == []


def _delete_session_with_tasks(store_url: str) -> None:
    (found,) = wait_until(lambda: [one for one in DetachedExecutor.list_sessions(store_url) if one.n_tasks])
    DetachedExecutor.reattach(found.id, store=store_url, launcher="none").cleanup(force=True)


def waits_for_ever(_: Any) -> dict[str, float]:
    threading.Event().wait()
    return {}
