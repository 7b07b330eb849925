"""A study for tests with real processes: five stages of 30, 25, 20, 15 and 10 trials, with 10, 8, 5, 3 and 1 survivors.

`python -m tests.support.campaign NAME STORE FOLDER MOMENT` drives it, and kills itself at the moment of that name.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from starburst_executor import Stage, Study
from starburst_executor.study import driver, objects
from starburst_executor.study.batch import Batch
from starburst_executor.study.events import Event
from tests.sessions import timings_for

TRIALS, SURVIVORS = (30, 25, 20, 15, 10), (10, 8, 5, 3, 1)


def ended(trial: Any) -> None:
    """Note that a trial has ended, so that a test can count how often it did."""
    folder = os.environ["CAMPAIGN_FOLDER"]
    with open(f"{folder}/ended", "a", encoding="utf-8") as file:
        file.write(f"{trial.name}\n")


def explore(trial: Any) -> dict[str, float]:
    if trial.index % 6 == 5:
        ended(trial)
        raise ValueError(f"trial {trial.index} is bad")
    trial.params["x"] = trial.rng().uniform(-1, 1)
    trial.save("point", {"x": trial.params["x"]})
    ended(trial)
    return {"score": -(trial.params["x"] ** 2), "cost": trial.index % 4}


def refine(trial: Any) -> dict[str, float]:
    trial.params["x"] = trial.load("point")["x"] * trial.rng().uniform(0.8, 1.1)
    trial.save("point", {"x": trial.params["x"]})
    ended(trial)
    return {"score": -(trial.params["x"] ** 2), "cost": trial.index % 4}


def slow(trial: Any) -> dict[str, float]:
    import time

    start = trial.restore({"step": 0})["step"]
    for step in range(start, 3):
        trial.checkpoint({"step": step + 1})
        trial.report(step, score=step)
        time.sleep(0.01)
    return refine(trial)


def by_memory(rows: list[Any], state: dict[str, Any]) -> list[Any]:
    state["seen"] = state.get("seen", 0) + len(rows)
    if os.environ.get("CAMPAIGN_DIES"):
        die()
    return sorted((row for row in rows if row.is_completed), key=lambda row: -row.metrics["score"])[: SURVIVORS[3]]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stages() -> list[Stage]:
    runs = [explore, refine, slow, None, refine]
    selects: list[Any] = [
        ("score", SURVIVORS[0]), ("score", SURVIVORS[1]), (("score", "cost"), SURVIVORS[2]), by_memory, ("score", SURVIVORS[4]),
    ]  # fmt: skip
    made = []
    for number, (run, n, select) in enumerate(zip(runs, TRIALS, selects, strict=True)):
        options: dict[str, Any] = {"select": select, "metrics": {"cost": "min"}}
        if run is None:
            # Prints what the trial's input had, and some more; its artefacts end here.
            options["command"] = [sys.executable, "-c", PROGRAM, "{x}", "{index}", "{stage}"]
            options["metrics"] = {
                "score": {"regex": r"score=(\S+)"},
                "cost": {"file": "cost.json", "direction": "min"},
            }
        made.append(Stage(f"s{number}", run, n, **options))
    made[4] = Stage("s4", last, TRIALS[4], select=selects[4])
    return made


# Without braces, in which a command's parameters would be filled in.
PROGRAM = """
import json, os, sys
x = float(sys.argv[1])
json.dump(dict(cost=int(sys.argv[2]) % 4), open("cost.json", "w"))
with open(os.environ["CAMPAIGN_FOLDER"] + "/ended", "a") as file:
    file.write(sys.argv[3] + "/" + sys.argv[2] + "\\n")
print("score=" + str(-x * x))
"""


def last(trial: Any) -> dict[str, float]:
    trial.params["x"] *= trial.rng().uniform(0.5, 1)
    ended(trial)
    return {"score": -(trial.params["x"] ** 2)}


def study(name: str, store: str, **options: Any) -> Study:
    return Study(name, stages(), store=store, workers=2, seed=11, timings=timings_for(store), **options)


def arm(moment: str) -> Any:
    """Have this process die at a moment; return the function that hears events."""
    if moment.startswith("decided:"):
        name = moment.partition(":")[2]

        def hear(event: Event) -> None:
            if event.text.startswith(f"stage {name}:"):
                die()

        return hear
    if moment.startswith("middle:"):
        name = moment.partition(":")[2]
        collect = Batch.collect

        def collected(self: Batch, **more: Any) -> Any:
            fresh = collect(self, **more)
            # Before the stage is decided; on a busy machine many of its trials may be collected at once.
            if self.spec.stage == name and self.counts.ended >= 8:
                die()
            return fresh

        Batch.collect = collected  # type: ignore[method-assign]
    elif moment == "choosing":
        os.environ["CAMPAIGN_DIES"] = "while choosing"
    elif moment in ("before the record", "after the record"):
        change = driver.Driver._decide

        def decide(self: Any, *more: Any) -> None:
            objects.StudyObjects.write_table = killing(objects.StudyObjects.write_table, moment)  # type: ignore[method-assign]
            change(self, *more)

        driver.Driver._decide = decide  # type: ignore[method-assign]
    return False


def killing(write_table: Any, moment: str) -> Any:
    def written(self: Any, *more: Any) -> Any:
        digest = write_table(self, *more)
        swap = self.store.swap

        def swapped(key: str, body: bytes, expected: str) -> str:
            if key.endswith("/record"):
                if moment == "after the record":
                    swap(key, body, expected)
                die()
            return swap(key, body, expected)

        self.store.swap = swapped
        return digest

    return written


if __name__ == "__main__":
    from tests.support import campaign

    _, name, store, folder, moment = sys.argv
    os.environ["CAMPAIGN_FOLDER"] = folder
    os.chdir(Path(folder))
    hear = campaign.arm(moment)
    print(campaign.study(name, store).run(progress=hear).state, flush=True)
