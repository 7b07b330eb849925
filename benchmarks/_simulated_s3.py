"""S3 in virtual time: what it stores, how long a request takes, how many requests a second it answers, and which process made each.

A simulated process waits for an answer as in `starburst_executor.testing.simulation`; the only fault is that a
prefix answers 503 beyond its rate. Listings are kept by folder, so that a million objects are cheap.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from benchmarks.s3_endpoint.latency import Latency
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.limiter import Limiter
from starburst_executor.testing.simulation.scheduler import Scheduler, Strand, current_strand

__all__ = ["READS_PER_S", "WRITES_PER_S", "Folders", "SimulatedS3"]

# "at least 3,500 PUT/COPY/POST/DELETE or 5,500 GET/HEAD requests per second per partitioned Amazon S3 prefix".
# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
WRITES_PER_S = 3_500
READS_PER_S = 5_500

_T = TypeVar("_T")
_WRITES = frozenset({"create", "swap", "put", "delete"})


class Folders:
    """Objects by folder: the part of a key up to its last "/". An `ObjectStore` that answers at once; not thread-safe.

    Args:
        now: Returns the time of each write.
    """

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self._now = now
        self._folders: defaultdict[str, dict[str, tuple[Listed, bytes]]] = defaultdict(dict)
        self._n_etags = 0

    @property
    def url(self) -> str:
        return "sim://bucket"

    @property
    def limiter(self) -> None:
        return None

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        line, body = self._found(key)
        return Stored(body[start : None if length is None else start + length], line.etag)

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        stored = self.get(key, start=start, length=length)
        return None if stored.etag == etag else stored

    def create(self, key: str, body: Body) -> str:
        if key in self._folders[_folder(key)]:
            raise PreconditionFailed(f"there is an object already: {key}")
        return self.put(key, body)

    def swap(self, key: str, body: Body, expected: str) -> str:
        if self._found(key)[0].etag != expected:
            raise PreconditionFailed(f"another writer was first: {key}")
        return self.put(key, body)

    def put(self, key: str, body: Body) -> str:
        self._n_etags += 1
        line = Listed(key, len(body), f"e{self._n_etags}", self._now())
        self._folders[_folder(key)][key] = (line, bytes(body))
        return line.etag

    def list_folders(self, prefix: str) -> list[str]:
        rests = [folder[len(prefix) :] for folder in self._folders if folder.startswith(prefix)]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def list(self, prefix: str) -> list[Listed]:
        folders = [prefix] if prefix in self._folders else [one for one in self._folders if one.startswith(prefix)]
        return sorted(line for folder in folders for line, _ in self._folders[folder].values())

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._folders[_folder(key)].pop(key, None)

    def close(self) -> None:
        """Nothing to let go of."""

    def _found(self, key: str) -> tuple[Listed, bytes]:
        found = self._folders[_folder(key)].get(key)
        if found is None:
            raise ObjectNotFound(f"no such object: {key}")
        return found


def _folder(key: str) -> str:
    return key[: key.rindex("/") + 1]


@dataclass
class _Bucket:
    """Tokens for one kind of request, at most those of one second."""

    per_s: float
    tokens: float
    at: float = 0.0

    def takes(self, now: float) -> bool:
        self.tokens = min(self.per_s, self.tokens + (now - self.at) * self.per_s)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class SimulatedS3:
    """One bucket whose keys are all in one partition, as in a new bucket.

    Args:
        limits: It answers 503 beyond this share of `WRITES_PER_S` and `READS_PER_S`; None for no limit.
    Attributes:
        by_second: Requests by kind, refused ones as `503`, for each virtual second.
    """

    def __init__(self, scheduler: Scheduler, *, limits: float | None = None, seed: int = 1) -> None:
        self.folders = Folders(lambda: scheduler.now)
        self.by_second: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._scheduler = scheduler
        self._latency = Latency("aws", seed)
        self._limits = limits
        writes, reads = WRITES_PER_S * (limits or 1.0), READS_PER_S * (limits or 1.0)
        self._writes, self._reads = _Bucket(writes, writes), _Bucket(reads, reads)

    def line(self) -> Line:
        """Return a store through which one process makes requests."""
        return Line(self)

    def ask(self, kind: str, effect: Callable[[], _T]) -> _T:
        """Make one request in the current strand."""
        strand = current_strand()
        latency_s = self._latency.draw_s("get" if kind == "get" else kind)
        token = strand.arm()
        self._scheduler.at(latency_s / 2, partial(self._arrive, strand, token, kind, effect, latency_s / 2))
        answer = strand.suspend()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]  # what `effect` has returned

    def _arrive(self, strand: Strand, token: int, kind: str, effect: Callable[[], Any], back_s: float) -> None:
        now = self._scheduler.now
        answer: Any
        if self._limits is not None and not (self._writes if kind in _WRITES else self._reads).takes(now):
            self.by_second[int(now)]["503"] += 1
            answer = StoreUnavailable("503 SlowDown", is_busy=True)
        else:
            try:
                answer = effect()
            except (ObjectNotFound, PreconditionFailed) as refusal:
                answer = refusal
            pages = max(1, -(-len(answer) // 1000)) if kind == "list" else 1
            name = "not_modified" if kind == "get" and answer is None else kind
            self.by_second[int(now)][name] += pages
        self._scheduler.at(back_s, partial(strand.resume, token, answer))


class Line:
    """An `ObjectStore` over a `SimulatedS3`."""

    def __init__(self, s3: SimulatedS3) -> None:
        self._s3 = s3
        self.limiter = Limiter()
        self._folders = s3.folders

    @property
    def url(self) -> str:
        return self._folders.url

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        return self._s3.ask("get", lambda: self._folders.get(key, start=start, length=length))

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        return self._s3.ask("get", lambda: self._folders.get_if_changed(key, etag, start=start, length=length))

    def create(self, key: str, body: Body) -> str:
        return self._s3.ask("create", lambda: self._folders.create(key, body))

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._s3.ask("swap", lambda: self._folders.swap(key, body, expected))

    def put(self, key: str, body: Body) -> str:
        return self._s3.ask("put", lambda: self._folders.put(key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return self._s3.ask("list", lambda: self._folders.list_folders(prefix))

    def list(self, prefix: str) -> list[Listed]:
        return self._s3.ask("list", lambda: self._folders.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        named = [*keys]
        self._s3.ask("delete", lambda: self._folders.delete(named))

    def close(self) -> None:
        """Nothing to let go of."""
