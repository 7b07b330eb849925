"""The object keys: no other module builds or parses one.

    sessions/<session_id>/manifest
                          bell
                          functions/<digest>
                          calls/<status_id>
                          status/<epoch>/<status_id>-<n>[-p<priority>][-l<limit>][-r<resources>]
                          outcomes/<status_id>/<claim_id>-<k>
                          logs/<status_id>/<claim_id>-<k>
                          workers/<worker_id>
                          clients/<client_id>
                          once/<number>
                          limits/<name>
                          shared/<name>/<k>
    code/<month>/<digest>
    names/<name>
    cache/<name>/<digest>

Code belongs to no session. Its name contains its digest and the month in which it was written, so that a lifecycle rule
of the bucket can delete code that is no longer in use.

A status id is `<ordinal>.<first sequence>` in fixed-width hexadecimal, so that keys sort in submission order and a listing
is enough to know which tasks exist. Keys and ids from a listing or a user are validated: a listing ignores a key that
does not parse; all other callers refuse it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from starburst_executor.errors import ConfigError, RecordInvalid
from starburst_executor.protocol.resources import RESOURCES
from starburst_executor.texts import shortened

__all__ = [
    "SessionKeys",
    "StatusRef",
    "cache_folder",
    "code_digest",
    "code_key",
    "is_limit_name",
    "is_loads",
    "is_name",
    "is_session_id",
    "is_status_id",
    "loads_name",
    "name_key",
    "session_folder",
    "task_id",
    "worker_of",
]

SESSIONS = "sessions/"
CODE = "code/"
NAMES = "names/"
CACHES = "cache/"
# Not a key: how the name of the folder begins into which a worker unpacks code. Tracebacks of tasks have it in their paths.
UNPACKED = "starburst-code-"
STATUSES_PER_EPOCH = 1000

_LOADS = "loads:"
_SESSION_ID = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")
# Ids begin with a digit, since they begin with a date; so no name is the id of a session, or the beginning of one.
_NAME = re.compile(r"(?!last\Z)[A-Za-z][A-Za-z0-9._-]{0,62}")
_ONCE = re.compile(r"[0-9a-f]{8}")
_STATUS_ID = re.compile(r"[0-9a-f]{4}\.[0-9a-f]{10}")
_CODE = re.compile(r"[0-9]{4}-[0-9]{2}/([0-9a-f]{64})")
_ENDING = re.compile(rf"(?:-p(-?[1-9][0-9]{{0,2}}))?(?:-l([A-Za-z][A-Za-z0-9_]{{0,31}}))?(?:-r({RESOURCES}))?")
_STATUS = re.compile(
    rf"([0-9a-f]{{4}})\.([0-9a-f]{{6}})/([0-9a-f]{{4}})\.([0-9a-f]{{10}})-([1-9][0-9]{{0,3}}){_ENDING.pattern}"
)
_SHOWN_CHARACTERS = 80
_LIMIT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


class StatusRef(NamedTuple):
    """The parts of a status object's key: the submitter's ordinal, the first sequence number, the task count, the epoch; and the
    priority, the limit and the resources of its tasks, 0 and empty unless the key has them.
    """

    ordinal: int
    first: int
    n_tasks: int
    epoch: int
    priority: int = 0
    limit: str = ""
    resources: str = ""

    @property
    def status_id(self) -> str:
        return f"{self.ordinal:04x}.{self.first:010x}"

    @property
    def ending(self) -> str:
        """The end of its key: priority, limit and resources; empty without any."""
        end = (f"-p{self.priority}" if self.priority else "") + (f"-l{self.limit}" if self.limit else "")
        return end + (f"-r{self.resources}" if self.resources else "")

    def ending_in(self, ending: str) -> StatusRef:
        """Return it with the priority, limit and resources of such an end. Raises: RecordInvalid."""
        match = _ENDING.fullmatch(ending)
        if match is None:
            raise RecordInvalid(f"not the end of a status object's key: {ending!r}")
        priority, limit, resources = match.groups()
        return self._replace(priority=int(priority or 0), limit=limit or "", resources=resources or "")


def is_session_id(text: str) -> bool:
    """Return whether `text` has the form of a session's id: 3 to 63 of a-z, 0-9 and "-"."""
    return _SESSION_ID.fullmatch(text) is not None


def is_name(text: object) -> bool:
    """Return whether `text` may be a session's name: a letter, then up to 62 letters, digits, ".", "_" and "-"; not `last`."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def name_key(name: str) -> str:
    """Return the key of the object that says which session has this name. Raises: ConfigError."""
    return f"{NAMES}{_checked(name, of='a session')}"


def is_limit_name(text: object) -> bool:
    """Return whether `text` may be a limit's name: a letter, then up to 31 letters, digits and "_"."""
    return isinstance(text, str) and _LIMIT.fullmatch(text) is not None


def cache_folder(name: str) -> str:
    """Return the prefix of the keys of a cache's entries. Raises: ConfigError."""
    return f"{CACHES}{_checked(name, of='a cache')}/"


