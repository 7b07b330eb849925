"""`python -m tests.support.campaign.dying MOMENT study run …`: the command, in a process that kills itself at the moment of that name."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from starburst_executor.cli import entry
from starburst_executor.study import driver, objects
from starburst_executor.study.batch import Batch


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after_the_decision(name: str) -> None:
    say = driver.Driver._say

    def said(self: Any, kind: str, text: str, **data: Any) -> None:
        if text.startswith(f"stage {name}:"):
            die()
        say(self, kind, text, **data)

    driver.Driver._say = said  # type: ignore[method-assign]


def in_the_middle(name: str) -> None:
    collect = Batch.collect

    def collected(self: Batch, **more: Any) -> Any:
        fresh = collect(self, **more)
        # Before the stage is decided; on a busy machine many of its trials may be collected at once.
        if self.spec.stage == name and self.counts.ended >= 8:
            die()
        return fresh

    Batch.collect = collected  # type: ignore[method-assign]


def while_a_record_is_written(*, has_landed: bool) -> None:
    write_table = objects.StudyObjects.write_table

    def written(self: Any, *more: Any) -> str:
        swap = self.store.swap

        def swapped(key: str, body: bytes, expected: str) -> str:
            if key.endswith("/record"):
                if has_landed:
                    swap(key, body, expected)
                die()
            return str(swap(key, body, expected))

        self.store.swap = swapped
        return write_table(self, *more)

    objects.StudyObjects.write_table = written  # type: ignore[method-assign]


def arm(moment: str) -> None:
    kind, _, name = moment.partition(" ")
    if kind == "decided":
        after_the_decision(name)
    elif kind == "middle":
        in_the_middle(name)
    elif kind == "choosing":
        os.environ["CAMPAIGN_DIES"] = "while choosing"
    elif kind == "writing":
        while_a_record_is_written(has_landed=name == "landed")


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    sys.exit(entry())
