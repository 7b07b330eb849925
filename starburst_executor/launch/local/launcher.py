"""Workers on this machine: one agent process with N slots, or several, forked from a process with all modules loaded.

The agent of an attached session is bound to its client by a pipe: when the client ends, for any reason, the agent ends.
A detached agent has its own session (`setsid`), so that it outlives the terminal, and writes its output to a log file.

A handle names each process by machine, boot, process id and start time. So a later client on the same machine can check
whether it is alive, and a client on another machine knows that it cannot.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO, NamedTuple

import msgpack

from starburst_executor import config
from starburst_executor.clock import Backoff, Clock, SystemClock
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.launch.bootstrap import MOST_SLOTS, Bootstrap, new_worker_id, write_bootstrap
from starburst_executor.launch.local import fork_server
from starburst_executor.launch.local.children import Child, Interpreter
from starburst_executor.launch.local.fork_server import ForkServer, ServerKilled
from starburst_executor.launch.local.processes import is_worker, started_at
from starburst_executor.store.url import split_url

__all__ = ["Local", "forget_session"]

_log = logging.getLogger(__name__)

_LAST_WORDS_BYTES = 2000
_STOP_S = 10.0
# Processes that have ended and whose exit status is still known. A client notices an end within a tenth of a second.
_ENDED_KEPT = 100
_LOOK_S = 0.005  # the interval of checks whether a stopped process has ended
# Pauses before a fork server that was killed is replaced.
_AGAIN_S, _AGAIN_MOST_S = 0.05, 5.0
# The output of a worker that ended by itself begins with one of these.
_OWN_WORDS = ("starburst worker: ", "Traceback (most recent call last)")
_LEAVE_QUIETLY = b"q"
# Not "-m": that would put the working directory first on the path, with all modules in it. If a flag keeps the working
# directory off the path, the first entry is not "".
_START = (
    f"import sys; sys.path[:sys.path[:1] == ['']] = [{str(Path(__file__).parents[3])!r}]; "
    "from starburst_executor.worker.__main__ import main; sys.exit(main())"
)


class _Process(NamedTuple):
    """An agent in a handle."""

    worker_id: str
    machine: str
    pid: int
    started: str
    log: str
    n_slots: int


class Local:
    """Starts agents on this machine.

    Args:
        agents: The number of agent processes that share the slots; more than one only for independent beats.
    """

    name = "local"
    launch_s = 60.0
    keeps_trying = False

    def __init__(self, agents: int = 1, *, clock: Clock | None = None) -> None:
        if type(agents) is not int or not 1 <= agents <= 256:  # noqa: PLR2004
            raise ConfigError(f"agents={agents!r} (an argument of Local): must be 1..256")
        self._agents = agents
        self._clock = clock or SystemClock()
        self._children: dict[str, Child] = {}
        self._servers: dict[str, ForkServer] = {}  # by the session's URL
        self._again = Backoff(self._clock, _AGAIN_S, _AGAIN_MOST_S)
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _after_fork(reference()))

    def __repr__(self) -> str:
        return f"Local(agents={self._agents})"

    @property
    def spec(self) -> str:
        return "local" if self._agents == 1 else f"local?agents={self._agents}"

    def check(self, n_slots: int) -> None:
        """Refuse more slots than a machine runs well, before anything is started. Raises: ConfigError."""
        most = self._agents * MOST_SLOTS
        if n_slots > most:
            raise ConfigError(
                f"workers={n_slots} (an argument or setting): must be at most {most} on this machine, {MOST_SLOTS} for each of "
                f"{self._agents} agents; request fewer, or let workers on other machines join a session with launcher='none'"
            )

    def usd_per_hour(self, n_slots: int) -> float | None:  # noqa: ARG002 - this machine costs nothing more
        """Return None: an estimate does not apply to this machine."""
        return None

    def start(self, order: Order, handle: str = "") -> Started:
        """Start all workers in one step; if the fork server is killed, a new one starts the rest after a pause."""
        self.check(order.n_slots)
        started = _load(handle)
        n_slots = order.n_slots - sum(process.n_slots for process in started)
        n_agents = max(0, min(max(1, self._agents - len(started)), n_slots))
        shares = [n_slots // n_agents + (i < n_slots % n_agents) for i in range(n_agents)]
        why: LaunchError | None = None
        for share in shares:
            try:
                started.append(self._start_one(order, share))
                self._again.reset()
            except ServerKilled as error:
                # It may be killed again. The caller decides how long to retry.
                n_started = sum(process.n_slots for process in started)
                return Started(_dump(started), n_started, more_s=self._again.next_s(), error=error)
            except LaunchError as error:
                if not started:
                    raise
                # The handle must name the workers that were started. The client reports the missing ones and retries.
                why = error
                break
        return Started(_dump(started), sum(process.n_slots for process in started), error=why)

    def deaths(self, handle: str) -> list[Death]:
        return [self._death(process) for process in _load(handle) if self._is_dead(process)]

    def slots_alive(self, handle: str) -> int:
        return sum(process.n_slots for process in _load(handle) if not self._is_dead(process))

    def describe(self, handle: str) -> str:  # noqa: ARG002 - their output is shown, or is in their logs
        return ""

    def shed(self, handle: str, n_slots: int) -> int:  # noqa: ARG002 - there usually is one process: all or none
        self.stop(handle, at_once=False)
        return self.slots_alive(handle)

    def stop(self, handle: str, *, at_once: bool) -> None:
        local = [process for process in _load(handle) if process.machine == config.machine_boot()]
        alive = [process for process in local if not self._is_dead(process) and is_worker(process.pid)]
        for process in alive:
            self._signal(process, signal.SIGKILL if at_once else signal.SIGTERM)
        if at_once:
            self._wait(alive)

    def let_go(self, handle: str) -> None:
        owned = [process for process in _load(handle) if process.worker_id in self._children]
        bound: list[_Process] = []
        for process in owned:
            pipe = self._children[process.worker_id].life
            if not pipe.closed:
                # A client that ends in order writes this byte; a pipe that closes without it means that the client died.
                with suppress(OSError):
                    pipe.write(_LEAVE_QUIETLY)
                with suppress(OSError):
                    pipe.close()
                bound.append(process)
        self._wait(bound)
        for process in owned:
            self._children.pop(process.worker_id).let_go()
        # The other children belong to handles that are released later, or died and are in no handle any more.
        if all(child.has_ended() for child in self._children.values()):
            while self._servers:
                self._servers.popitem()[1].close()

    def forget(self, handle: str) -> None:
        for process in _load(handle):
            with suppress(OSError):
                _log_of(process).unlink()

    def abandon(self) -> None:
        """Drop all agents in a child after a fork by the user: their pipes must close when the *client's* process ends."""
        for child in self._children.values():
            child.abandon()
        for server in self._servers.values():
            server.abandon()
        self._children.clear()
        self._servers.clear()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _start_one(self, order: Order, n_slots: int) -> _Process:
        worker_id = new_worker_id(self._clock)
        _, session_id = split_url(order.url)
        log = config.log_folder() / f"{session_id}-{worker_id}.log"
        attached = not order.detached
        bootstrap = Bootstrap(
            key=order.key,
            path=_module_path(),
            worker_id=worker_id,
            bound=attached,
            tee=attached,
            words=str(log),
            authkey=bytes(multiprocessing.current_process().authkey) if attached else b"",
        )
        try:
            with nullcontext(None) if attached else log.open("ab", buffering=0) as output:
                child = self._child(order.url, n_slots, output)
            # A worker that is killed before it reads the record is found dead like any other.
            with suppress(BrokenPipeError):
                write_bootstrap(child.life, bootstrap)
            if order.detached:
                child.life.close()
        except OSError as error:
            raise LaunchError(f"a worker process could not be started: {error}: session={session_id}") from error
        self._children[worker_id] = child
        self._forget_ended()
        return _Process(worker_id, config.machine_boot(), child.pid, child.started, str(log), n_slots)

    def _forget_ended(self) -> None:
        """Forget the processes that ended first: a client that lives for weeks may replace many workers."""
        ended = [worker_id for worker_id, child in self._children.items() if child.has_ended()]
        for worker_id in ended[:-_ENDED_KEPT]:
            child = self._children.pop(worker_id)
            child.life.close()
            child.let_go()

    def _child(self, url: str, n_slots: int, output: IO[bytes] | None) -> Child:
        # As for the processes of `multiprocessing`: -O, -W, -X and other flags apply to tasks too.
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public function
        command = [sys.executable, *flags, "-c", _START, url]
        if not fork_server.FORKS:
            return Interpreter([*command, "--slots", str(n_slots), "--bootstrap"], output)
        server = self._servers.get(url)
        if server is not None:
            try:
                return server.fork(n_slots, output)
            except LaunchError:
                if server.is_up:
                    raise
                server.close()
        # First start, or replacement of a killed one. A failure of a new fork server is final, unless a signal ended it.
        server = self._servers[url] = ForkServer([*command, "--fork-server"])
        return server.fork(n_slots, output)

    def _is_dead(self, process: _Process, *, closely: bool = False) -> bool:
        child = self._children.get(process.worker_id)
        if child is not None:
            if child.has_ended(closely=closely):
                child.life.close()
                return True
            return False
        if process.machine != config.machine_boot():
            return False
        return not process.started or started_at(process.pid) != process.started

    def _signal(self, process: _Process, number: signal.Signals) -> None:
        # The process may have ended between the check and the signal; its number is not reused within that time.
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)

    def _wait(self, ending: list[_Process]) -> None:
        """Wait until they have ended; after the limit, kill the ones that this process started."""
        deadline = self._clock.monotonic() + _STOP_S
        never = threading.Event()
        for process in ending:
            while not self._is_dead(process, closely=True):
                if self._clock.monotonic() >= deadline:
                    if process.worker_id in self._children:
                        self._signal(process, signal.SIGKILL)
                    break
                self._clock.wait(never, _LOOK_S)

    def _death(self, process: _Process) -> Death:
        child = self._children.get(process.worker_id)
        code = None if child is None else child.exit_code()
        text = self._last_words(process)
        # The exit code may be unknown: its parent was killed too, or another client started it.
        was_killed = code < 0 if code is not None else not any(words in text for words in _OWN_WORDS)
        status = "" if code is None else f"exit status {code}"
        return Death(process.worker_id, "; ".join(filter(None, [status, text])), was_killed=was_killed)

    def _last_words(self, process: _Process) -> str:
        try:
            return _log_of(process).read_bytes()[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            return ""


def forget_session(session_id: str) -> None:
    """Remove the log files of all workers of a deleted session on this machine, also of long dead ones."""
    # Session ids consist of letters, digits and "-": an id contains no pattern.
    for log in config.log_folder().glob(f"{session_id}-*.log"):
        with suppress(OSError):
            log.unlink()


def _after_fork(launcher: Local | None) -> None:
    if launcher is not None:
        launcher.abandon()


def _module_path() -> tuple[str, ...]:
    # An empty entry means the working directory at import time, which the worker inherits but may change.
    return tuple(entry or str(Path.cwd()) for entry in sys.path)


def _dump(processes: list[_Process]) -> str:
    packed: bytes = msgpack.packb([tuple(process) for process in processes], unicode_errors="surrogateescape")
    return packed.hex()


def _load(handle: str) -> list[_Process]:
    """Return the processes of a handle; none if it is malformed: anyone who can write to the store can write a handle."""
    try:
        processes = [
            _Process(*fields)
            for fields in msgpack.unpackb(bytes.fromhex(handle), use_list=False, unicode_errors="surrogateescape")
        ]
    except (ValueError, TypeError, msgpack.UnpackException):
        return []
    kinds = (str, str, int, str, str, int)
    return [process for process in processes if tuple(map(type, process)) == kinds and process.pid > 1]


def _log_of(process: _Process) -> Path:
    """Return its log file. Uses only the name in the handle, which must not make this client show or remove any other file."""
    return config.log_folder() / (Path(process.log).name or "-")
