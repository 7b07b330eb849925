"""What proposes the parameters of a stage's trials: a grid, a random or Sobol design, a sampler of Optuna, or an object with `ask` and `tell`.

    Stage(search=…) ──search_of──► Search, a description ──begin──► Searcher, which asks and tells in the driver (`asks.py`)

A grid is none of these: it becomes the cases of its stage.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random  # noqa: TID251 - streams that are reproducible by intent
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starburst_executor.errors import ConfigError
from starburst_executor.protocol import pickling
from starburst_executor.study.selection import Pareto, Selection, Top
from starburst_executor.study.spaces import Space, space_of

if TYPE_CHECKING:
    from starburst_executor.study.pruners import OptunaPruner
    from starburst_executor.study.tables import TrialRow

__all__ = ["AskTell", "Design", "Objective", "Search", "Searcher", "fingerprint_of", "grid_of", "search_of"]

AHEAD = 10
KINDS = ("grid", "random", "sobol", "optuna", "object")
_FORMS = "an object with ask and tell, or a mapping of one of " + ", ".join(KINDS)
_MOST_AHEAD = 10_000


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric that a search improves, and its direction, `max` or `min`."""

    metric: str
    direction: str


class Searcher(Protocol):
    """A search at work, in the process of a driver. Not thread-safe."""

    def ask(self, index: int) -> Mapping[str, Any]:
        """Return the parameters of a trial. Called with 0, 1, 2, …"""

    def tell(self, row: TrialRow, proposed: Mapping[str, Any]) -> None:
        """Take the outcome of a trial that was asked for. Called in the order of the trials."""

    def dump(self) -> tuple[bytes, list[Any]]:
        """Return its state, which replaces the one before, and the lines that its journal got since the last call."""


class Search(Protocol):
    """A description of a search: a part of a stage. Immutable, can be pickled.

    Attributes:
        ahead: How many trials are asked for before the outcome of the first of them is awaited; None for all.
    """

    @property
    def ahead(self) -> int | None:
        """See above."""

    def described(self) -> dict[str, Any]:
        """Return the description as plain values, for fingerprints."""

    def code(self) -> list[Any]:
        """Return the functions and classes of the user's that it consists of, for fingerprints."""

    def begin(self, seed: int, trials: int) -> Searcher:
        """Return a new searcher, which has asked for nothing."""

    def restore(self, seed: int, trials: int, state: bytes, journal: Sequence[Any]) -> Searcher:
        """Return the searcher that dumped this state, with all lines of its journal."""

    def adopt(
        self, seed: int, trials: int, proposed: Sequence[Mapping[str, Any]], rows: Sequence[TrialRow]
    ) -> Searcher:
        """Return a new searcher that goes on after another one, which made these proposals and got these first outcomes."""


@dataclass(frozen=True, slots=True)
class Design:
    """Points that depend on the seed alone.

    Attributes:
        kind: `random`: independent draws; `sobol`: a scrambled sequence that fills the space evenly.
        space: Where they are.
    """

    kind: str
    space: Space

    @property
    def ahead(self) -> int | None:
        """None: no outcome is needed."""
        return None

    def described(self) -> dict[str, Any]:
        return {self.kind: self.space.described()}

    def code(self) -> list[Any]:
        return []

    def begin(self, seed: int, trials: int) -> Searcher:
        return _RandomPoints(self.space, seed) if self.kind == "random" else _SobolPoints(self.space, seed, trials)

    def restore(self, seed: int, trials: int, state: bytes, journal: Sequence[Any]) -> Searcher:  # noqa: ARG002 - it has no state
        return self.begin(seed, trials)

    def adopt(
        self,
        seed: int,
        trials: int,
        proposed: Sequence[Mapping[str, Any]],  # noqa: ARG002 - the same
        rows: Sequence[TrialRow],  # noqa: ARG002 - the same
    ) -> Searcher:
        return self.begin(seed, trials)


class _Points:
    """The part that all designs have in common: they learn nothing."""

    def tell(self, row: TrialRow, proposed: Mapping[str, Any]) -> None:
        """Learn nothing."""

    def dump(self) -> tuple[bytes, list[Any]]:
        return b"", []


class _RandomPoints(_Points):
    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed

    def ask(self, index: int) -> Mapping[str, Any]:
        digest = hashlib.sha256(f"{self._seed}\0{index}".encode()).digest()
        draw = random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - reproducible by intent
        return self._space.point([draw.random() for _ in range(len(self._space))])


class _SobolPoints(_Points):
    def __init__(self, space: Space, seed: int, trials: int) -> None:
        self._space, self._seed, self._trials = space, seed, trials
        self._points: Any = None

    def ask(self, index: int) -> Mapping[str, Any]:
        if self._points is None:
            self._points = self._drawn()
        return self._space.point([float(share) for share in self._points[index]])

    def _drawn(self) -> Any:
        try:
            import numpy as np
            from scipy.stats import qmc
        except ImportError as error:
            raise ConfigError(
                f"a Sobol design needs an extra: pip install 'starburst-executor[search]' ({error.name} is missing)"
            ) from error
        sequence = qmc.Sobol(len(self._space), scramble=True, seed=np.random.default_rng(self._seed))
        # Its balance holds for powers of two; the first points are the same for each of them.
        return sequence.random_base2(max(self._trials - 1, 0).bit_length())


