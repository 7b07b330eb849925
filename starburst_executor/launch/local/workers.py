"""The workers of one launch on this machine, from any client's point of view."""

from __future__ import annotations

import signal
from contextlib import suppress

from starburst_executor import config
from starburst_executor.launch.base import Death
from starburst_executor.launch.local.agents import Agents
from starburst_executor.launch.local.handle import AgentRecord
from starburst_executor.launch.local.processes import is_worker

__all__ = ["LocalWorkers", "forget_session"]

_LAST_WORDS_BYTES = 2000
# The output of a worker that ended by itself begins with one of these.
_OWN_WORDS = ("starburst worker: ", "Traceback (most recent call last)")


class LocalWorkers:
    """See `Workers`."""

    def __init__(self, agents: Agents, records: list[AgentRecord]) -> None:
        self._agents = agents
        self._records = records

    def deaths(self) -> list[Death]:
        return [self._death(agent) for agent in self._records if self._agents.is_dead(agent)]

    def slots_alive(self) -> int:
        return sum(agent.n_slots for agent in self._records if not self._agents.is_dead(agent))

    def interruptions(self) -> int:
        """Return 0: this machine is not reclaimed."""
        return 0

    def expected(self) -> list[str]:
        """Return none: a local worker that does not beat ends, or its death is seen."""
        return []

    def give_up(self, worker_id: str, words: str) -> bool:  # noqa: ARG002 - see `expected`
        return False

    def describe(self) -> str:
        """Return nothing: their output is shown, or is in their logs."""
        return ""

    def shed(self, n_slots: int) -> int:
        """Drain the newest, with at least that number of slots: there usually is one with all slots, which is replaced."""
        n_shed = 0
        for agent in reversed(self._alive()):
            if n_shed < n_slots and not self._agents.is_leaving(agent):
                self._agents.signal(agent, signal.SIGTERM)
                n_shed += agent.n_slots
        return n_shed

    def drained(self) -> list[str]:
        return [agent.worker_id for agent in self._records if self._agents.is_leaving(agent)]

    def drain(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._agents.wait(self._signal(signal.SIGKILL))

    def end_session(self) -> None:
        """Kill them. Nothing else is stored for starting local workers."""
        self.kill()

    def let_go(self) -> None:
        self._agents.let_go(self._records)

    def forget(self) -> None:
        for agent in self._records:
            with suppress(OSError):
                agent.log_path.unlink()

    def _signal(self, number: signal.Signals) -> list[AgentRecord]:
        """Send a signal to the workers that are alive on this machine; return those."""
        alive = self._alive()
        for agent in alive:
            self._agents.signal(agent, number)
        return alive

    def _alive(self) -> list[AgentRecord]:
        here = [agent for agent in self._records if agent.is_on_this_machine]
        return [agent for agent in here if not self._agents.is_dead(agent) and is_worker(agent.pid)]

    def _death(self, agent: AgentRecord) -> Death:
        code, text = self._agents.exit_code(agent), _last_words(agent)
        was_killed = code < 0 if code is not None else not any(words in text for words in _OWN_WORDS)
        status = "" if code is None else f"exit status {code}"
        return Death(agent.worker_id, "; ".join(filter(None, [status, text])), was_killed=was_killed)


def _last_words(agent: AgentRecord) -> str:
    try:
        return agent.log_path.read_bytes()[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()
    except OSError:
        return ""


def forget_session(session_id: str) -> None:
    """Remove the log files of all workers of a deleted session on this machine, also of long dead ones."""
    # Session ids consist of letters, digits and "-": an id contains no pattern.
    for folder in config.log_folders():
        for log in folder.glob(f"{session_id}-*.log"):
            with suppress(OSError):
                log.unlink()
