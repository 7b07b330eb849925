"""The trials of the campaign: functions that draw, refine, keep checkpoints, raise, crash and hang; and the policy of a stage."""

import os
import signal
import time


def ended(trial):
    """Note that a trial has ended, so that a test can count how often it did."""
    with open(f"{os.environ['CAMPAIGN_FOLDER']}/ended", "a", encoding="utf-8") as file:
        file.write(f"{trial.name}\n")


def explore(trial):
    if trial.index % 6 == 5:
        ended(trial)
        raise ValueError(f"trial {trial.index} is bad")
    trial.params["x"] = trial.rng().uniform(-1, 1)
    trial.save({"x": trial.params["x"]}, name="point")
    ended(trial)
    return {"score": -(trial.params["x"] ** 2), "cost": trial.index % 4}


def refine(trial):
    trial.params["x"] = trial.load("point")["x"] * trial.rng().uniform(0.8, 1.1)
    trial.save({"x": trial.params["x"]}, name="point")
    ended(trial)
    if trial.stage == "s1" and trial.index == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"score": -(trial.params["x"] ** 2), "cost": trial.index % 4}


def slow(trial):
    start = trial.restore({"step": 0})["step"]
    for step in range(start, 3):
        trial.checkpoint({"step": step + 1})
        trial.report(step, score=step)
        time.sleep(0.01)
    while trial.index == 11:
        pass  # until its time is over
    return refine(trial)


def last(trial):
    trial.params["x"] *= trial.rng().uniform(0.5, 1)
    ended(trial)
    return {"score": -(trial.params["x"] ** 2)}


def by_memory(rows, state):
    state["seen"] = state.get("seen", 0) + len(rows)
    if os.environ.get("CAMPAIGN_DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    return sorted((row for row in rows if row.is_completed), key=lambda row: -row.metrics["score"])[:3]
