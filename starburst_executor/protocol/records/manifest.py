"""The manifest: the configuration and the state of a session, its submitting clients and its launches of workers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import msgpack

from starburst_executor.config import Timings
from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.records.fields import ANY_BYTES, Fields, typed

__all__ = ["ATTACHED", "DETACHED", "Launch", "Manifest", "SessionState", "Submitter", "decode_manifest", "settings_of"]

_SETTINGS = (
    *("kind", "slots", "initializer", "owner", "keep", "idle_exit", "deadline_at"),
    *("retries", "max_losses", "max_result_bytes", "task_timeout", "max_tasks_per_child"),
    *("budget_usd", "max_hourly_cost", "name", "max_failures", "task_logs"),
)
# The two kinds of session: an attached one ends with its client, a detached one outlives it.
ATTACHED = "attached"
DETACHED = "detached"


class SessionState(str, enum.Enum):
    """The states of a session; it only moves forward."""

    OPEN = "open"
    CLOSING = "closing"
    TERMINATED = "terminated"
    EXPIRED = "expired"
    BROKEN = "broken"
    DELETED = "deleted"

    @property
    def is_over(self) -> bool:
        """Whether no further task may start. Any client or worker may then end the remaining tasks."""
        return self not in (SessionState.OPEN, SessionState.CLOSING)

    def may_become(self, other: SessionState) -> bool:
        """Return whether a swap from this state to `other` is a step forward."""
        return _AGE[other] > _AGE[self]


_AGE = {
    SessionState.OPEN: 0,
    SessionState.CLOSING: 1,
    SessionState.TERMINATED: 2,
    SessionState.EXPIRED: 2,
    SessionState.BROKEN: 2,
    SessionState.DELETED: 3,
}


@dataclass(frozen=True, slots=True)
class Submitter:
    """One submitting client. Its ordinal is its place in the manifest.

    Attributes:
        client_id: Its id, as in its beats.
        epochs: The number of epochs it has opened.
        open: The epochs that are still listed, ascending.
        holds: Epochs that a retry keeps open, each with the retry's id.
        left: Whether the client submits nothing more: each of its epochs is then closed once all its tasks have ended, full or
            not. A client that counted as gone by mistake resets it.
    """

    client_id: str
    epochs: int
    open: tuple[int, ...]
    holds: tuple[tuple[int, str], ...] = ()
    left: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """Workers requested from a launcher: an intent, and its handle once the launcher has replied.

    Attributes:
        launch_id: Fresh for each intent.
        launcher: The launcher's name.
        slots: The number of tasks that these workers run at once.
        handle: The launcher's text for finding them again and starting the rest; empty until the launcher has replied.
        at: The time of the request, UTC epoch seconds of the requesting client; renewed until all are started.
        settled: No more of them will be started.
        started: Slots started so far.
        since: When the first slots were started, UTC epoch seconds of that client.
        usd_per_hour: The estimated cost of all `slots` an hour; 0 if no cost is known.
        client: The id of the client that starts them; empty if it left before all were started.
        n_taken: How many of these workers the platform has interrupted, as far as a client has observed.
    """

    launch_id: str
    launcher: str
    slots: int
    handle: str
    at: float
    settled: bool = False
    started: int = 0
    since: float = 0.0
    usd_per_hour: float = 0.0
    client: str = ""
    n_taken: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The configuration and the state of a session.

    Attributes:
        slots: The number of tasks that run at once.
        reason: Why the session is over, for messages.
        error: The class of the error of a broken session's unfinished tasks, by name (`protocol/money.py`).
        seal: The seal of the settings (`settings_of`) under the session's key.
        task_logs: The lowest level of the records of `logging` that tasks store with their output; None for none.
        owner: The process of the client that created it, as that client's machine names it (`client/owner.py`).
        keep: Whether its objects stay after its end until the user deletes them.
        name: Its name among the sessions of its store; empty without one.
        max_failures: The session ends when more of its tasks have failed: a number, or a share such as `10%`; empty for no limit.
        messages: Marks of the messages that were sent, or could not be (`session/messages.py`).
        has_limits: Whether tasks with a limit were submitted, so that watchers look for permits of lost workers.
        has_priorities: Whether tasks with a priority were submitted, so that workers list more often (`worker/finder.py`).
        stops: The newest claims of which running tasks may have been cancelled (`session/stops.py`).

    Attributes for costs (`protocol/money.py`):
        budget_usd: The session ends when its workers have cost this many dollars, or None.
        max_hourly_cost: Workers that would raise its cost above this many dollars an hour are not started, or None.
        spent_usd: Dollars that the workers of launches have cost that are no longer in `launches`.
    """

    session_id: str
    kind: str
    created_at: float
    python: str
    library: str
    token: bytes
    slots: int
    timings: Timings
    state: SessionState = SessionState.OPEN
    reason: str = ""
    error: str = ""
    launcher: str = "none"
    launcher_seal: bytes = b""
    retries: int = 0
    max_losses: int = 3
    max_result_bytes: int = 2**40
    task_timeout: float | None = None
    max_tasks_per_child: int | None = None
    initializer: str | None = None
    deadline_at: float | None = None
    idle_exit: bool = True
    submitters: tuple[Submitter, ...] = ()
    launches: tuple[Launch, ...] = ()
    budget_usd: float | None = None
    max_hourly_cost: float | None = None
    spent_usd: float = 0.0
    seal: bytes = b""
    owner: str = ""
    keep: bool = False
    n_taken: int = 0  # interrupted workers of launches that are no longer in `launches`
    name: str = ""
    max_failures: str = ""
    messages: tuple[str, ...] = ()
    task_logs: int | None = None
    stops: tuple[str, ...] = ()
    has_priorities: bool = False
    has_limits: bool = False

    @property
    def n_interruptions(self) -> int:
        """The number of workers that the platform has interrupted, over all launches."""
        return self.n_taken + sum(launch.n_taken for launch in self.launches)

    def open_epochs(self) -> list[tuple[int, int]]:
        """Return (ordinal, number) of every epoch that is listed."""
        return [(ordinal, number) for ordinal, s in enumerate(self.submitters) for number in s.open]

    def with_submitter(self, ordinal: int, submitter: Submitter) -> Manifest:
        """Return the manifest with that submitter replaced, or appended."""
        changed = list(self.submitters)
        changed[ordinal : ordinal + 1] = [submitter]
        return replace(self, submitters=tuple(changed))


