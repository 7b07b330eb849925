"""Leaves driving to the workers: the driver of a study as a task of its own session.

    client: the record names a session ──► a task with the study's name and its stages, sealed with the session's key
    worker: drive() ──► the session's key: of its container, or of this user's key file ──► Driver

The driver starts no workers itself, and opens no other session. If its worker dies, the task runs again on another one, as any task
does; that driver takes the wheel and goes on from the record.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starburst_executor import config
from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError
from starburst_executor.launch.open import is_on_aws
from starburst_executor.study.events import Event
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.opened import OpenedStudy, open_studies
from starburst_executor.study.options import RunOptions
from starburst_executor.study.plan import Plan, Seen
from starburst_executor.study.record import OPEN, StudyRecord
from starburst_executor.study.seals import Seals, digests_of
from starburst_executor.study.sessions import SessionFleet, SessionWorkers
from starburst_executor.study.stage import Stage

__all__ = ["start_driver"]

_LOCAL = ("local", "none")


def check_workers(settings: Mapping[str, Any], plan: Plan, *, has_key: bool) -> None:
    """Check that workers will find the keys that they need. Raises: ConfigError."""
    spec = str(settings.get("launcher") or config.resolve(detached=True).launcher)
    if is_on_aws(spec):
        # Their containers read the session's key with their role; that of the study seals the logs of searches.
        searching = [stage.name for stage in plan.stages if stage.search is not None]
        if searching:
            raise ConfigError(
                f"start() cannot drive stages with a search on AWS, whose logs need the study's key: stage {searching[0]}: use run(), which "
                "can be stopped and started again at any time"
            )
        return
    if spec.partition("?")[0] not in _LOCAL:
        raise ConfigError(
            f"start() needs the session's key in a task, which workers of {spec!r} do not have: use run(), which can be stopped and "
            "started again at any time"
        )
    if has_key:
        raise ConfigError(
            "start() on this machine needs the user's key file, so it takes no key=: leave it out, or use run()"
        )


def start_driver(
    objects: StudyObjects,
    plan: Plan,
    record: StudyRecord,
    definition: str,
    workers: SessionWorkers,
    settings: Mapping[str, Any],
    seals: Seals,
) -> None:
    """Submit a driver to the study's session, which is begun if there is none.

    Args:
        record: As it is stored.
        definition: The digest of the plan's stored stages.
        seals: Checks what was decided so far, since the key of a driver on AWS may not.

    Raises: ConfigError: the session is over. RecordInvalid: a stage of the record has a wrong seal.
    Store: the requests of a session's start; 1 swap.
    """
    if record.state != OPEN:
        return
    seals.check(record, record.names)
    known = digests_of(record)
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
    seen = plan.seen(record.seed)
    executor.submit(
        drive, record.name, objects.store.url, record.session, plan.stages, seen, definition, dict(settings), known
    )
    fleet.leave()


def drive(
    name: str,
    store: str,
    session: str,
    stages: tuple[Stage, ...],
    seen: Seen,
    definition: str,
    settings: dict[str, Any],
    known: list[str],
) -> str:
    """Drive a study from a worker of its session; return its state when this driver leaves it."""
    opened = OpenedStudy(name, open_studies(store), _container_key())
    try:
        record = opened.objects.read()
        if record.session != session:
            return record.state  # it went on in another session
        opened.settings = settings
        plan = Plan(stages, seen=seen)
        return opened.driver(plan, definition, _silent, threading.Event(), known=known).run(RunOptions()).state
    finally:
        opened.store.close()


def _container_key() -> str | None:
    """Return the session's key if this is a worker's container on AWS; None elsewhere: the user's key file has it."""
    try:
        start = config.container_start()
    except ConfigError:
        return None
    from starburst_executor.launch.aws.remote import container_key  # imports boto3, which only workers on AWS need

    return container_key(start, SystemClock())


def _silent(_: Event) -> None:
    """Say nothing: the record and the wheel say how far the study is."""
