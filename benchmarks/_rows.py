"""What every benchmark prints: a table for people and one JSON line a row for programs."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from starburst_executor import __version__

# The kinds of request that a store is paid for; the counters of bytes, retries and races are none.
KINDS = ("get", "not_modified", "list", "create", "swap", "put", "delete")


@dataclass
class Row:
    """One measured figure: its repetitions, what it took, and where."""

    name: str
    unit: str
    values: list[float]
    requests: dict[str, int] = field(default_factory=dict)
    cpu_client_s: float = 0.0
    cpu_children_s: float = 0.0
    note: str = ""

    @property
    def n_requests(self) -> int:
        return sum(self.requests.get(kind, 0) for kind in KINDS)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def as_json(self) -> str:
        facts = asdict(self)
        facts.update(
            value=self.percentile(0.5), n=len(self.values), p50=self.percentile(0.5), p90=self.percentile(0.9),
            p99=self.percentile(0.99), machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            python=platform.python_version(), date=time.strftime("%Y-%m-%d", time.gmtime()), version=__version__,
        )  # fmt: skip
        return json.dumps(facts)


@contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """CPU seconds of this process and of the children that have ended, as `[own, children]`, after the block."""
    before = [_cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)]
    used = [0.0, 0.0]
    yield used
    used[:] = [_cpu(resource.RUSAGE_SELF) - before[0], _cpu(resource.RUSAGE_CHILDREN) - before[1]]


def _cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def show(title: str, rows: list[Row]) -> None:
    """Print the table, then the JSON lines."""
    width = max(len(row.name) for row in rows)
    print(f"\n{title}\n")
    print(f"{'':{width}}  {'p50':>12} {'min':>12} {'max':>12}  {'unit':<8} {'n':>3} {'requests':>9}  note")
    for row in rows:
        print(
            f"{row.name:{width}}  {row.percentile(0.5):>12,.3f} {min(row.values):>12,.3f} {max(row.values):>12,.3f}  "
            f"{row.unit:<8} {len(row.values):>3} {row.n_requests:>9,}  {row.note}"
        )
    print()
    for row in rows:
        print(row.as_json())
    sys.stdout.flush()