def _checked(name: str, *, of: str) -> str:
    if not is_name(name):
        raise ConfigError(
            f"not a name for {of}: {shortened(repr(name), _SHOWN_CHARACTERS)}: a letter, then up to 62 letters, digits, '.', '_' and '-'; and not 'last'"
        )
    return name


def is_status_id(text: str) -> bool:
    """Return whether `text` has the form of `StatusRef.status_id`."""
    return _STATUS_ID.fullmatch(text) is not None


def session_folder(session_id: str) -> str:
    """Return the prefix of all keys of one session. Raises: ConfigError."""
    if not is_session_id(session_id):
        raise ConfigError(f"not a session id: {session_id!r}: 3 to 63 of a-z, 0-9 and '-'")
    return f"{SESSIONS}{session_id}/"


def code_key(name: str) -> str:
    """Return the key of the code with this name, `<month>/<digest>`: `2026-04/9f8e…`. Raises: RecordInvalid."""
    code_digest(name)
    return f"{CODE}{name}"


def code_digest(name: str) -> str:
    """Return the SHA-256 that the code with this name must have, 64 hexadecimal digits. Raises: RecordInvalid."""
    match = _CODE.fullmatch(name)
    if match is None:
        raise RecordInvalid(f"not a name of code: {name!r}: a month and a SHA-256")
    return match[1]


def loads_name(digest: str) -> str:
    """Return a name of loads: it replaces the name of code if workers already have the user's modules."""
    return f"{_LOADS}{digest}"


def is_loads(name: str) -> bool:
    """Return whether this is a name of loads, which no stored object has."""
    return name.startswith(_LOADS)


def task_id(ordinal: int, sequence: int) -> str:
    """Return a task's id as users see it, unique in its session: `"0-17"`."""
    return f"{ordinal}-{sequence}"


def worker_of(claim_id: str) -> str:
    """Return the id of the worker that made a claim: claim ids are `<worker_id>.<number>`."""
    return claim_id.rpartition(".")[0]


class SessionKeys:
    """The keys of one session. Immutable."""

    __slots__ = ("bell", "clients", "folder", "limits", "manifest", "once_entries", "session_id", "statuses", "workers")

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.folder = session_folder(session_id)
        self.manifest = f"{self.folder}manifest"
        self.bell = f"{self.folder}bell"
        self.statuses = f"{self.folder}status/"
        self.workers = f"{self.folder}workers/"
        self.clients = f"{self.folder}clients/"
        self.once_entries = f"{self.folder}once/"
        self.limits = f"{self.folder}limits/"

    def function(self, digest: str) -> str:
        return f"{self.folder}functions/{digest}"

    def calls(self, status_id: str) -> str:
        return f"{self.folder}calls/{status_id}"

    def outcomes(self, status_id: str, part: str) -> str:
        """Return the key of a claim's k-th outcome object; `part` is `<claim_id>-<k>`."""
        return f"{self.folder}outcomes/{status_id}/{part}"

    def logs(self, status_id: str, part: str) -> str:
        return f"{self.folder}logs/{status_id}/{part}"

    def worker(self, worker_id: str) -> str:
        return f"{self.workers}{worker_id}"

    def client(self, client_id: str) -> str:
        return f"{self.clients}{client_id}"

    def limit(self, name: str) -> str:
        return f"{self.limits}{name}"

    def parse_limit(self, key: str) -> str:
        """Return the name in a limit's key; empty if the key does not have that form."""
        name = key.removeprefix(self.limits)
        return name if key.startswith(self.limits) and is_limit_name(name) else ""

    def once(self, number: int) -> str:
        """Return the key of an entry of the log of keys."""
        return f"{self.once_entries}{number:08x}"

    def shared(self, name: str, number: int | None = None) -> str:
        """Return the key of a shared value's part of this number, or the prefix of all its parts."""
        return f"{self.folder}shared/{name}/" + ("" if number is None else f"{number:06x}")

    def parse_once(self, key: str) -> int | None:
        """Parse the number of an entry of the log of keys; None if the key does not have that form."""
        text = key.removeprefix(self.once_entries)
        return int(text, 16) if key.startswith(self.once_entries) and _ONCE.fullmatch(text) else None

    def epoch(self, ordinal: int, number: int) -> str:
        """Return the prefix of one epoch's status objects."""
        return f"{self.statuses}{ordinal:04x}.{number:06x}/"

    def status(self, ref: StatusRef) -> str:
        return f"{self.epoch(ref.ordinal, ref.epoch)}{ref.status_id}-{ref.n_tasks}{ref.ending}"

    def parse_status(self, key: str) -> StatusRef | None:
        """Parse a status object's key; None if it does not have that form."""
        match = _STATUS.fullmatch(key, len(self.statuses)) if key.startswith(self.statuses) else None
        if match is None:
            return None
        epoch_ordinal, epoch, ordinal, first, n_tasks, priority, limit, resources = match.groups()
        if epoch_ordinal != ordinal or int(n_tasks) > 2048:  # noqa: PLR2004 - see spans/record.py, MAX_TASKS
            return None
        return StatusRef(
            *(int(ordinal, 16), int(first, 16), int(n_tasks), int(epoch, 16)),
            int(priority or 0),
            limit or "",
            resources or "",
        )
