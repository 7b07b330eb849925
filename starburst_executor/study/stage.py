"""`Stage`: what a user writes down about one stage of a study, checked and in one form."""

from __future__ import annotations

import copy
import math
import re
import shlex
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starburst_executor.errors import ConfigError
from starburst_executor.protocol.options import DEFAULT, Backoff
from starburst_executor.study.artefacts import keep_of
from starburst_executor.study.metrics import Metric, metric_of
from starburst_executor.study.own_policies import OWN_ABORTING, OwnPolicy
from starburst_executor.study.plain import check_params
from starburst_executor.study.policies import ABORTING, BudgetLeft, policy_of

if TYPE_CHECKING:
    from starburst_executor.study.search import Search
    from starburst_executor.study.selection import Selection

__all__ = [
    "MOST_TRIALS",
    "OPTIONS_OF_OTHERS",
    "OWN_NAMES",
    "AbortRules",
    "Gate",
    "Stage",
    "TrialOptions",
    "is_name",
    "names_in",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_NO_NAME = re.compile(r"\d*([.\[]|$)")  # what stands in the braces of `{}`, `{0}` and `{0.x}`
# Options of other tasks, and why trials have none.
OPTIONS_OF_OTHERS = {
    "seed": "the stage has seed=, and trial.rng()",
    "label": "a trial is called by its stage and index",
    "limit": "they are submitted once by their keys, and such tasks have none; the number of workers limits a study",
    "resources": "they are submitted once by their keys, and such tasks have none; choose workers that have them: launcher=",
    "cache": "the outcome of a trial is kept with its study, and it is not run again",
}
_OPTIONS = "timeout, retries, retry_on, backoff, priority and artefact_bytes"
MOST_TRIALS = 1_000_000
# What braces in a command name besides parameters.
OWN_NAMES = frozenset({"index", "stage", "seed", "case", "folder", "here"})
_LONGEST_S = 1e9  # 31 years; no timer of the operating system takes much more
_ROOM_S = 600.0  # for what a trial does at its ends, while the store is away too


def is_name(text: object) -> bool:
    """Return whether `text` can name a study or a stage: 1 to 63 of letters, digits, "_" and "-"."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """Options of a stage's trials.

    Attributes:
        timeout: Seconds after which an attempt of a trial is killed; None for never.
        retries: The number of further attempts for a trial that raises.
        priority: Of stages that become ready together, the trials of a higher one are submitted first.
        retry_on: Names of exception classes: a trial is only tried again if it raises one of them or a subclass; empty for any.
        backoff: The pauses before further attempts.
        artefact_bytes: The most bytes that one trial may save, in all of its artefacts.
    """

    timeout: float | None = None
    retries: int = 0
    priority: int = 0
    artefact_bytes: int = 1_000_000_000
    retry_on: tuple[str, ...] = ()
    backoff: Backoff | None = None

    @property
    def task_timeout(self) -> float | None:
        """Seconds after which the worker ends a trial that its own timeout does not end, such as one that ignores the signal: all attempts, and room."""
        if self.timeout is None:
            return None
        pauses = 0.0 if self.backoff is None else sum(map(self.backoff.pause_s, range(1, self.retries + 1)))
        return min(self.timeout * (self.retries + 1) + pauses + _ROOM_S, _LONGEST_S)

    @classmethod
    def of(cls, given: object, where: str) -> TrialOptions:
        """Return the options that a user gave. Raises: ConfigError, also for an option that other tasks have."""
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}={given!r}: must be a mapping of {_OPTIONS}")
        for name in given:
            if name in OPTIONS_OF_OTHERS:
                raise ConfigError(
                    f"{where}: trials have no {name}: {OPTIONS_OF_OTHERS[name]}; a stage takes {_OPTIONS}"
                )
            if name not in cls.__dataclass_fields__:
                raise ConfigError(f"{where}: unknown option {name!r}: a stage takes {_OPTIONS}")
        named = {name: given[name] for name in ("retry_on", "backoff") if given.get(name) is not None}
        try:
            checked = DEFAULT.but(**named)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        options = cls(**{**given, "retry_on": checked.retry_on or (), "backoff": checked.backoff})
        timeout, retries, priority = options.timeout, options.retries, options.priority
        if timeout is not None and not (_is_number(timeout) and 0 < timeout <= _LONGEST_S):
            raise ConfigError(
                f"{where}: timeout={timeout!r}: must be a number of seconds greater than 0, and at most {_LONGEST_S:,.0f}"
            )
        if not _is_count(retries) or not 0 <= retries <= 100:  # noqa: PLR2004 - as for a session
            raise ConfigError(f"{where}: retries={retries!r}: must be a whole number, 0..100")
        if named and not retries:
            raise ConfigError(f"{where}: {' and '.join(named)}: give retries too")
        if type(priority) is not int:
            raise ConfigError(f"{where}: priority={priority!r}: must be a whole number")
        if not _is_count(options.artefact_bytes):
            raise ConfigError(f"{where}: artefact_bytes={options.artefact_bytes!r}: must be a whole number, 0 or more")
        return options


@dataclass(frozen=True, slots=True)
class Gate:
    """A stage's survivors wait for `study.approve`.

    Attributes:
        timeout: Seconds that a driver waits, by its own clock; None for ever.
        then: `abort` or `approve`, when they have passed.
    """

    timeout: float | None = None
    then: str = "abort"

    @classmethod
    def of(cls, given: object, where: str) -> Gate | None:
        """Return the gate that a user described: a bool, seconds, or a mapping. Raises: ConfigError."""
        if given is None or given is False:
            return None
        if given is True:
            return cls()
        if isinstance(given, Gate):
            gate = given
        elif _is_number(given):
            gate = cls(given)  # type: ignore[arg-type]  # a number
        elif isinstance(given, Mapping) and set(given) <= {"timeout", "then"}:
            gate = cls(**given)
        else:
            raise ConfigError(f"{where}={given!r}: must be true, a number of seconds, or a mapping of timeout and then")
        if gate.timeout is not None and not (_is_number(gate.timeout) and 0 < gate.timeout < math.inf):
            raise ConfigError(f"{where}: timeout={gate.timeout!r}: must be a number of seconds greater than 0")
        if gate.then not in ("abort", "approve"):
            raise ConfigError(f"{where}: then={gate.then!r}: must be 'abort' or 'approve'")
        return gate


@dataclass(frozen=True, slots=True)
class AbortRules:
    """When a running stage aborts the study.

    Attributes:
        failed: The share of ended trials that failed, 0..1, above which it aborts.
        after: Not before this number of trials have ended.
        no_progress: Seconds without the end of any trial, by the driver's clock.
        budget_usd: The estimated cost of the session in dollars above which it aborts.
        function: Called with a `StageProgress`; what it returns, if true, is the reason.
        policies: Called likewise, of `policies.py`.
    """

    failed: float | None = None
    after: int = 1
    no_progress: float | None = None
    budget_usd: float | None = None
    function: Callable[[Any], Any] | None = None
    policies: tuple[Callable[[Any], Any], ...] = ()

    @property
    def needs_cost(self) -> bool:
        """Whether the cost of the session has to be known."""
        # What a function looks at is not known.
        by_cost = any(isinstance(one, (BudgetLeft, OwnPolicy)) for one in self.policies)
        return self.budget_usd is not None or self.function is not None or by_cost

    @classmethod
    def of(cls, given: object, where: str) -> AbortRules:
        """Return the rules that a user described: a mapping, or a function. Raises: ConfigError."""
        if given is None:
            return cls()
        if isinstance(given, AbortRules):
            return given
        if isinstance(given, Mapping):
            named = {name: value for name, value in given.items() if name in ABORTING or name in OWN_ABORTING}
            unknown = sorted(set(given) - set(named) - set(cls.__dataclass_fields__) | set(given) & {"policies"})
            if unknown:
                raise ConfigError(f"{where}: unknown {', '.join(map(str, unknown))}: rules are {_rules()}")
            policies = tuple(policy_of({name: value}, ABORTING, OWN_ABORTING, where) for name, value in named.items())
            rules = cls(**{name: value for name, value in given.items() if name not in named}, policies=policies)
        elif isinstance(given, (*ABORTING.values(), OwnPolicy)):
            rules = cls(policies=(given,))  # type: ignore[arg-type]  # a policy is callable
        elif callable(given):
            rules = cls(function=given)
        else:
            raise ConfigError(f"{where}={given!r}: must be a function, or a mapping of {_rules()}")
        if rules.failed is not None and not (_is_number(rules.failed) and 0 <= rules.failed < 1):
            raise ConfigError(f"{where}: failed={rules.failed!r}: must be a share, 0 or more and below 1")
        if not _is_count(rules.after):
            raise ConfigError(f"{where}: after={rules.after!r}: must be a whole number, at least 0")
        for name in ("no_progress", "budget_usd"):
            limit = getattr(rules, name)
            if limit is not None and not (_is_number(limit) and 0 < limit < math.inf):
                raise ConfigError(f"{where}: {name}={limit!r}: must be a number greater than 0")
        return rules


def _rules() -> str:
    return ", ".join(["failed, after, no_progress, budget_usd, function", *ABORTING, *OWN_ABORTING])


class Stage:
    """One stage of a study: a number of trials, and the rule by which some of them survive.

    Args:
        name: 1 to 63 of letters, digits, "_" and "-"; unique in its study.
        run: Called on a worker with a `Trial`; returns a mapping of metrics.
        trials: Their number, in total and also after a resume; the number of cases if not given.
        cases: Values that the trials get in turn: of mappings, the items become parameters.
        search: What proposes the parameters of each trial: `{"random": space}`, `{"sobol": space}`, `{"optuna": space, "sampler": …}` or an object
            with `ask` and `tell`; `{"grid": space}` makes its points the cases. A space has a list of choices or
            `{"low": 0.1, "high": 10, "log": True}` for each name.
        select: `("score", 10)`: the best 10; `(("area", "delay"), None)`: a Pareto front; a predicate of one trial; a function of
            the table and a stored state. All completed trials survive if not given.
        depends_on: Names of stages whose survivors are its input; the stage before it if not given; `()` for none.
        options: `timeout` (seconds), `retries` with `retry_on` and `backoff` as of `executor.options`, `priority`, `artefact_bytes` (the most
            that a trial may save).
        gate: Whether its survivors wait for `study.approve`; a number of seconds, or `{"timeout": s, "then": "approve"}`.
        abort_if: `{"failed": 0.5, "after": 20, "no_progress": 3600, "budget_usd": 20}`, or a function that returns a reason.
        metrics: By name: `"min"`, `("min", "ns")`, or a mapping of direction, unit, and key, function, regex or file.
        seed: The stage's own seed instead of the study's.
        command: A program instead of `run`, such as `"tool --x {x}"`: words, in which parameters are filled in, and `{index}`,
            `{stage}`, `{seed}`, `{case}`, `{folder}`, `{here}`; no shell. It runs in an empty folder of its own.
        prune: What `Trial.should_prune` says. `("loss", 5)`: it compares with the median of ended trials, once there are 5.
            `("loss", "HyperbandPruner")`: that class of `optuna.pruners`, or a pruner; `{"metric": …, "pruner": …, "options": {…}}` with arguments.
        metadata: Plain values that the record keeps with the stage.
        here: The folder that `{here}` names in a command; the working directory of this process if not given.
        keep: Whose artefacts stay when the study ends: `all`, `survivors` or `none`; as the study says if not given.

    Raises:
        ConfigError: a value is out of range; the message names it.

    It is a value: making it starts nothing, and it can be used in several studies.
    """

    def __init__(
        self,
        name: str,
        run: Callable[..., Any] | None = None,
        trials: int | None = None,
        *,
        cases: Iterable[Any] | None = None,
        search: object = None,
        select: object = None,
        depends_on: str | Iterable[str] | None = None,
        options: Mapping[str, Any] | None = None,
        gate: object = False,
        abort_if: object = None,
        metrics: Mapping[str, Any] | None = None,
        seed: int | None = None,
        command: str | Iterable[str] | None = None,
        prune: object = None,
        metadata: Mapping[str, Any] | None = None,
        here: str | None = None,
        keep: str | None = None,
    ) -> None:
        # Imported here: each runner imports this module before its first trial, and makes no stage.
        from starburst_executor.study.pruners import OptunaPruner, prune_of
        from starburst_executor.study.search import grid_of, search_of
        from starburst_executor.study.selection import selection_of

        if not is_name(name):
            raise ConfigError(f"name={name!r}: a stage's name is 1 to 63 of letters, digits, '_' and '-'")
        where = f"stage {name}: "
        if (run is None) == (command is None):
            raise ConfigError(f"{where}give either run, a function, or command, a program")
        if run is not None and not callable(run):
            raise ConfigError(f"{where}run={run!r}: must be a function")
        self.name = name
        self.run = run
        grid = grid_of(search, f"{where}search")
        if grid is not None and cases is not None:
            raise ConfigError(f"{where}a grid makes the cases of its stage: give either cases or a grid")
        self.cases = _cases(grid if cases is None else cases, where)
        for number, case in enumerate(self.cases):
            if isinstance(case, Mapping):
                check_params(case, f"{where}cases[{number}]")
        self.command = _command(command, where)
        own = OWN_NAMES & names_in(self.command or ())
        hidden = sorted(own & {name for case in self.cases if isinstance(case, Mapping) for name in case})
        if hidden:
            raise ConfigError(
                f"{where}command: {{{hidden[0]}}} is the trial's own, and a parameter of its cases is called {hidden[0]!r} too: call that "
                "something else"
            )
        n_trials = trials if trials is not None else len(self.cases)
        if not _is_count(n_trials) or not 1 <= n_trials <= MOST_TRIALS:
            raise ConfigError(
                f"{where}trials={trials!r}: must be a whole number, 1..{MOST_TRIALS:,}, or cases be given"
            )
        self.trials = n_trials
        if metrics is not None and not isinstance(metrics, Mapping):
            raise ConfigError(f"{where}metrics={metrics!r}: must be a mapping of names to directions, or to mappings")
        self.metrics: dict[str, Metric] = {
            str(metric): metric_of(given, f"{where}metrics: {metric}") for metric, given in (metrics or {}).items()
        }
        self.selection: Selection = selection_of(select, f"{where}select", self.directions)
        self.depends_on = _names(depends_on, where)
        self.options = TrialOptions.of(options, f"{where}options")
        self.gate = Gate.of(gate, f"{where}gate")
        self.abort_if = AbortRules.of(abort_if, f"{where}abort_if")
        self.prune = prune_of(prune, f"{where}prune")
        self.search: Search | None = None
        if grid is None:
            pruner = self.prune if isinstance(self.prune, OptunaPruner) else None
            self.search = search_of(search, self.directions, self.selection, f"{where}search", pruner=pruner)
        if seed is not None and type(seed) is not int:
            raise ConfigError(f"{where}seed={seed!r}: must be a whole number")
        self.seed = seed
        self.keep = keep_of(keep, where)
        self.here = str(here) if here is not None else str(Path.cwd())
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ConfigError(f"{where}metadata={metadata!r}: must be a mapping of names to plain values")
        self.metadata = dict(metadata or {})
        check_params(self.metadata, f"{where}metadata")

    def __repr__(self) -> str:
        return f"Stage({self.name!r}, trials={self.trials})"

    def keeping(self, keep: str) -> Stage:
        """Return this stage with a policy for its artefacts, if it has none."""
        if self.keep is not None:
            return self
        stage = copy.copy(self)
        stage.keep = keep
        return stage

    @property
    def mode(self) -> str:
        """`function` or `command`."""
        return "function" if self.command is None else "command"

    @property
    def directions(self) -> dict[str, str]:
        """The direction of each declared metric."""
        return {name: metric.direction for name, metric in self.metrics.items()}


def _command(command: str | Iterable[str] | None, where: str) -> str | tuple[str, ...] | None:
    if command is None:
        return None
    if not isinstance(command, Iterable):
        raise ConfigError(f"{where}command={command!r}: must be text, or a list of words")
    given = command if isinstance(command, str) else tuple(command)
    try:
        words = shlex.split(given) if isinstance(given, str) else given
    except ValueError as error:
        raise ConfigError(f"{where}command={given!r}: {error}; a list of words needs no quotes") from error
    for word in [given] if isinstance(given, str) else given:
        try:
            parts = list(string.Formatter().parse(word))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where}command={word!r}: {error}; write {{{{ for a brace") from error
        if any(field is not None and _NO_NAME.match(field) for _, field, _, _ in parts):
            raise ConfigError(f"{where}command={word!r}: braces without a name; write {{{{ for a brace")
        if "\0" in word:
            raise ConfigError(f"{where}command={word!r}: no program takes a null character")
    if not words:
        raise ConfigError(f"{where}command is empty")
    return given


def names_in(command: str | tuple[str, ...]) -> set[str]:
    """Return the names in the braces of a command."""
    fields = [
        field
        for word in ([command] if isinstance(command, str) else command)
        for _, field, _, _ in string.Formatter().parse(word)
    ]
    return {re.split(r"[.\[]", field, maxsplit=1)[0] for field in fields if field}


def _cases(cases: Iterable[Any] | None, where: str) -> tuple[Any, ...]:
    if cases is None:
        return ()
    # Of these, the items are letters or keys alone, which no user means.
    if isinstance(cases, (str, bytes, Mapping)) or not isinstance(cases, Iterable):
        shown = repr(cases)
        raise ConfigError(
            f"{where}cases={shown[:60]}{'…' * (len(shown) > 60)}: must be a list of them, also if there is one"  # noqa: PLR2004 - a line
        )
    return tuple(cases)


def _names(depends_on: str | Iterable[str] | None, where: str) -> tuple[str, ...] | None:
    if depends_on is None:
        return None
    if not isinstance(depends_on, Iterable):
        raise ConfigError(f"{where}depends_on={depends_on!r}: must be the names of stages")
    names = (depends_on,) if isinstance(depends_on, str) else tuple(depends_on)
    for name in names:
        if not is_name(name):
            raise ConfigError(f"{where}depends_on: {name!r} is no name of a stage")
    return names


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