@dataclass(frozen=True, slots=True)
class AskTell:
    """An object of the user's, with `ask()` and `tell(params, metrics)`.

    Attributes:
        given: The object, or a function that makes one of a seed.
        ahead: As for every search.
    """

    given: Any
    ahead: int | None

    def described(self) -> dict[str, Any]:
        kind = self.given if hasattr(self.given, "__qualname__") else type(self.given)
        return {"object": kind.__qualname__, "ahead": self.ahead}

    def code(self) -> list[Any]:
        return [self.given if _is_factory(self.given) else type(self.given)]

    def begin(self, seed: int, trials: int) -> Searcher:  # noqa: ARG002 - the protocol's
        # A copy: the stage keeps the one that has asked for nothing.
        made = self.given(seed) if _is_factory(self.given) else pickle.loads(pickling.dumps(self.given))  # noqa: S301 - made here
        return _AskTeller(made)

    def restore(self, seed: int, trials: int, state: bytes, journal: Sequence[Any]) -> Searcher:  # noqa: ARG002 - the protocol's
        return _AskTeller(pickle.load(io.BytesIO(state)))  # noqa: S301 - from a sealed entry

    def adopt(
        self, seed: int, trials: int, proposed: Sequence[Mapping[str, Any]], rows: Sequence[TrialRow]
    ) -> Searcher:
        searcher = self.begin(seed, trials)
        for row, params in zip(rows, proposed, strict=False):
            searcher.tell(row, params)
        return searcher


class _AskTeller:
    def __init__(self, made: Any) -> None:
        self._made = made

    def ask(self, index: int) -> Mapping[str, Any]:
        params = self._made.ask()
        if not isinstance(params, Mapping):
            raise TypeError(f"ask() returned {params!r} for trial {index}: it must return a mapping of parameters")
        return params

    def tell(self, row: TrialRow, proposed: Mapping[str, Any]) -> None:
        self._made.tell(dict(proposed), dict(row.metrics) if row.is_completed else None)

    def dump(self) -> tuple[bytes, list[Any]]:
        return pickling.dumps(self._made), []


def search_of(
    given: object,
    directions: Mapping[str, str],
    selection: Selection,
    where: str,
    *,
    pruner: OptunaPruner | None = None,
) -> Search | None:
    """Return the search that a user described. Raises: ConfigError.

    Args:
        pruner: The stage's, if it has one of Optuna.
    """
    if given is None:
        return None
    if _is_ask_tell(given) or _is_factory(given):
        return AskTell(given, AHEAD)
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}={given!r}: must be {_FORMS}")
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        raise ConfigError(f"{where}={dict(given)!r}: must be {_FORMS}")
    kind, options = kinds[0], {str(name): value for name, value in given.items() if name != kinds[0]}
    allowed = {"object": {"ahead"}, "optuna": {"ahead", "sampler", "options", "metric"}}.get(kind, set())
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ConfigError(
            f"{where}: unknown {', '.join(unknown)}: {kind} takes {', '.join(sorted(allowed)) or 'its space alone'}"
        )
    ahead = options.pop("ahead", AHEAD)
    if type(ahead) is not int or not 1 <= ahead <= _MOST_AHEAD:
        raise ConfigError(f"{where}: ahead={ahead!r}: must be a whole number, 1..{_MOST_AHEAD:,}")
    if kind == "object":
        if not (_is_ask_tell(given[kind]) or _is_factory(given[kind])):
            raise ConfigError(f"{where}: object={given[kind]!r}: must have ask and tell, or be a function of a seed")
        return AskTell(given[kind], ahead)
    space = space_of(given[kind], f"{where}: {kind}")
    if kind == "optuna":
        from starburst_executor.study.samplers import optuna_search

        objectives = _objectives(options.pop("metric", None), directions, selection, where)
        return optuna_search(space, objectives, ahead, where, pruner=pruner, **options)
    return Design(kind, space)


def grid_of(given: object, where: str) -> list[dict[str, Any]] | None:
    """Return the points of a grid; None if the search is none. Raises: ConfigError."""
    if not isinstance(given, Mapping) or "grid" not in given:
        return None
    if len(given) > 1:
        raise ConfigError(f"{where}: a grid takes its space alone")
    return space_of(given["grid"], f"{where}: grid").grid(f"{where}: grid")


def fingerprint_of(search: Search) -> str:
    """Return the fingerprint of a search's description: 16 hexadecimal digits."""
    text = json.dumps(search.described(), sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _objectives(
    metric: object, directions: Mapping[str, str], selection: Selection, where: str
) -> tuple[Objective, ...]:
    """Return what a search improves: the metrics that are named, or else those by which the stage selects."""
    if metric is None and isinstance(selection, Top):
        metric = selection.metric
    elif metric is None and isinstance(selection, Pareto):
        metric = selection.metrics
    names = (metric,) if isinstance(metric, str) else metric
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: metric={metric!r}: name the metric that is improved, or several: or select by one")
    return tuple(Objective(name, directions.get(name, "max")) for name in names)


def _is_ask_tell(given: object) -> bool:
    return (
        not isinstance(given, type) and callable(getattr(given, "ask", None)) and callable(getattr(given, "tell", None))
    )


def _is_factory(given: object) -> bool:
    return callable(given) and not _is_ask_tell(given)
