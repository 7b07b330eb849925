"""How long a worker's store requests took lately, from the counts that its store keeps since the start."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from starburst_executor.protocol.records import Latency

__all__ = ["RECENT_S", "Latencies"]

RECENT_S = 60.0
# A 304 counts as a read too; each page of a listing counts, and takes as long as a request.
_READS, _WRITES = ("get", "not_modified", "list"), ("create", "swap", "put")
_READ_US, _WRITE_US = ("get_us", "list_us"), ("create_us", "swap_us", "put_us")


class Latencies:
    """The requests of the last minute. Not thread-safe."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, Latency]] = deque([(float("-inf"), Latency())])

    def recent(self, now: float, requests: Mapping[str, int]) -> Latency:
        """Return the requests since a minute ago, or since the newest earlier call before that.

        Args:
            now: In seconds of a monotonic clock.
            requests: All requests so far, by kind.
        """
        names = (_READS, _READ_US, _WRITES, _WRITE_US)
        newest = Latency(*(sum(requests.get(name, 0) for name in kinds) for kinds in names))
        self._marks.append((now, newest))
        while self._marks[1][0] <= now - RECENT_S:
            self._marks.popleft()
        return Latency(*(after - before for after, before in zip(newest, self._marks[0][1], strict=True)))
