"""Leaves driving to the workers: the driver of a study as a task of its own session.

The task finds the study by its name, with the key file of the user who runs the worker; it starts no workers itself. If its worker dies,
the task runs again on another one, as any task does; that driver takes the wheel and goes on from the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.errors import ConfigError
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import OPEN, StudyRecord
from starburst_executor.study.sessions import SessionFleet, SessionWorkers

__all__ = ["start_driver"]

_LOCAL = ("local", "none")


def start_driver(
    objects: StudyObjects, record: StudyRecord, workers: SessionWorkers, settings: Mapping[str, Any]
) -> None:
    """Submit a driver to the study's session, which is begun if there is none or it is over.

    Raises: ConfigError: the workers are not on this machine, so they have no key file.
    Store: the requests of a session's start; 1 swap.
    """
    launcher = str(settings.get("launcher") or "local").partition("?")[0]
    if launcher not in _LOCAL:
        raise ConfigError(
            f"start() needs the user's key file on the workers, which {launcher!r} does not give them: use run(), which can be "
            "stopped and started again at any time"
        )
    if record.state != OPEN:
        return
    fleet = workers.open(record.session) if record.session else None
    if fleet is None or fleet.over():
        if record.session:
            raise ConfigError(
                f"the session of this study is over: run() carries its outcomes into a new one: study={record.name}"
            )
        fleet = workers.open("")
        assert isinstance(fleet, SessionFleet)  # noqa: S101 - a new one
        url = fleet.url
        record = objects.change(lambda record: record if record.session else replace(record, session=url))
        if record.session != url:  # another process was first
            fleet.leave(deletes=True)
            fleet = workers.open(record.session)
    assert isinstance(fleet, SessionFleet)  # noqa: S101 - `SessionWorkers` opens no other
    executor: DetachedExecutor = fleet.executor
    # One slot more, because the driver waits in one.
    executor.scale(int(settings["workers"]) + 1)
    executor.submit(drive, record.name, objects.store.url)
    fleet.leave()


def drive(name: str, store: str) -> str:
    """Drive a study from a worker of its session; return its state at the end."""
    from starburst_executor.study.study import Study

    study = Study.resume(name, store=store)
    try:
        return study.run(progress=False).state
    finally:
        study.close()
