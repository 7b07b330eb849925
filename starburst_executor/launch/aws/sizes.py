"""Which sizes AWS Fargate runs: a table, and errors that name the nearest size that is valid.

Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RegisterTaskDefinition.html, `cpu` and `memory`
"""

from __future__ import annotations

import re
from typing import NamedTuple

from starburst_executor.errors import ConfigError

__all__ = ["Size", "fargate_size", "memory_mib"]

_GIB = 1024
# vCPUs to MiB: all that go with them.
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
    """Of an ECS task: virtual CPUs and MiB of memory."""

    vcpu: float
    mib: int

    @classmethod
    def of(cls, vcpu: float, memory: str | None) -> Size:
        """Any size: two GiB a vCPU unless `memory` is given. Raises: ConfigError."""
        return cls(vcpu, int(vcpu * 2 * _GIB) if memory is None else memory_mib(memory))

    @property
    def cpu_units(self) -> int:
        """As ECS counts: 1,024 a vCPU."""
        return int(self.vcpu * 1024)


def memory_mib(memory: str) -> int:
    """MiB of a text such as "8GB" or "512MB"; AWS means GiB and MiB by them. Raises: ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GM])i?B?\s*", str(memory), re.IGNORECASE)
    mib = float(match[1]) * (_GIB if match[2] in "gG" else 1) if match else 0.0
    if not mib or mib != int(mib):
        raise ConfigError(f'memory={memory!r} (an argument): must be a size such as "8GB" or "512MB"')
    return int(mib)


def fargate_size(cpu: float, memory: str | None) -> Size:
    """The size that these ask for; two GiB a vCPU unless `memory` is given.

    Raises: ConfigError; if Fargate has no such size it names the nearest one that has at least as much of both.
    """
    if type(cpu) not in (int, float) or not cpu > 0:
        raise ConfigError(
            f"cpu={cpu!r} (an argument): must be one of {', '.join(f'{one:g}' for one in _FARGATE)} vCPUs"
        )
    asked = Size.of(cpu, memory)
    mib = asked.mib
    if mib in _FARGATE.get(cpu, ()):
        return asked
    fits = [Size(vcpu, one) for vcpu, sizes in _FARGATE.items() for one in sizes if vcpu >= cpu and one >= mib]
    if not fits:
        most = max(_FARGATE)
        raise ConfigError(
            f"cpu={cpu:g}, memory={memory!r} (arguments): Fargate has at most {most:g} vCPUs and "
            f"{_FARGATE[most][-1] // _GIB} GB; take fewer, or Ec2(...)"
        )
    # The cheapest by what AWS asks of both: a vCPU costs about as much as nine GB.
    near = min(fits, key=lambda size: size.vcpu * 9 + size.mib / _GIB)
    raise ConfigError(
        f"cpu={cpu:g}, memory={_words(mib)} (arguments): Fargate has no such size; the nearest is cpu={near.vcpu:g}, "
        f"memory={_words(near.mib)}"
    )


def _words(mib: int) -> str:
    return f'"{mib / _GIB:g}GB"' if mib % 512 == 0 else f'"{mib}MB"'
