"""A launch of local workers as a string for the manifest: each process by machine, boot, process id and start time.

So a later client on the same machine can check whether a process is alive, and a client on another machine knows that it
cannot.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgpack

from starburst_executor import config

__all__ = ["AgentRecord", "dump_agents", "load_agents"]


class AgentRecord(NamedTuple):
    """An agent in a handle."""

    worker_id: str
    machine: str
    pid: int
    started: str
    log: str
    n_slots: int

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it runs on this machine, since the machine's last boot."""
        return self.machine == config.machine_boot()

    @property
    def log_path(self) -> Path:
        """Its log file. Uses only the name in the handle, which must not make this client show or remove any other file."""
        name = Path(self.log).name or "-"
        paths = [folder / name for folder in config.log_folders()]
        return next((path for path in paths if path.exists()), paths[0])


def dump_agents(agents: list[AgentRecord]) -> str:
    """Return the handle of these agents."""
    packed: bytes = msgpack.packb([tuple(agent) for agent in agents], unicode_errors="surrogateescape")
    return packed.hex()


def load_agents(handle: str) -> list[AgentRecord]:
    """Return the agents of a handle; none if it is malformed: anyone who can write to the store can write a handle."""
    try:
        agents = [
            AgentRecord(*fields)
            for fields in msgpack.unpackb(bytes.fromhex(handle), use_list=False, unicode_errors="surrogateescape")
        ]
    except (ValueError, TypeError, msgpack.UnpackException):
        return []
    kinds = (str, str, int, str, str, int)
    return [agent for agent in agents if tuple(map(type, agent)) == kinds and agent.pid > 1]
