"""Every exception of the library.

A class exists only where a caller acts differently on it; each docstring says whether to retry, fix or give up. The
exceptions of `concurrent.futures` (`CancelledError`, `TimeoutError`, `BrokenExecutor`, `InvalidStateError`) are raised
as they are.
"""

from __future__ import annotations

# It takes the import of the package from 150 modules to 163; programs that were written for a process pool name it.
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

__all__ = [
    "AccessDenied",
    "BudgetExceeded",
    "ConfigError",
    "DependencyFailed",
    "ExecutorBroken",
    "KeyNotFound",
    "LaunchError",
    "NoCapacity",
    "ObjectNotFound",
    "PayloadError",
    "PreconditionFailed",
    "QuotaExceeded",
    "RecordInvalid",
    "RemoteTraceback",
    "ResourcesUnavailable",
    "SessionExpired",
    "SessionNotFound",
    "StarburstError",
    "StoreError",
    "StoreUnavailable",
    "StudyChanged",
    "StudyNotFound",
    "TaskCrashed",
    "TaskFailed",
    "TaskOutOfMemory",
    "TaskTimeout",
    "TooManyFailures",
    "VersionMismatch",
    "WorkerLost",
]


class StarburstError(Exception):
    """Base class of all exceptions of this library."""

    def __str__(self) -> str:
        # Names of files may hold bytes that are no text; printing an error must not raise another one.
        return super().__str__().encode("utf-8", "backslashreplace").decode("utf-8")


class ConfigError(StarburstError, ValueError):
    """A setting or an argument is out of range. Fix: the message names the value, the range and the source."""


class SessionNotFound(StarburstError, LookupError):
    """There is no session with that id in that store. Fix the id, or pass `store=`; a deleted session cannot be restored."""


class StudyNotFound(StarburstError, LookupError):
    """There is no study with that name in that store. Fix the name, or pass `store=`."""


class StudyChanged(StarburstError):
    """A stage that has started differs from what is stored: its configuration or its code. Undo the change, or pass
    `accept_changes=True`, which goes on with it and writes it down.
    """


class SessionExpired(StarburstError):
    """The session's `absolute_timeout` has passed. Its outcomes can be read; start a new session to submit more."""


class KeyNotFound(StarburstError, LookupError):
    """The session's key is missing or is not the right one. Fix: copy the key file, or pass `key=`."""


class VersionMismatch(StarburstError):
    """Python or the stored format differs from the session's. Fix: use the version that the message names."""


class StoreError(StarburstError):
    """The object store refused or failed. See the two subclasses for what to do."""


class StoreUnavailable(StoreError):
    """The store gave no clear answer in time. Retry later; nothing submitted and acknowledged is lost.

    Attributes:
        is_busy: True if the store's answer was to send fewer requests (status 503 or 429).
    """

    def __init__(self, message: str, *, is_busy: bool = False) -> None:
        super().__init__(message)
        self.is_busy = is_busy


class AccessDenied(StoreError):
    """The store refused the credentials, or the bucket is missing. Fix what the message names."""


class ObjectNotFound(StoreError, LookupError):
    """No object under that key."""


class PreconditionFailed(StoreError):
    """A conditional write found another state than the expected one: another writer was first.

    Attributes:
        unclear: True if an earlier try of the same write got no answer and may have caused the found state. The caller then
            reads the object and looks for its own mark (docs/design/0001-protocol.md, "Conditional writes").
    """

    def __init__(self, message: str, *, unclear: bool = False) -> None:
        super().__init__(message)
        self.unclear = unclear


class RecordInvalid(StarburstError):
    """A stored record is corrupt, of a newer format, or has a wrong seal. It was not unpickled. Give up."""


class PayloadError(StarburstError):
    """A call or an outcome is too large, is missing, or cannot be rebuilt here. Fix the function or its data."""


class LaunchError(StarburstError):
    """Workers could not be started, or died before they could work. The message ends with their last output."""


class NoCapacity(LaunchError):
    """The platform has no free machines of that kind now. Retry later or request another kind."""


class QuotaExceeded(LaunchError):
    """The account's quota does not allow that number of workers. Request fewer, or a higher quota."""


class BudgetExceeded(StarburstError):
    """The work would cost, or has cost, more than allowed. Raise the budget or reduce the work."""


class TooManyFailures(StarburstError):
    """More tasks of the session have failed than `max_failures` allows, so it has ended. Mend the function, and start a new session."""


class DependencyFailed(StarburstError):
    """A task whose result this task needs has failed or was cancelled; its error is the cause. Retrying that task runs this one, too."""


class TaskFailed(StarburstError):
    """A task raised an exception that could not be rebuilt here; this exception carries its text.

    Attributes:
        type_name: Qualified name of the original exception's class.
    """

    def __init__(self, message: str, type_name: str = "") -> None:
        super().__init__(message, type_name)
        self.type_name = type_name

    def __str__(self) -> str:
        return str(self.args[0])


class TaskTimeout(StarburstError, TimeoutError):
    """A task ran longer than `task_timeout` and was stopped. Allow more time or split the task."""


class TaskCrashed(StarburstError):
    """The process that ran the task died: killed, out of memory, segmentation fault, `os._exit`. Fix the function."""


class TaskOutOfMemory(TaskCrashed):
    """The task used more memory than it asked for with `resources`, or was killed for its memory. Ask for more, or use less."""


class ResourcesUnavailable(StarburstError):
    """No worker has the resources that the task asked for. Request less, or start workers that have them."""


class WorkerLost(StarburstError):
    """Every worker that ran this task was lost, the last one while it ran no other task. The task probably kills its worker."""


class ExecutorBroken(StarburstError, BrokenProcessPool):
    """The session cannot continue: its initializer failed, no worker could be started, or `terminate_workers` ended it. Start
    a new one. It is a `BrokenProcessPool`, and so a `BrokenExecutor`.
    """


@dataclass(eq=False)
class RemoteTraceback(Exception):
    """The cause of an exception from a task: the traceback in the process that ran the task, as text."""

    text: str

    @property
    def tb(self) -> str:
        """The text, under the name that the cause of a process pool's errors has for it."""
        return self.text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
