"""Workers on this machine: one agent process with N slots, or several, forked from a process with all modules loaded.

The agent of an attached session is bound to its client by a pipe: when the client ends, for any reason, the agent ends.
A detached agent has its own session (`setsid`), so that it outlives the terminal, and writes its output to a log file.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from starburst_executor import config
from starburst_executor.clock import Backoff, Clock, SystemClock
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.launch.base import Order, Started
from starburst_executor.launch.bootstrap import Bootstrap, new_worker_id
from starburst_executor.launch.limits import MOST_SLOTS
from starburst_executor.launch.local.agents import Agents
from starburst_executor.launch.local.fork_server import ServerKilled
from starburst_executor.launch.local.handle import AgentRecord, dump_agents, load_agents
from starburst_executor.launch.local.workers import LocalWorkers
from starburst_executor.protocol.resources import GPU, MEMORY, Amounts, resources_of
from starburst_executor.store.url import split_url

__all__ = ["Local", "LocalLauncher"]

_MOST_AGENTS = 256
# Pauses before a fork server that was killed is replaced.
_AGAIN_S, _AGAIN_MOST_S = 0.05, 5.0


@dataclass(frozen=True, slots=True)
class Local:
    """Workers on this machine.

    Attributes:
        agents: The number of agent processes that share the slots; more than one only for independent beats.
        gpus: The number of GPUs that tasks with `resources` may use; by default all that this process may use.
        resources: Further resources, or another amount of those that workers find by themselves (`cpu`, `memory`, `gpu`). Several
            agents share what they find, but for GPUs, which one agent alone can have.

    Raises: ConfigError.
    """

    agents: int = 1
    gpus: int | None = None
    resources: Mapping[str, int | str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if type(self.agents) is not int or not 1 <= self.agents <= _MOST_AGENTS:
            raise ConfigError(f"agents={self.agents!r} (an argument of Local): must be 1..{_MOST_AGENTS}")
        if self.agents > 1 and self.amounts():
            raise ConfigError("resources (an argument of Local): only one agent has them; use agents=1")

    @property
    def spec(self) -> str:
        """The launcher as text, which `launcher=` also accepts."""
        given = {"agents": self.agents} if self.agents != 1 else {}
        query = "&".join(f"{name}={value}" for name, value in (*given.items(), *self.amounts()))
        return f"local?{query}" if query else "local"

    def amounts(self) -> Amounts:
        """Return the resources that were given. Raises: ConfigError."""
        gpus = {} if self.gpus is None else {GPU: self.gpus}
        return resources_of({**(self.resources or {}), **gpus}, may_be_zero=True)

    def open(self, clock: Clock | None = None) -> LocalLauncher:
        """Return a launcher for one session. Starts nothing."""
        return LocalLauncher(self, clock or SystemClock())


class LocalLauncher:
    """Starts agents on this machine. See `Launcher`."""

    name = "local"
    launch_s = 60.0
    keeps_trying = False

    def __init__(self, options: Local, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._agents = Agents(clock)
        self._again = Backoff(clock, _AGAIN_S, _AGAIN_MOST_S)
        reference = weakref.ref(self._agents)
        os.register_at_fork(after_in_child=lambda: _after_fork(reference()))

    @property
    def spec(self) -> str:
        return self.options.spec

    def check(self, n_slots: int) -> None:
        """Refuse more slots than a machine runs well, before anything is started. Raises: ConfigError."""
        n_agents = self.options.agents
        most = n_agents * MOST_SLOTS
        if n_slots > most:
            raise ConfigError(
                f"workers={n_slots} (an argument or setting): must be at most {most} on this machine, {MOST_SLOTS} for each of "
                f"{n_agents} agents; request fewer, or let workers on other machines join a session with launcher='none'"
            )

    def usd_per_hour(self, n_slots: int) -> float | None:  # noqa: ARG002 - this machine costs nothing more
        """Return None: an estimate does not apply to this machine."""
        return None

    def start(self, order: Order, handle: str = "") -> Started:
        """Start all workers in one step; if the fork server is killed, a new one starts the rest after a pause."""
        self.check(order.n_slots)
        started = load_agents(handle)
        n_slots = order.n_slots - sum(agent.n_slots for agent in started)
        n_agents = max(0, min(max(1, self.options.agents - len(started)), n_slots))
        shares = [n_slots // n_agents + (i < n_slots % n_agents) for i in range(n_agents)]
        why: LaunchError | None = None
        for share in shares:
            try:
                started.append(self._start_one(order, share))
                self._again.reset()
            except ServerKilled as error:
                # It may be killed again. The caller decides how long to retry.
                n_started = sum(agent.n_slots for agent in started)
                return Started(dump_agents(started), n_started, more_s=self._again.next_s(), error=error)
            except LaunchError as error:
                if not started:
                    raise
                # The handle must name the workers that were started. The client reports the missing ones and retries.
                why = error
                break
        return Started(dump_agents(started), sum(agent.n_slots for agent in started), error=why)

    def resume(self, handle: str) -> LocalWorkers:
        return LocalWorkers(self._agents, load_agents(handle))

    def _resources(self) -> Amounts:
        n_agents = self.options.agents
        return self.options.amounts() if n_agents == 1 else _shared(n_agents)

    def _start_one(self, order: Order, n_slots: int) -> AgentRecord:
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
            resources=self._resources(),
            authkey=bytes(multiprocessing.current_process().authkey) if attached else b"",
        )
        try:
            with nullcontext(None) if attached else log.open("ab", buffering=0) as output:
                child = self._agents.start(order.url, n_slots, bootstrap, output)
        except OSError as error:
            raise LaunchError(f"a worker process could not be started: {error}: session={session_id}") from error
        return AgentRecord(worker_id, config.machine_boot(), child.pid, child.started, str(log), n_slots)


def _shared(n_agents: int) -> Amounts:
    """Return the share of each of several agents; GPUs are not shared."""
    from starburst_executor.launch.local.machine import this_machine  # of use to several agents only

    machine = this_machine()
    return resources_of(
        {GPU: 0, "cpu": max(1, machine.cpus // n_agents), MEMORY: machine.memory_bytes // n_agents}, may_be_zero=True
    )


def _after_fork(agents: Agents | None) -> None:
    if agents is not None:
        agents.abandon()


def _module_path() -> tuple[str, ...]:
    # An empty entry means the working directory at import time, which the worker inherits but may change.
    return tuple(entry or str(Path.cwd()) for entry in sys.path)
