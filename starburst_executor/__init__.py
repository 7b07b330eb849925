"""Run functions on more computers than the one in front of you, with the object store as the only thing they share.

    with StarburstExecutor(workers=50) as executor:     # a drop-in replacement for ProcessPoolExecutor
        results = list(executor.map(function, items))

`DetachedExecutor` is the same executor with another end: it outlives the process that made it.
"""

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.executor import StarburstExecutor
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.money import Cost
from starburst_executor.client.report import SessionStatus, TaskOutcome
from starburst_executor.client.session import SessionSummary
from starburst_executor.config import Timings
from starburst_executor.context import TaskContext, current_task
from starburst_executor.errors import (
    AccessDenied,
    BudgetExceeded,
    ConfigError,
    ExecutorBroken,
    KeyNotFound,
    LaunchError,
    NoCapacity,
    PayloadError,
    QuotaExceeded,
    RecordInvalid,
    RemoteTraceback,
    SessionExpired,
    SessionNotFound,
    StarburstError,
    StoreError,
    StoreUnavailable,
    TaskCrashed,
    TaskFailed,
    TaskTimeout,
    VersionMismatch,
    WorkerLost,
)
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.ecs import Ec2, Fargate
from starburst_executor.launch.local.launcher import Local
from starburst_executor.version import __version__

__all__ = [
    "AccessDenied",
    "Batch",
    "BudgetExceeded",
    "ConfigError",
    "Cost",
    "DetachedExecutor",
    "Ec2",
    "ExecutorBroken",
    "Fargate",
    "KeyNotFound",
    "LaunchError",
    "Local",
    "NoCapacity",
    "PayloadError",
    "QuotaExceeded",
    "RecordInvalid",
    "RemoteTraceback",
    "SessionExpired",
    "SessionNotFound",
    "SessionStatus",
    "SessionSummary",
    "StarburstError",
    "StarburstExecutor",
    "StarburstFuture",
    "StoreError",
    "StoreUnavailable",
    "TaskContext",
    "TaskCrashed",
    "TaskFailed",
    "TaskOutcome",
    "TaskTimeout",
    "Timings",
    "VersionMismatch",
    "WorkerLost",
    "__version__",
    "current_task",
]
