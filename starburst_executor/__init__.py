"""Run functions on more computers than the one in front of you, with the object store as the only thing they share.

    with StarburstExecutor(workers=50) as executor:     # a drop-in replacement for ProcessPoolExecutor
        results = list(executor.map(function, items))

`DetachedExecutor` is the same executor, except that leaving it detaches the client while the work continues.
Each name is imported when it is first used, so that `import starburst_executor` alone takes a few milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starburst_executor.client.by_label import LabelStatus
    from starburst_executor.client.cached import cached
    from starburst_executor.client.counting import SessionSummary
    from starburst_executor.client.detached import DetachedExecutor
    from starburst_executor.client.executor import StarburstExecutor
    from starburst_executor.client.future import StarburstFuture
    from starburst_executor.client.money import Cost
    from starburst_executor.client.report import SessionStatus, TaskOutcome
    from starburst_executor.client.timeline import TaskRecord, Timeline
    from starburst_executor.client.view import ExecutorView
    from starburst_executor.config import Timings
    from starburst_executor.context import TaskContext, TaskExecutor, current_task
    from starburst_executor.errors import (
        AccessDenied,
        BudgetExceeded,
        ConfigError,
        DependencyFailed,
        ExecutorBroken,
        KeyNotFound,
        LaunchError,
        NoCapacity,
        PayloadError,
        QuotaExceeded,
        RecordInvalid,
        RemoteTraceback,
        ResourcesUnavailable,
        SessionExpired,
        SessionNotFound,
        StarburstError,
        StoreError,
        StoreUnavailable,
        StudyChanged,
        StudyNotFound,
        TaskCrashed,
        TaskFailed,
        TaskOutOfMemory,
        TaskTimeout,
        TooManyFailures,
        VersionMismatch,
        WorkerLost,
    )
    from starburst_executor.launch.aws.batch import Batch
    from starburst_executor.launch.aws.ecs import Ec2, Fargate
    from starburst_executor.launch.local.launcher import Local
    from starburst_executor.protocol.attempts import Attempt
    from starburst_executor.protocol.options import Limit
    from starburst_executor.protocol.references import SharedRef
    from starburst_executor.study.stage import Stage
    from starburst_executor.study.study import Study
    from starburst_executor.study.trial import Trial

from starburst_executor.version import __version__

__all__ = [
    "AccessDenied",
    "Attempt",
    "Batch",
    "BudgetExceeded",
    "ConfigError",
    "Cost",
    "DependencyFailed",
    "DetachedExecutor",
    "Ec2",
    "ExecutorBroken",
    "ExecutorView",
    "Fargate",
    "KeyNotFound",
    "LabelStatus",
    "LaunchError",
    "Limit",
    "Local",
    "NoCapacity",
    "PayloadError",
    "QuotaExceeded",
    "RecordInvalid",
    "RemoteTraceback",
    "ResourcesUnavailable",
    "SessionExpired",
    "SessionNotFound",
    "SessionStatus",
    "SessionSummary",
    "SharedRef",
    "Stage",
    "StarburstError",
    "StarburstExecutor",
    "StarburstFuture",
    "StoreError",
    "StoreUnavailable",
    "Study",
    "StudyChanged",
    "StudyNotFound",
    "TaskContext",
    "TaskCrashed",
    "TaskExecutor",
    "TaskFailed",
    "TaskOutOfMemory",
    "TaskOutcome",
    "TaskRecord",
    "TaskTimeout",
    "Timeline",
    "Timings",
    "TooManyFailures",
    "Trial",
    "VersionMismatch",
    "WorkerLost",
    "__version__",
    "cached",
    "current_task",
]

# Where each name is defined. A module is imported when its first name is used: `import starburst_executor` stays fast.
_DEFINED_IN = {
    "AccessDenied": "errors",
    "Attempt": "protocol.attempts",
    "Batch": "launch.aws.batch",
    "BudgetExceeded": "errors",
    "ConfigError": "errors",
    "Cost": "client.money",
    "DependencyFailed": "errors",
    "DetachedExecutor": "client.detached",
    "Ec2": "launch.aws.ecs",
    "ExecutorBroken": "errors",
    "ExecutorView": "client.view",
    "Fargate": "launch.aws.ecs",
    "KeyNotFound": "errors",
    "LabelStatus": "client.by_label",
    "LaunchError": "errors",
    "Limit": "protocol.options",
    "Local": "launch.local.launcher",
    "NoCapacity": "errors",
    "PayloadError": "errors",
    "QuotaExceeded": "errors",
    "RecordInvalid": "errors",
    "RemoteTraceback": "errors",
    "ResourcesUnavailable": "errors",
    "SessionExpired": "errors",
    "SessionNotFound": "errors",
    "SessionStatus": "client.report",
    "SessionSummary": "client.counting",
    "SharedRef": "protocol.references",
    "Stage": "study.stage",
    "StarburstError": "errors",
    "StarburstExecutor": "client.executor",
    "StarburstFuture": "client.future",
    "StoreError": "errors",
    "StoreUnavailable": "errors",
    "Study": "study.study",
    "StudyChanged": "errors",
    "StudyNotFound": "errors",
    "TaskContext": "context",
    "TaskExecutor": "context",
    "TaskCrashed": "errors",
    "TaskFailed": "errors",
    "TaskOutOfMemory": "errors",
    "TaskOutcome": "client.report",
    "TaskRecord": "client.timeline",
    "TaskTimeout": "errors",
    "Timeline": "client.timeline",
    "Timings": "config",
    "TooManyFailures": "errors",
    "Trial": "study.trial",
    "VersionMismatch": "errors",
    "WorkerLost": "errors",
    "cached": "client.cached",
    "current_task": "context",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
