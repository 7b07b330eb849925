"""The real workers of studies: detached sessions, to which a driver submits each trial once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from typing import Any

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.finding import visit
from starburst_executor.client.submits_once import once_of
from starburst_executor.clock import Clock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import RecordInvalid, SessionNotFound
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.records import SessionState
from starburst_executor.store.url import split_url
from starburst_executor.study.fleet import Fleet

__all__ = ["SessionFleet", "SessionWorkers"]


class SessionFleet:
    """A detached session of real workers."""

    def __init__(self, executor: DetachedExecutor, clock: Clock) -> None:
        self.executor = executor
        self._opened = ExitStack()
        self._visit = self._opened.enter_context(visit(executor.url, clock, key=executor.key))

    @property
    def url(self) -> str:
        return self.executor.url

    @property
    def store_url(self) -> str:
        return split_url(self.executor.url)[0]

    def submit(
        self, function: Callable[[Any], Any], calls: Sequence[Any], keys: Sequence[str], timeout: float | None
    ) -> list[Future[Any]]:
        view: Any = self.executor if timeout is None else self.executor.options(timeout=timeout)
        return [*view.map_once(function, calls, key=keys)]

    def find(self, keys: Sequence[str]) -> Mapping[str, Future[Any]]:
        found = once_of(self.executor).find(keys)
        return {key: future for key, future in zip(keys, found, strict=True) if future is not None}

    def wait(self, futures: Iterable[Future[Any]], timeout_s: float) -> None:
        wait([*futures], timeout_s, FIRST_COMPLETED)

    def scale(self, workers: int) -> None:
        self.executor.scale(workers)

    def cancel(self) -> None:
        self.executor.cancel()

    def over(self) -> str:
        try:
            manifest = self._visit.session.manifest.refresh()
        except SessionNotFound:
            return SessionState.DELETED.value
        if not manifest.state.is_over:
            return ""
        error = ended_by(manifest)
        return f"{manifest.state.value}: {error or manifest.reason}"

    def cost_usd(self) -> float:
        return self.executor.cost().total_usd

    def leave(self, *, ends: bool = False, deletes: bool = False) -> None:
        self._opened.close()
        if ends or deletes:
            self.executor.cleanup(force=deletes)
        else:
            self.executor.detach()


class SessionWorkers:
    """Opens detached sessions with the settings of one study.

    Args:
        store: The URL of the store.
        settings: As in the study's record: workers, launcher, budget_usd and other arguments of `DetachedExecutor`, as plain values.
        launcher: Of a process that starts no workers: `"none"`.
    """

    def __init__(
        self,
        store: str,
        settings: Mapping[str, Any],
        clock: Clock,
        *,
        key: str | bytes | SessionKey | None = None,
        launcher: str | None = None,
    ) -> None:
        self._store = store
        self._settings = dict(settings)
        self._clock = clock
        self._key = key
        self._launcher = launcher

    def open(self, url: str) -> Fleet | None:
        """Open the session of this URL; a new one if the URL is empty; None if it was deleted.

        Raises: RecordInvalid: it is in another store, which no study names.
        """
        if url and split_url(url)[0] != self._store:
            raise RecordInvalid(
                f"the record of the study names a session in another store: session={url}, store={self._store}; a program without the "
                "study's key may have changed it"
            )
        if url:
            try:
                executor = DetachedExecutor.reattach(
                    url, key=self._key, launcher=self._launcher, budget_usd=self._settings.get("budget_usd")
                )
            except SessionNotFound:
                return None
            return SessionFleet(executor, self._clock)
        settings = {name: value for name, value in self._settings.items() if name != "timings"}
        timings = self._settings.get("timings")
        if self._launcher is not None:
            settings["launcher"] = self._launcher
        executor = DetachedExecutor(
            store=self._store,
            key=self._key,
            timings=None if timings is None else Timings.from_record(timings),
            **settings,
        )
        return SessionFleet(executor, self._clock)
