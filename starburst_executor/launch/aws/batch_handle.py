"""The state of a launch on AWS Batch, as a string for the manifest: a plan, and its job once that is submitted."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import msgpack

from starburst_executor.launch.aws.worker_ids import batch_digits
from starburst_executor.launch.bootstrap import worker_id_of
from starburst_executor.launch.limits import MOST_ARRAY_JOBS

__all__ = ["BatchHandle"]


@dataclass(frozen=True, slots=True)
class BatchHandle:
    """A launch.

    Attributes:
        n_jobs: The number of workers; an array has as many children.
        job_id: Empty until the job is submitted.
    """

    session_id: str
    launch_id: str
    n_slots_each: int
    n_jobs: int
    detached: bool
    job_id: str = ""

    def dump(self) -> str:
        """Return the handle as the manifest stores it."""
        packed: bytes = msgpack.packb(astuple(self))
        return packed.hex()

    @classmethod
    def load(cls, handle: str) -> BatchHandle | None:
        """Parse the result of `dump`; None if it is malformed: anyone who can write to the store can write a handle."""
        try:
            fields = msgpack.unpackb(bytes.fromhex(handle), use_list=False)
        except (ValueError, TypeError, msgpack.UnpackException):
            return None
        if not isinstance(fields, tuple) or tuple(map(type, fields)) != (str, str, int, int, bool, str):
            return None
        launch = cls(*fields)
        return launch if 0 < launch.n_jobs <= MOST_ARRAY_JOBS and launch.n_slots_each > 0 else None

    @property
    def name(self) -> str:
        """The name of its job, by which each client finds it."""
        return f"starburst-{self.session_id}-{self.launch_id}"

    @property
    def children(self) -> list[str]:
        """The ids of its jobs; the children of an array are numbered."""
        return [self.job_id] if self.n_jobs == 1 else [f"{self.job_id}:{i}" for i in range(self.n_jobs)]

    def worker_id(self, job_id: str, attempt: int) -> str:
        """Return the id of the worker in an attempt of one of its jobs, or of a successor."""
        return worker_id_of(self.launch_id, batch_digits(job_id, attempt))
