"""Every interval of a session as one value: how long to wait, how often to poll, when a worker counts as lost.

Guarantees that a `Timings` is in range, whatever its source. It is stored in the session's manifest; of a record from
another version, the known fields are read. The code that uses a value decides what waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

from starburst_executor.errors import ConfigError, RecordInvalid

__all__ = ["Timings"]

# A try that no answer comes to ends after 30 s; the pause before the next one is 5 s at the most.
_RETRY_S = 40.0


@dataclass(frozen=True, slots=True)
class Timings:
    """Every interval of a session, in seconds, as one value, so that a test can shorten them together.

    They are stored in the session's manifest, so every client and worker uses the same values.

    Raises:
        ConfigError: a value is out of range.
    """

    # A worker is lost after looks_until_lost * look_s = 60 s: long enough for a store that throttles, short enough
    # that users keep waiting. A beat costs one PUT, so 15 s is $0.0012 per worker and hour on S3.
    beat_s: float = 15.0
    look_s: float = 15.0
    looks_until_lost: int = 4
    commit_s: float = 1.0  # at most this much finished work is done again after a SIGKILL early in a run
    commit_most_s: float = 15.0  # … and 2 % of a longer run, at most this much: a commit costs as much as 0.5 s of vCPU
    slice_s: float = 1.0  # of work per claim: two requests per second and worker, however short the tasks
    poll_min_s: float = 0.05  # a client that waits: below the latency of S3 faster polling shows nothing sooner
    poll_max_s: float = 1.0  # … and how late a result may be seen after a long silence
    bell_min_s: float = 0.05  # an idle worker: the same, just after it had work
    bell_max_s: float = 1.0  # … and 300 GETs, $0.0001, until it leaves
    ring_gap_s: float = 0.2  # five rings a second wake all workers; more would be throttled, since they write one key
    idle_exit_s: float = 300.0  # an idle worker costs money; starting one takes a minute or two
    client_gone_s: float = 300.0  # a laptop that changes its network is back by then
    grace_s: float = 30.0  # the default time of Amazon ECS between SIGTERM and SIGKILL
    patience_s: float = 300.0  # a client whose store goes away in mid-run: longer than a network change or a failover
    launch_s: float = 60.0  # first beat expected; without it the launch has failed
    retry_first_s: float = 0.5  # pause before a task's first retry; doubles
    retry_most_s: float = 30.0
    rank_s: float = 300.0  # how often a worker learns whether it is one of the oldest, which watch

    def __post_init__(self) -> None:
        for name, value in self.to_record().items():
            if name == "looks_until_lost":
                valid, allowed = type(value) is int and value >= 1, "a whole number, at least 1"
            elif name == "ring_gap_s":
                valid, allowed = _is_number(value) and 0 <= value < math.inf, "a number of seconds, at least 0"
            else:
                valid, allowed = _is_number(value) and 0 < value < math.inf, "a number of seconds greater than 0"
            if not valid:
                raise ConfigError(f"{name}={value!r}: must be {allowed}")
        for least, most in (
            ("commit_s", "commit_most_s"),
            ("poll_min_s", "poll_max_s"),
            ("bell_min_s", "bell_max_s"),
            ("retry_first_s", "retry_most_s"),
        ):
            if getattr(self, least) > getattr(self, most):
                raise ConfigError(f"{least}={getattr(self, least)}: must be at most {most}={getattr(self, most)}")

    @property
    def unheard_s(self) -> float:
        """How much longer than it was cut off a client may seem silent.

        Since its last beat before; until a try that hung is given up, and the next one lands; until that is looked at.
        """
        return 2 * self.beat_s + _RETRY_S

    @property
    def swap_s(self) -> float:
        """About how long a swap and the read before it take: twice the shortest poll, which is about the time of a request."""
        return 2 * self.bell_min_s

    @classmethod
    def remote(cls) -> Timings:
        """The default for stores that answer in tens of milliseconds and charge per request."""
        return cls()

    @classmethod
    def embedded(cls) -> Timings:
        """The default for the store on this machine, where a request is free and takes 0.1 ms."""
        return cls(
            commit_s=0.2,
            commit_most_s=0.2,
            slice_s=0.1,
            poll_min_s=0.001,
            poll_max_s=0.05,
            bell_min_s=0.001,
            bell_max_s=0.05,
            ring_gap_s=0.0,
        )

    def to_record(self) -> dict[str, float]:
        """As stored in the manifest: names to numbers."""
        return {name: getattr(self, name) for name in _timing_names()}

    @classmethod
    def from_record(cls, record: object) -> Timings:
        """Restore a value from `to_record`. Unknown names are ignored and missing ones take their default, so that an
        interval can be added without a new format.

        Raises:
            RecordInvalid: not a mapping, or a value is out of range.
        """
        if not isinstance(record, Mapping):
            raise RecordInvalid(f"the session's timings are not a mapping: type={type(record).__name__}")
        try:
            return cls(**{name: record[name] for name in _timing_names() if name in record})
        except ConfigError as error:
            raise RecordInvalid(f"the session's timings are out of range: {error}") from error


@lru_cache(maxsize=1)
def _timing_names() -> tuple[str, ...]:
    return tuple(one.name for one in fields(Timings))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
