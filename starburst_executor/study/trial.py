"""`Trial`: what a trial's function gets, on a worker. It owns the trial's own objects in the store, and nothing else there.

Guarantee: an artefact is stored before the outcome that names it, and what `load` returns has the digest that a sealed outcome names.
A checkpoint is plain values, never a pickle, since nothing sealed names it.
"""

from __future__ import annotations

import operator
import random  # noqa: TID251 - streams that are reproducible by intent
from collections.abc import Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid
from starburst_executor.store.base import ObjectStore
from starburst_executor.study.artefact_store import ArtefactStore, size_of
from starburst_executor.study.artefacts import Artefact, loaded, name_of, opened
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.metrics import number
from starburst_executor.study.plain import own_copy
from starburst_executor.study.spec import TrialSpec, trial_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starburst_executor.study.pruning import Pruning

__all__ = ["Trial"]

_PATIENCE_S = 300.0
_MOST_POINTS = 10_000
_STEPS = 2**63
_MOST_ARTEFACTS = 1_000


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
        # Its own: a runner keeps one copy of the stage for all of its trials, and for all attempts of one.
        self.case = own_copy(spec.case(index))
        self.params: dict[str, Any] = own_copy(spec.params(index))
        self.seed = trial_seed(spec.seed, spec.stage, index)
        self._spec = spec
        self._clock = clock or SystemClock()
        self._given = store
        self._kept = _Kept()
        self._pruning: Pruning | None = None
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
        # Of NumPy, too: loops over `np.arange` are common.
        whole = operator.index(step) if hasattr(step, "__index__") and not isinstance(step, bool) else -1
        if not 0 <= whole < _STEPS:
            raise ValueError(f"step={step!r}: must be a whole number, 0 up to 2**63 - 1")
        if len(self._kept.curve) >= _MOST_POINTS:
            raise ValueError(f"a trial reports at most {_MOST_POINTS:,} points: trial={self.name}")
        self._kept.curve.append((whole, {name: number(name, value) for name, value in metrics.items()}))

    def should_prune(self) -> bool:
        """Return whether the trial is to stop, by the rule of its stage: the median of ended trials at that step, or a pruner of Optuna.

        Always False unless the stage has `prune`. A trial that gets True returns early, and counts as cancelled.

        Raises: ConfigError: this worker has no Optuna.
        Store: at most once in two seconds, 1 GET; with a pruner of Optuna 1 LIST per 1,000 reports, 1 GET for each report that is new or
            has changed and 1 put, and 1 put when the trial ends.
        """
        rule, curve = self._rule(), self._kept.curve
        says = rule is not None and bool(curve) and rule.says(curve)
        self._kept.is_pruned = self._kept.is_pruned or says
        return says

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

    def save(self, value: Any, *, name: str | None = None) -> Artefact:
        """Store an artefact: a file (`Path`), bytes, an array of NumPy, a figure of Matplotlib, or any object that can be pickled.

        It is stored by content before the trial ends, and only the trial's outcome names it: a trial that fails later has none. Equal
        bytes are stored once, whatever trials save them. A file is read in parts, so it may be larger than the memory.

        Args:
            value: A figure is saved in the format that the name's suffix says, or else as PNG.
            name: Printable text, unique in the trial, such as `model.pt` or `plots/roc.svg`; the file's name if not given. Under a name that
                the trial has used, the later one counts.

        Raises: ValueError: the name, or more bytes than the stage's option `artefact_bytes` allows in all. Any exception of reading or
            pickling the value.
        Store: 1 create up to 8 MiB; of more at most 2, and 1 for each 8 MiB.
        """
        name = name_of(value, name)
        kept = self._kept.artefacts
        with opened(value, name) as (file, kind):
            size, limit = size_of(file), self._spec.options.artefact_bytes
            total = size + sum(artefact.size for other, artefact in kept.items() if other != name)
            if total > limit:
                raise ValueError(
                    f"the artefact {name!r} of trial {self.name} has {size:,} bytes, with its others {total:,}; a trial may save {limit:,}: "
                    f"give its stage options={{'artefact_bytes': …}} for more"
                )
            if any(other.startswith(f"{name}/") or name.startswith(f"{other}/") for other in kept):
                raise ValueError(f"an artefact cannot be a file and a folder: name={name!r}, others={', '.join(kept)}")
            if len(kept) >= _MOST_ARTEFACTS and name not in kept:
                raise ValueError(
                    f"a trial saves at most {_MOST_ARTEFACTS:,} artefacts: trial={self.name}, name={name!r}"
                )
            with self._store() as store:
                kept[name] = ArtefactStore(store, StudyKeys(self._spec.study)).write(file, kind)
        return kept[name]

    def load(self, name: str) -> Any:
        """Return an artefact by its name: of this trial, or else of its case. Files and figures come back as bytes.

        Raises: LookupError: neither has one of that name. RecordInvalid: it is missing or has been changed.
        Store: 1 GET; 1 more for each 8 MiB of a big one.
        """
        of_case: Mapping[str, Artefact] = getattr(self.case, "artefacts", {})
        artefact = self._kept.artefacts.get(name) or of_case.get(name)
        if artefact is None:
            known = ", ".join(sorted({*self._kept.artefacts, *of_case})) or "none"
            raise LookupError(f"no artefact {name!r} of trial {self.name} or its case: there are {known}")
        with self._store() as store:
            body = ArtefactStore(store, StudyKeys(self._spec.study)).read(artefact)
        return loaded(body, artefact.kind)

    # --- for `running.py` ---------------------------------------------------------------------------------------------

    def kept(self) -> _Kept:
        """What it reported and saved so far."""
        return self._kept

    def end(self, metrics: Mapping[str, float]) -> None:
        """Let the other trials know how it ended, if its stage has a pruner of Optuna. Store: at most 1 put."""
        # A trial that has reported nothing needs no rule, which might import Optuna.
        rule = self._rule() if self._kept.curve else None
        if rule is not None:
            rule.end(self._kept.curve, metrics, is_pruned=self._kept.is_pruned)

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
        # Imported here: most trials need no store, and each runner would import it before its first trial.
        from starburst_executor.store.open import open_store
        from starburst_executor.store.patient import PatientStore

        with closing(PatientStore(open_store(self._spec.store), self._clock, patience_s=_PATIENCE_S)) as store:
            yield store

    def _checkpoint_key(self) -> str:
        return StudyKeys(self._spec.study).checkpoint(self.stage, self._spec.edition, self.index)

    def _rule(self) -> Pruning | None:
        if self._pruning is None and self._spec.prune is not None:
            from starburst_executor.study.pruning import pruning_of

            self._pruning = pruning_of(self._spec, self.index, self._clock, self._store)
        return self._pruning


class _Kept:
    """What a trial has reported and saved."""

    def __init__(self) -> None:
        self.artefacts: dict[str, Artefact] = {}
        self.curve: list[tuple[int, dict[str, float]]] = []
        self.is_pruned = False
