"""`Trial`: what a trial's function gets, on a worker. It owns the trial's own objects in the store, and nothing else there.

Guarantee: an artefact is stored before the outcome that names it, and what `load` returns has the digest that a sealed outcome names.
A checkpoint is plain values, never a pickle, since nothing sealed names it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random  # noqa: TID251 - streams that are reproducible by intent
from collections.abc import Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid
from starburst_executor.protocol import pickling
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.metrics import number
from starburst_executor.study.spec import TrialSpec, trial_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Trial"]

_PATIENCE_S = 300.0
_MOST_POINTS = 10_000
_LOOK_S = 2.0  # between two looks at how other trials do
_BYTES, _PICKLE = b"\0", b"\1"


class Trial:
    """One trial while it runs: its case, its parameters, its random numbers, and what it wants to keep.

    Attributes:
        stage: The name of its stage.
        index: Its number in the stage, from 0.
        case: What it works on: a survivor of earlier stages, with `name`, `metrics`, `params`; or the stage's own case; or None.
        params: Its parameters, a dict. Those that the function adds are recorded, and handed on if the trial survives.
        seed: A whole number for libraries with random numbers of their own: the same in every attempt and on every worker.

    >>> from starburst_executor import Trial
    >>> Trial.here("tune", 3, {"depth": 4}).params       # for a test of a trial's function
    {'depth': 4}
    """

    def __init__(
        self, spec: TrialSpec, index: int, *, store: ObjectStore | None = None, clock: Clock | None = None
    ) -> None:
        self.stage = spec.stage
        self.index = index
        self.case = spec.case(index)
        self.params: dict[str, Any] = spec.params(index)
        self.seed = trial_seed(spec.seed, spec.stage, index)
        self._spec = spec
        self._clock = clock or SystemClock()
        self._given = store
        self._kept = _Kept()
        self._checkpoint_etag: str | None = None
        self._folder: Path | None = None

    @classmethod
    def here(cls, stage: str, index: int, case: Any = None, *, seed: int = 0) -> Trial:
        """Return a trial for tests of a function, which keeps what it saves in memory."""
        from starburst_executor.study.replaying import local_trial

        return local_trial(stage, index, case, seed=seed)

    @property
    def name(self) -> str:
        """`stage/index`, as a survivor is named."""
        return f"{self.stage}/{self.index}"

    @property
    def folder(self) -> Path:
        """A folder for files of this trial, which is removed when the trial ends."""
        if self._folder is None:
            import tempfile

            self._folder = Path(tempfile.mkdtemp(prefix="starburst-trial-"))
        return self._folder

    def __repr__(self) -> str:
        return f"<Trial {self.name}>"

    def rng(self) -> random.Random:
        """Return a new generator of random numbers, seeded with `seed`: each call starts the same stream."""
        return random.Random(self.seed)  # noqa: S311 - reproducible by intent

    def report(self, step: int, **metrics: Any) -> None:
        """Record a point of the trial's learning curve, of at most 10,000. No store request."""
        if type(step) is not int or step < 0:
            raise ValueError(f"step={step!r}: must be a whole number, 0 or more")
        if len(self._kept.curve) >= _MOST_POINTS:
            raise ValueError(f"a trial reports at most {_MOST_POINTS:,} points: trial={self.name}")
        self._kept.curve.append((step, {name: number(name, value) for name, value in metrics.items()}))

    def should_prune(self) -> bool:
        """Return whether the last reported metric is worse than the median of ended trials at that step.

        Always False unless the stage has `prune`. A trial that gets True returns early, and counts as cancelled.
        Store: 1 GET, at most one in two seconds.
        """
        rule = self._spec.prune
        if rule is None or not self._kept.curve:
            return False
        metric, _ = rule
        step, values = self._kept.curve[-1]
        if metric not in values:
            return False
        median = self._medians().get(str(step))
        if median is None:
            return False
        declared = self._spec.metrics.get(metric)
        is_min = declared is not None and declared.direction == "min"
        is_worse = values[metric] > median if is_min else values[metric] < median
        self._kept.is_pruned = self._kept.is_pruned or is_worse
        return is_worse

    def checkpoint(self, value: Any) -> None:
        """Store how far a long trial has come, for its next attempt: plain values (texts, numbers, bytes, lists, mappings).

        Raises: TypeError: not plain. RuntimeError: another attempt of this trial has gone on; this one's outcome would be dropped.
        Store: 1 swap; 1 create the first time.
        """
        body = msgpack.packb({"nonce": self._clock.new_id(), "value": value})
        with self._store() as store:
            key = self._checkpoint_key()
            try:
                if self._checkpoint_etag is None:
                    self._checkpoint_etag = store.create(key, body)
                else:
                    self._checkpoint_etag = store.swap(key, body, self._checkpoint_etag)
            except (PreconditionFailed, ObjectNotFound) as error:
                raise RuntimeError(
                    f"another attempt of trial {self.name} has written a checkpoint: call restore() before the first checkpoint()"
                ) from error

    def restore(self, default: Any = None) -> Any:
        """Return the last checkpoint of this trial, of any attempt; `default` if there is none. Store: 1 GET."""
        with self._store() as store:
            try:
                stored = store.get(self._checkpoint_key())
            except ObjectNotFound:
                return default
        self._checkpoint_etag = stored.etag
        try:
            return msgpack.unpackb(stored.body)["value"]
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise RecordInvalid(f"the checkpoint of trial {self.name} cannot be read") from error

    def save(self, name: str, value: Any) -> str:
        """Store an artefact under a name: bytes, a file (`Path`), or any object that can be pickled. Return its digest.

        It is stored by content before the trial ends, and named by its outcome. Store: 1 create.
        """
        if not name:
            raise ValueError(f"name={name!r}: an artefact's name is text")
        if isinstance(value, Path):
            body = _BYTES + value.read_bytes()
        elif isinstance(value, (bytes, bytearray, memoryview)):
            body = _BYTES + bytes(value)
        else:
            body = _PICKLE + pickling.dumps(value)
        digest = hashlib.sha256(body).hexdigest()
        with self._store() as store, suppress(PreconditionFailed):  # equal bytes are stored once
            store.create(StudyKeys(self._spec.study).artefact(digest), body)
        self._kept.artefacts[name] = digest
        return digest

    def load(self, name: str) -> Any:
        """Return an artefact by its name: of this trial, or else of its case. Bytes and files come back as bytes. Store: 1 GET.

        Raises: LookupError: neither has one of that name. RecordInvalid: it is missing or has been changed.
        """
        of_case: Mapping[str, str] = getattr(self.case, "artefacts", {})
        digest = self._kept.artefacts.get(name) or of_case.get(name)
        if digest is None:
            known = ", ".join(sorted({*self._kept.artefacts, *of_case})) or "none"
            raise LookupError(f"no artefact {name!r} of trial {self.name} or its case: there are {known}")
        with self._store() as store:
            try:
                body = store.get(StudyKeys(self._spec.study).artefact(digest)).body
            except ObjectNotFound as error:
                raise RecordInvalid(
                    f"the artefact {name!r} of trial {self.name} is missing: digest={digest}"
                ) from error
        if hashlib.sha256(body).hexdigest() != digest:
            raise RecordInvalid(f"the artefact {name!r} of trial {self.name} has been changed: digest={digest}")
        if body[:1] == _BYTES:
            return body[1:]
        return pickle.load(io.BytesIO(body[1:]))  # noqa: S301 - its digest comes from a sealed outcome

    # --- for `running.py` ---------------------------------------------------------------------------------------------

    def kept(self) -> _Kept:
        """What it reported and saved so far."""
        return self._kept

    def close(self) -> None:
        """Remove the trial's folder. A second call is harmless."""
        if self._folder is not None:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @contextmanager
    def _store(self) -> Iterator[ObjectStore]:
        if self._given is not None:
            yield self._given
            return
        with closing(PatientStore(open_store(self._spec.store), self._clock, patience_s=_PATIENCE_S)) as store:
            yield store

    def _checkpoint_key(self) -> str:
        return StudyKeys(self._spec.study).checkpoint(self.stage, self._spec.edition, self.index)

    def _medians(self) -> Mapping[str, float]:
        now = self._clock.monotonic()
        if self._kept.looked_at is None or now - self._kept.looked_at >= _LOOK_S:
            self._kept.looked_at = now
            with self._store() as store, suppress(ObjectNotFound):
                body = store.get(StudyKeys(self._spec.study).curves(self.stage, self._spec.edition)).body
                self._kept.medians = msgpack.unpackb(body)
        return self._kept.medians


class _Kept:
    """What a trial has reported and saved."""

    def __init__(self) -> None:
        self.artefacts: dict[str, str] = {}
        self.curve: list[tuple[int, dict[str, float]]] = []
        self.is_pruned = False
        self.medians: Mapping[str, float] = {}
        self.looked_at: float | None = None