def decode_manifest(body: bytes) -> Manifest:
    """Decode a manifest. Raises: RecordInvalid, VersionMismatch."""
    fields = Fields(body, "manifest")
    return Manifest(
        session_id=fields.take("session_id", str),
        kind=fields.take("kind", str),
        created_at=fields.take("created_at", float),
        python=fields.take("python", str),
        library=fields.take("library", str),
        token=fields.take("token", bytes),
        slots=fields.take("slots", int),
        timings=Timings.from_record(fields.take("timings", dict)),
        state=fields.member("state", SessionState),
        reason=fields.take("reason", str),
        error=fields.take("error", str),
        launcher=fields.take("launcher", str),
        launcher_seal=fields.take("launcher_seal", bytes),
        retries=fields.take("retries", int),
        max_losses=fields.take("max_losses", int),
        max_result_bytes=fields.take("max_result_bytes", int),
        task_timeout=fields.optional("task_timeout", float),
        max_tasks_per_child=fields.optional("max_tasks_per_child", int),
        initializer=fields.optional("initializer", str),
        deadline_at=fields.optional("deadline_at", float),
        idle_exit=fields.take("idle_exit", bool),
        submitters=tuple(_submitter(raw) for raw in fields.take("submitters", tuple)),
        launches=tuple(_launch(raw) for raw in fields.take("launches", tuple)),
        budget_usd=fields.optional("budget_usd", float),
        max_hourly_cost=fields.optional("max_hourly_cost", float),
        spent_usd=fields.take("spent_usd", float),
        seal=fields.take("seal", bytes),
        owner=fields.take("owner", str),
        keep=fields.take("keep", bool),
        n_taken=fields.take("n_taken", int),
        name=fields.take("name", str),
        max_failures=fields.take("max_failures", str),
        messages=tuple(typed(mark, str, "manifest, field messages") for mark in fields.take("messages", tuple)),
        task_logs=fields.optional("task_logs", int),
        stops=tuple(typed(mark, str, "manifest, field stops") for mark in fields.optional("stops", tuple) or ()),
        has_priorities=fields.optional("has_priorities", bool) or False,
        has_limits=fields.optional("has_limits", bool) or False,
    )


def settings_of(manifest: Manifest) -> bytes:
    """Return the bytes that a manifest's seal covers: all settings that only a client with the session's key may choose.

    These are the initializer, the budget and cost limits, the session's lifetime, the rules by which tasks fail, and whether
    the session may be swept. The seal does not cover the fields that workers and clients change continually: states, epochs,
    launches and money spent. It does not cover the launcher, which has its own seal; the version of Python, which can only
    cause a refusal; or the timings, to which other releases may add fields.
    """
    values = [getattr(manifest, name) for name in _SETTINGS]
    # A limit may be set as an integer; it is decoded as a float.
    numbers = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    packed: bytes = msgpack.packb(numbers, unicode_errors=ANY_BYTES)
    return packed


def _submitter(raw: object) -> Submitter:
    where = "manifest, field submitters"
    fields = typed(raw, tuple, where)
    if len(fields) != len(Submitter.__slots__):
        raise RecordInvalid(f"a wrong length in a {where}")
    client_id, epochs, opened, holds, left = fields
    return Submitter(
        typed(client_id, str, where),
        typed(epochs, int, where),
        tuple(typed(number, int, where) for number in typed(opened, tuple, where)),
        tuple(_hold(hold, where) for hold in typed(holds, tuple, where)),
        typed(left, bool, where),
    )


def _hold(raw: object, where: str) -> tuple[int, str]:
    hold = typed(raw, tuple, where)
    if len(hold) != 2:  # noqa: PLR2004 - epoch and id
        raise RecordInvalid(f"a wrong length in a {where}")
    return typed(hold[0], int, where), typed(hold[1], str, where)


def _launch(raw: object) -> Launch:
    where = "manifest, field launches"
    fields = typed(raw, tuple, where)
    if len(fields) != len(Launch.__slots__):
        raise RecordInvalid(f"a wrong length in a {where}")
    launch_id, launcher, slots, handle, at, settled, started, since, usd_per_hour, client, n_taken = fields
    return Launch(
        typed(launch_id, str, where),
        typed(launcher, str, where),
        typed(slots, int, where),
        typed(handle, str, where),
        typed(at, float, where),
        typed(settled, bool, where),
        typed(started, int, where),
        typed(since, float, where),
        typed(usd_per_hour, float, where),
        typed(client, str, where),
        typed(n_taken, int, where),
    )
