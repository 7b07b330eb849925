"""Workers on this machine: one agent process with N slots, or several, forked from one that has everything loaded.

An attached session's agent is bound to its client by a pipe: when the client ends, in whatever way, the agent ends. A
detached one has a session of its own (`setsid`), so that it outlives the terminal, and its output goes to a log file.

A handle names each process by machine, boot, process id and start time, so that a later client on the same machine can
tell whether it lives, and one on another machine knows that it cannot tell.
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
_LOOK_S = 0.005  # how often to look whether one has ended that was told to
# Pauses before another fork server is started in place of one that was killed.
_AGAIN_S, _AGAIN_MOST_S = 0.05, 5.0
# What a worker that ends by itself leaves behind.
_OWN_WORDS = ("starburst worker: ", "Traceback (most recent call last)")
_LEAVE_QUIETLY = b"q"
# Not "-m": that would put the working directory first on the path, and with it whatever modules lie there.
# Where a flag keeps the working directory off the path, the first entry is another one.
_START = (
    f"import sys; sys.path[:sys.path[:1] == ['']] = [{str(Path(__file__).parents[3])!r}]; "
    "from starburst_executor.worker.__main__ import main; sys.exit(main())"
)


class _Process(NamedTuple):
    """One agent, as a handle names it."""

    worker_id: str
    machine: str
    pid: int
    started: str
    log: str
    n_slots: int


class Local:
    """Starts agents on this machine.

    Args:
        agents: How many agent processes share the slots; one does unless their beats are to be independent.
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
        here = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _after_fork(here()))

    def __repr__(self) -> str:
        return f"Local(agents={self._agents})"

    @property
    def spec(self) -> str:
        return "local" if self._agents == 1 else f"local?agents={self._agents}"

    def check(self, n_slots: int) -> None:
        """Refuse what no machine runs well, before anything is started. Raises: ConfigError."""
        most = self._agents * MOST_SLOTS
        if n_slots > most:
            raise ConfigError(
                f"workers={n_slots} (an argument or setting): must be at most {most} on this machine, {MOST_SLOTS} for each of "
                f"{self._agents} agents; ask for fewer, or let workers elsewhere join a session with launcher='none'"
            )

    def usd_per_hour(self, n_slots: int) -> float | None:  # noqa: ARG002 - a machine that is there costs nothing more
        """None."""
        return None

    def start(self, order: Order, handle: str = "") -> Started:
        """One step starts them all, but where the fork server is killed: then another one does, after a pause."""
        self.check(order.n_slots)
        started = _load(handle)
        n_slots = order.n_slots - sum(one.n_slots for one in started)
        n_agents = max(0, min(max(1, self._agents - len(started)), n_slots))
        shares = [n_slots // n_agents + (i < n_slots % n_agents) for i in range(n_agents)]
        why: LaunchError | None = None
        for share in shares:
            try:
                started.append(self._start_one(order, share))
                self._again.reset()
            except ServerKilled as error:
                # Whatever kills it may do so again. For how long this goes on is the caller's to say.
                return Started(
                    _dump(started), sum(one.n_slots for one in started), more_s=self._again.next_s(), error=error
                )
            except LaunchError as error:
                if not started:
                    raise
                # What was started must be in a handle. The client says that some are missing and asks again.
                why = error
                break
        return Started(_dump(started), sum(one.n_slots for one in started), error=why)

    def deaths(self, handle: str) -> list[Death]:
        return [self._death(one) for one in _load(handle) if self._is_dead(one)]

    def slots_alive(self, handle: str) -> int:
        return sum(one.n_slots for one in _load(handle) if not self._is_dead(one))

    def describe(self, handle: str) -> str:  # noqa: ARG002 - what they print is shown, or in their logs
        return ""

    def shed(self, handle: str, n_slots: int) -> int:  # noqa: ARG002 - mostly there is one process: all or none
        self.stop(handle, at_once=False)
        return self.slots_alive(handle)

    def stop(self, handle: str, *, at_once: bool) -> None:
        here = [one for one in _load(handle) if one.machine == config.machine_boot()]
        alive = [one for one in here if not self._is_dead(one) and is_worker(one.pid)]
        for one in alive:
            self._signal(one, signal.SIGKILL if at_once else signal.SIGTERM)
        if at_once:
            self._wait(alive)

    def let_go(self, handle: str) -> None:
        mine = [one for one in _load(handle) if one.worker_id in self._children]
        bound: list[_Process] = []
        for one in mine:
            pipe = self._children[one.worker_id].life
            if not pipe.closed:
                # A client that ends in good order says so; the end of the pipe alone means that it died.
                with suppress(OSError):
                    pipe.write(_LEAVE_QUIETLY)
                with suppress(OSError):
                    pipe.close()
                bound.append(one)
        self._wait(bound)
        for one in mine:
            self._children.pop(one.worker_id).let_go()
        # Those left are of handles that are let go after this one, or died and are in none any more.
        if all(child.has_ended() for child in self._children.values()):
            while self._servers:
                self._servers.popitem()[1].close()

    def forget(self, handle: str) -> None:
        for one in _load(handle):
            with suppress(OSError):
                _log_of(one).unlink()

    def abandon(self) -> None:
        """For the child of a fork of the user's: the end of these pipes must mean that *this* process ended."""
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
            # One that was killed before it could read is found dead like any other.
            with suppress(BrokenPipeError):
                write_bootstrap(child.life, bootstrap)
            if order.detached:
                child.life.close()
        except OSError as error:
            raise LaunchError(f"a worker process could not be started: {error}: session={session_id}") from error
        self._children[worker_id] = child
        return _Process(worker_id, config.machine_boot(), child.pid, child.started, str(log), n_slots)

    def _child(self, url: str, n_slots: int, output: IO[bytes] | None) -> Child:
        # As for the processes of `multiprocessing`: -O, -W, -X and others hold for tasks too.
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way
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
        # Whether that one was killed or there was none yet: this one is new, and its failure is a reason, but for a signal.
        server = self._servers[url] = ForkServer([*command, "--fork-server"])
        return server.fork(n_slots, output)

    def _is_dead(self, one: _Process, *, closely: bool = False) -> bool:
        child = self._children.get(one.worker_id)
        if child is not None:
            if child.has_ended(closely=closely):
                child.life.close()
                return True
            return False
        if one.machine != config.machine_boot():
            return False
        return not one.started or started_at(one.pid) != one.started

    def _signal(self, one: _Process, number: signal.Signals) -> None:
        # The process may have ended between the check and the signal; its number is not reused within that time.
        with suppress(ProcessLookupError):
            os.kill(one.pid, number)

    def _wait(self, ending: list[_Process]) -> None:
        """Until they have ended; those of our own that do not are killed."""
        deadline = self._clock.monotonic() + _STOP_S
        never = threading.Event()
        for one in ending:
            while not self._is_dead(one, closely=True):
                if self._clock.monotonic() >= deadline:
                    if one.worker_id in self._children:
                        self._signal(one, signal.SIGKILL)
                    break
                self._clock.wait(never, _LOOK_S)

    def _death(self, one: _Process) -> Death:
        child = self._children.get(one.worker_id)
        code = None if child is None else child.exit_code()
        text = self._last_words(one)
        # How it ended nobody may have seen: its parent was killed too, or another client had started it.
        was_killed = code < 0 if code is not None else not any(words in text for words in _OWN_WORDS)
        status = "" if code is None else f"exit status {code}"
        return Death(one.worker_id, "; ".join(filter(None, [status, text])), was_killed=was_killed)

    def _last_words(self, one: _Process) -> str:
        try:
            return _log_of(one).read_bytes()[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            return ""


def forget_session(session_id: str) -> None:
    """Remove the log files of a deleted session's workers on this machine, those included that were killed long ago."""
    # Ids of sessions are of letters, digits and "-": nothing of one is a pattern.
    for log in config.log_folder().glob(f"{session_id}-*.log"):
        with suppress(OSError):
            log.unlink()


def _after_fork(launcher: Local | None) -> None:
    if launcher is not None:
        launcher.abandon()


def _module_path() -> tuple[str, ...]:
    # An empty entry means the working directory at the time of the import; the worker inherits it, and may change it.
    return tuple(entry or str(Path.cwd()) for entry in sys.path)


def _dump(processes: list[_Process]) -> str:
    packed: bytes = msgpack.packb([tuple(one) for one in processes], unicode_errors="surrogateescape")
    return packed.hex()


def _load(handle: str) -> list[_Process]:
    """The processes of a handle; none if it is no handle of ours: whoever can write the store can write one."""
    try:
        found = [
            _Process(*fields)
            for fields in msgpack.unpackb(bytes.fromhex(handle), use_list=False, unicode_errors="surrogateescape")
        ]
    except (ValueError, TypeError, msgpack.UnpackException):
        return []
    kinds = (str, str, int, str, str, int)
    return [one for one in found if tuple(map(type, one)) == kinds and one.pid > 1]


def _log_of(one: _Process) -> Path:
    """Its log. Of what the handle says only the name counts: it must not make us show, or remove, any other file."""
    return config.log_folder() / (Path(one.log).name or "-")
