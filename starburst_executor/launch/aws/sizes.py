"""The sizes of AWS Fargate: a table, and errors that name the nearest valid size.

Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RegisterTaskDefinition.html, `cpu` and `memory`
"""

from __future__ import annotations

import re
from typing import NamedTuple

from starburst_executor.errors import ConfigError

__all__ = ["Size", "fargate_size", "memory_mib"]

_GIB = 1024
# The memory sizes, in MiB, for each number of vCPUs.
_FARGATE: dict[float, tuple[int, ...]] = {
    0.25: (512, 1024, 2048),
    0.5: tuple(range(1 * _GIB, 4 * _GIB + 1, _GIB)),
    1: tuple(range(2 * _GIB, 8 * _GIB + 1, _GIB)),
    2: tuple(range(4 * _GIB, 16 * _GIB + 1, _GIB)),
    4: tuple(range(8 * _GIB, 30 * _GIB + 1, _GIB)),
    8: tuple(range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB)),
    16: tuple(range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB)),
}


class Size(NamedTuple):
    """The size of an ECS task: vCPUs and MiB of memory."""

    vcpu: float
    mib: int

    @classmethod
    def of(cls, vcpu: float, memory: str | None) -> Size:
        """Return any size; 2 GiB per vCPU unless `memory` is given. Raises: ConfigError."""
        return cls(vcpu, int(vcpu * 2 * _GIB) if memory is None else memory_mib(memory))

    @property
    def cpu_units(self) -> int:
        """CPU units of ECS: 1,024 per vCPU."""
        return int(self.vcpu * 1024)


def memory_mib(memory: str) -> int:
    """Convert a string such as "8GB" or "512MB" to MiB; AWS means GiB and MiB by these units. Raises: ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GM])i?B?\s*", str(memory), re.IGNORECASE)
    mib = float(match[1]) * (_GIB if match[2] in "gG" else 1) if match else 0.0
    if not mib or mib != int(mib):
        raise ConfigError(f'memory={memory!r} (an argument): must be a size such as "8GB" or "512MB"')
    return int(mib)


def fargate_size(cpu: float, memory: str | None) -> Size:
    """Return the size with this CPU and memory; 2 GiB per vCPU unless `memory` is given.

    Raises: ConfigError; if Fargate has no such size, the message names the nearest size with at least as much of both.
    """
    if type(cpu) not in (int, float) or not cpu > 0:
        raise ConfigError(
            f"cpu={cpu!r} (an argument): must be one of {', '.join(f'{vcpu:g}' for vcpu in _FARGATE)} vCPUs"
        )
    wanted = Size.of(cpu, memory)
    if wanted.mib in _FARGATE.get(cpu, ()):
        return wanted
    sizes = [Size(vcpu, mib) for vcpu, memories in _FARGATE.items() for mib in memories]
    fits = [size for size in sizes if size.vcpu >= cpu and size.mib >= wanted.mib]
    if not fits:
        most = max(_FARGATE)
        raise ConfigError(
            f"cpu={cpu:g}, memory={memory!r} (arguments): Fargate has at most {most:g} vCPUs and "
            f"{_FARGATE[most][-1] // _GIB} GB; use less, or Ec2(...)"
        )
    # The cheapest: by AWS's prices, a vCPU costs about as much as nine GB.
    near = min(fits, key=lambda size: size.vcpu * 9 + size.mib / _GIB)
    raise ConfigError(
        f"cpu={cpu:g}, memory={_words(wanted.mib)} (arguments): Fargate has no such size; the nearest is cpu={near.vcpu:g}, "
        f"memory={_words(near.mib)}"
    )


def _words(mib: int) -> str:
    return f'"{mib / _GIB:g}GB"' if mib % 512 == 0 else f'"{mib}MB"'
