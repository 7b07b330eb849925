"""joblib's `Parallel` on this library's workers, and with it scikit-learn's `n_jobs`.

    register()
    with joblib.parallel_config("starburst", workers=50, launcher="fargate"):
        GridSearchCV(...).fit(X, y)

joblib sends its batches of calls as tasks. Workers start and end with each call of `Parallel`; to keep them for several calls, use
`with Parallel() as parallel`, or pass an executor: `joblib.parallel_config("starburst", executor=executor)`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from starburst_executor.client.executor import StarburstExecutor

__all__ = ["StarburstBackend", "register"]


def register(name: str = "starburst") -> None:
    """Make the backend known to joblib under this name. Calling it again is harmless."""
    register_parallel_backend(name, StarburstBackend)


class StarburstBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """A backend of joblib.

    Args:
        executor: An executor to use, which is not shut down here; by default one is made of the other arguments.
        options: The arguments of `StarburstExecutor`; `workers` is joblib's `n_jobs` unless it is given.
    """

    supports_retrieve_callback = True
    supports_sharedmem = False
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        *,
        executor: StarburstExecutor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._given = executor
        self._options = options
        self._own: StarburstExecutor | None = None
        self._n_jobs = 0
        self._pending: weakref.WeakSet[Future[Any]] = weakref.WeakSet()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of tasks that run at once. Raises: ValueError for 0, as joblib does."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if self._given is not None:
            # joblib and Dask read it of any executor, as the standard library's have it.
            return int(self._given._max_workers)  # noqa: SLF001
        if "workers" in self._options or "max_workers" in self._options:
            return int(self._options.get("workers") or self._options["max_workers"])
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Prepare for one call of `Parallel`."""
        n_jobs = self.effective_n_jobs(n_jobs)
        self.parallel = parallel
        if self._given is None and (self._own is None or self._n_jobs != n_jobs):
            self._close()
            options = {name: one for name, one in self._options.items() if name not in ("workers", "max_workers")}
            self._own, self._n_jobs = StarburstExecutor(workers=n_jobs, **options), n_jobs
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Submit one of joblib's batches as a task."""
        executor = self._given or self._own
        if executor is None:
            raise RuntimeError("this backend was not configured: use it by joblib.parallel_config")
        future = executor.submit(func)
        self._pending.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """Return what a batch returned. Raises: what it raised."""
        return future.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the batches that no worker has claimed, after an error in another one."""
        for future in list(self._pending):
            future.cancel()
        if not ensure_ready:
            self._close()

    def terminate(self) -> None:
        """End the executor that was made for this call of `Parallel`, in the background."""
        self._close()
        self.reset_batch_stats()

    def _close(self) -> None:
        executor, self._own = self._own, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
