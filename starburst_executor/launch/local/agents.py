"""The agent processes that one client has started on this machine, and the fork servers that they were forked from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from starburst_executor.clock import Clock
from starburst_executor.errors import LaunchError
from starburst_executor.launch.bootstrap import Bootstrap, write_bootstrap
from starburst_executor.launch.local import fork_server
from starburst_executor.launch.local.children import Child, Interpreter
from starburst_executor.launch.local.fork_server import ForkServer
from starburst_executor.launch.local.handle import AgentRecord
from starburst_executor.launch.local.processes import started_at

__all__ = ["Agents"]

_STOP_S = 10.0
_LOOK_S = 0.005  # the interval of checks whether a stopped process has ended
# Processes that have ended and whose exit status is still known. A client notices an end within a tenth of a second.
_ENDED_KEPT = 100
_LEAVE_QUIETLY = b"q"
# Not "-m": that would put the working directory first on the path, with all modules in it. If a flag keeps the working
# directory off the path, the first entry is not "".
_START = (
    f"import sys; sys.path[:sys.path[:1] == ['']] = [{str(Path(__file__).parents[3])!r}]; "
    "from starburst_executor.worker.__main__ import main; sys.exit(main())"
)


class Agents:
    """Starts agents and knows the ones it has started. Called by one thread at a time.

    All questions take an agent's record from a handle: the agent may also be one of another client on this machine.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._children: dict[str, Child] = {}  # by worker id
        self._servers: dict[str, ForkServer] = {}  # by the session's URL
        self._leaving: set[str] = set()  # worker ids

    def start(self, url: str, n_slots: int, bootstrap: Bootstrap, output: IO[bytes] | None) -> Child:
        """Start an agent, and send it its start record. Its `life` stays open if it is bound to this client.

        Args:
            output: The file for its output and errors; None for those of this process.
        Raises: LaunchError, ServerKilled, OSError.
        """
        child = self._child(url, n_slots, output)
        # A worker that is killed before it reads the record is found dead like any other.
        with suppress(BrokenPipeError):
            write_bootstrap(child.life, bootstrap)
        if not bootstrap.bound:
            child.life.close()
        self._children[bootstrap.worker_id] = child
        self._forget_ended()
        return child

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

    def _forget_ended(self) -> None:
        """Forget the processes that ended first: a client that lives for weeks may replace many workers."""
        ended = [worker_id for worker_id, child in self._children.items() if child.has_ended()]
        for worker_id in ended[:-_ENDED_KEPT]:
            child = self._children.pop(worker_id)
            child.life.close()
            child.let_go()

    def is_dead(self, agent: AgentRecord, *, closely: bool = False) -> bool:
        """Whether it has certainly ended; `closely` as for `Child.has_ended`."""
        child = self._children.get(agent.worker_id)
        if child is not None:
            if child.has_ended(closely=closely):
                child.life.close()
                return True
            return False
        if not agent.is_on_this_machine:
            return False
        return not agent.started or started_at(agent.pid) != agent.started

    def is_leaving(self, agent: AgentRecord) -> bool:
        """Whether it was sent a signal, each of which ends it, and may be alive still."""
        if agent.worker_id in self._leaving and self.is_dead(agent):
            self._leaving.discard(agent.worker_id)
        return agent.worker_id in self._leaving

    def exit_code(self, agent: AgentRecord) -> int | None:
        """Return its exit code; None if it is unknown: its parent was killed too, or another client started it."""
        child = self._children.get(agent.worker_id)
        return None if child is None else child.exit_code()

    def signal(self, agent: AgentRecord, number: signal.Signals) -> None:
        """Send a signal to an agent that is alive on this machine."""
        self._leaving.add(agent.worker_id)
        # The process may have ended between the check and the signal; its number is not reused within that time.
        with suppress(ProcessLookupError):
            os.kill(agent.pid, number)

    def wait(self, ending: list[AgentRecord]) -> None:
        """Wait until they have ended; after ten seconds, kill the ones that this process started."""
        deadline = self._clock.monotonic() + _STOP_S
        never = threading.Event()
        for agent in ending:
            while not self.is_dead(agent, closely=True):
                if self._clock.monotonic() >= deadline:
                    if agent.worker_id in self._children:
                        self.signal(agent, signal.SIGKILL)
                    break
                self._clock.wait(never, _LOOK_S)

    def let_go(self, agents: list[AgentRecord]) -> None:
        """Release these agents; wait for the ones that are bound to this client, which end."""
        owned = [agent for agent in agents if agent.worker_id in self._children]
        bound: list[AgentRecord] = []
        for agent in owned:
            pipe = self._children[agent.worker_id].life
            if not pipe.closed:
                # A client that ends in order writes this byte; a pipe that closes without it means that the client died.
                with suppress(OSError):
                    pipe.write(_LEAVE_QUIETLY)
                with suppress(OSError):
                    pipe.close()
                bound.append(agent)
        self.wait(bound)
        for agent in owned:
            self._children.pop(agent.worker_id).let_go()
        # The other children belong to handles that are released later, or died and are in no handle any more.
        if all(child.has_ended() for child in self._children.values()):
            while self._servers:
                self._servers.popitem()[1].close()

    def abandon(self) -> None:
        """Drop all agents in a child after a fork by the user: their pipes must close when the *client's* process ends."""
        for child in self._children.values():
            child.abandon()
        for server in self._servers.values():
            server.abandon()
        self._children.clear()
        self._servers.clear()
