"""Workers on this machine: one agent process with N slots, or several.

An attached session's agent is bound to its client by a pipe: when the client ends, in whatever way, the agent ends. A
detached one has a session of its own (`setsid`), so that it outlives the terminal, and its output goes to a log file.

A handle names each process by machine, boot, process id and start time, so that a later client on the same machine can
tell whether it lives, and one on another machine knows that it cannot tell.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import msgpack

from starburst_executor import config
from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.launch.bootstrap import MOST_SLOTS, Bootstrap, new_worker_id, write_bootstrap
from starburst_executor.store.url import split_url

__all__ = ["Local"]

_LAST_WORDS_BYTES = 2000
_STOP_S = 10.0
_LEAVE_QUIETLY = b"q"
# Not "-m": that would put the working directory first on the path, and with it whatever modules lie there.
_START = (
    f"import sys; sys.path[0] = {str(Path(__file__).parents[2])!r}; "
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
        self._children: dict[str, subprocess.Popen[bytes]] = {}
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

    def start(self, order: Order, handle: str = "") -> Started:  # noqa: ARG002 - one step starts them all
        self.check(order.n_slots)
        n_agents = min(self._agents, order.n_slots)
        shares = [order.n_slots // n_agents + (i < order.n_slots % n_agents) for i in range(n_agents)]
        return Started(_dump([self._start_one(order, n_slots) for n_slots in shares]), order.n_slots)

    def deaths(self, handle: str) -> list[Death]:
        return [Death(one.worker_id, self._last_words(one)) for one in _load(handle) if self._is_dead(one)]

    def slots_alive(self, handle: str) -> int:
        return sum(one.n_slots for one in _load(handle) if not self._is_dead(one))

    def describe(self, handle: str) -> str:  # noqa: ARG002 - what they print is shown, or in their logs
        return ""

    def shed(self, handle: str, n_slots: int) -> int:  # noqa: ARG002 - mostly there is one process: all or none
        self.stop(handle, at_once=False)
        return self.slots_alive(handle)

    def stop(self, handle: str, *, at_once: bool) -> None:
        here = [one for one in _load(handle) if one.machine == config.machine_boot()]
        alive = [one for one in here if not self._is_dead(one) and _is_worker(one.pid)]
        for one in alive:
            self._signal(one, signal.SIGKILL if at_once else signal.SIGTERM)
        if at_once:
            self._wait(alive)

    def let_go(self, handle: str) -> None:
        mine = [one for one in _load(handle) if one.worker_id in self._children]
        bound: list[_Process] = []
        for one in mine:
            pipe = self._children[one.worker_id].stdin
            if pipe is not None and not pipe.closed:
                # A client that ends in good order says so; the end of the pipe alone means that it died.
                with suppress(OSError):
                    pipe.write(_LEAVE_QUIETLY)
                with suppress(OSError):
                    pipe.close()
                bound.append(one)
        self._wait(bound)
        for one in mine:
            self._leave(one)

    def forget(self, handle: str) -> None:
        for one in _load(handle):
            with suppress(OSError):
                _log_of(one).unlink()

    def drop_pipes(self) -> None:
        """For the child of a fork of the user's: the end of these pipes must mean that *this* process ended."""
        for child in self._children.values():
            if child.stdin is not None:
                child.stdin.close()
            # It is no child of this process: nothing here is to wait for it.
            child.returncode = 0
        self._children.clear()

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
        command = [sys.executable, "-c", _START, order.url, "--slots", str(n_slots), "--bootstrap"]
        try:
            with nullcontext(None) if attached else log.open("ab", buffering=0) as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=config.worker_environment(),
                )
            assert process.stdin is not None  # a pipe was asked for  # noqa: S101
            write_bootstrap(process.stdin, bootstrap)
            if order.detached:
                process.stdin.close()
        except OSError as error:
            raise LaunchError(f"a worker process could not be started: {error}: session={session_id}") from error
        self._children[worker_id] = process
        return _Process(worker_id, config.machine_boot(), process.pid, _started(process.pid), str(log), n_slots)

    def _leave(self, one: _Process) -> None:
        child = self._children.pop(one.worker_id)
        # A detached worker goes on without us; its process object must not complain that nobody waits for it.
        if child.poll() is None:
            child.returncode = 0

    def _is_dead(self, one: _Process) -> bool:
        child = self._children.get(one.worker_id)
        if child is not None:
            if child.poll() is None:
                return False
            if child.stdin is not None:
                child.stdin.close()
            return True
        if one.machine != config.machine_boot():
            return False
        return _started(one.pid) != one.started

    def _signal(self, one: _Process, number: signal.Signals) -> None:
        # The process may have ended between the check and the signal; its number is not reused within that time.
        with suppress(ProcessLookupError):
            os.kill(one.pid, number)

    def _wait(self, ending: list[_Process]) -> None:
        deadline = self._clock.monotonic() + _STOP_S
        never = threading.Event()
        for one in ending:
            child = self._children.get(one.worker_id)
            if child is not None:
                try:
                    child.wait(max(0.0, deadline - self._clock.monotonic()))
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            else:
                while not self._is_dead(one) and self._clock.monotonic() < deadline:
                    self._clock.wait(never, 0.02)

    def _last_words(self, one: _Process) -> str:
        child = self._children.get(one.worker_id)
        status = "" if child is None else f"exit status {child.poll()}"
        try:
            text = _log_of(one).read_bytes()[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            text = ""
        return "; ".join(filter(None, [status, text]))


def _after_fork(launcher: Local | None) -> None:
    if launcher is not None:
        launcher.drop_pipes()


def _module_path() -> tuple[str, ...]:
    # An empty entry means the working directory at the time of the import; the worker inherits it, and may change it.
    return tuple(entry or str(Path.cwd()) for entry in sys.path)


def _started(pid: int) -> str:
    """When a process was started, in its system's own words; empty if there is none. Tells a reused pid apart."""
    try:
        # The name in field 2 may hold blanks and brackets: what follows the last one is regular. 3 is the state.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    found = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _is_worker(pid: int) -> bool:
    """Whether this process is a worker: a handle must not make us kill any other."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        if Path("/proc/self/cmdline").exists():
            return False
        command = subprocess.run(["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, check=False).stdout
    return b"starburst_executor.worker" in command


def _dump(processes: list[_Process]) -> str:
    packed: bytes = msgpack.packb([tuple(one) for one in processes])
    return packed.hex()


def _load(handle: str) -> list[_Process]:
    """The processes of a handle; none if it is no handle of ours: whoever can write the store can write one."""
    try:
        found = [_Process(*fields) for fields in msgpack.unpackb(bytes.fromhex(handle), use_list=False)]
    except (ValueError, TypeError, msgpack.UnpackException):
        return []
    kinds = (str, str, int, str, str, int)
    return [one for one in found if tuple(map(type, one)) == kinds and one.pid > 1]


def _log_of(one: _Process) -> Path:
    """Its log. Of what the handle says only the name counts: it must not make us show, or remove, any other file."""
    return config.log_folder() / (Path(one.log).name or "-")
