"""What a stage is, as short texts that can be compared: each of its settings, and the code of its functions.

The code's fingerprint is that of `client/code_words.py`. Each function and class has a digest of its own, so that a difference can be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

from starburst_executor.client.code_words import CodeReader, digest_words
from starburst_executor.modules import own_loaded
from starburst_executor.protocol.content import digest_of
from starburst_executor.study.artefacts import KEEP_ALL
from starburst_executor.study.own_policies import OwnPolicy
from starburst_executor.study.selection import By, Where
from starburst_executor.study.stage import AbortRules, Stage

__all__ = ["codes_of", "config_of"]

_PLAIN = (str, bytes, int, float, type(None), Mapping)  # cases without code
_TEXT = 60  # characters of a setting that are kept; of a longer one its digest too
_MOST_NAMED = 64  # functions and classes of one stage; later ones have one digest in all


def config_of(stage: Stage, parents: tuple[str, ...], study_seed: int) -> dict[str, str]:
    """Return a stage's settings without its functions: those that are given, each as a short text."""
    gate = stage.gate
    rules = stage.abort_if
    given: dict[str, Any] = {
        "trials": stage.trials,
        "cases": [*stage.cases],
        "select": stage.selection.described(),
        "depends_on": [*parents],
        "options.timeout": stage.options.timeout,
        "options.retries": stage.options.retries or None,
        "options.retry_on": [*stage.options.retry_on],
        "options.backoff": None if stage.options.backoff is None else [*stage.options.backoff],
        "gate": None if gate is None else {"timeout": gate.timeout, "then": gate.then},
        "abort_if.failed": rules.failed,
        "abort_if.after": None if rules.after == AbortRules().after else rules.after,
        "abort_if.no_progress": rules.no_progress,
        "abort_if.budget_usd": rules.budget_usd,
        "abort_if.policies": [getattr(policy, "text", "") for policy in rules.policies],
        "seed": study_seed if stage.seed is None else stage.seed,
        "command": stage.command,
        "prune": stage.prune if stage.prune is None or isinstance(stage.prune, tuple) else stage.prune.described(),
        "keep": None if stage.keep in (None, KEEP_ALL) else stage.keep,
    }
    if stage.search is not None:
        given |= {f"search.{name}": value for name, value in stage.search.described().items()}
    for name, metric in stage.metrics.items():
        fields = ("direction", "unit", "key", "regex", "file")
        given[f"metrics.{name}"] = {one: value for one in fields if (value := getattr(metric, one))}
    return {name: _text(value) for name, value in given.items() if value is not None and value != []}


def _text(value: Any) -> str:
    import json

    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a file gives 60.0 where a program gives 60
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError):  # cases may be any objects
        text = f"{len(value)} objects" if isinstance(value, list) else type(value).__name__
        # By content: pickles of equal sets, or of equal objects of a script's class, differ between processes.
        return f"{text} ({digest_words([digest_of(value).hex()])})"
    if len(text) <= _TEXT:
        return text
    count = f"{len(value)} of them, " if isinstance(value, list) else ""
    return f"{text[:_TEXT]}… ({count}{digest_words([text])})"


def codes_of(stages: Iterable[Stage]) -> dict[str, dict[str, str]]:
    """Return what the functions of each stage are, by the stage's name: the name of each function, and the digest of all own code."""
    own = frozenset(own_loaded())
    return {stage.name: _code_of(stage, own) for stage in stages}


def _unbound(function: Any) -> Any:
    """Return the function of a registered policy: its arguments are settings, and no code."""
    return function.function if isinstance(function, OwnPolicy) else function


def _code_of(stage: Stage, own: frozenset[str]) -> dict[str, str]:
    functions: dict[str, Any] = {"run": stage.run, "abort_if": stage.abort_if.function}
    functions |= {f"metrics.{name}": metric.function for name, metric in stage.metrics.items()}
    if isinstance(stage.selection, Where):
        functions["select"] = _unbound(stage.selection.predicate)
    if isinstance(stage.selection, By):
        functions["select"] = _unbound(stage.selection.function)
    functions |= {f"abort_if.{one.name}": one.function for one in stage.abort_if.policies if isinstance(one, OwnPolicy)}
    if stage.search is not None:
        functions |= {f"search.{number}": part for number, part in enumerate(stage.search.code())}
    if stage.prune is not None and not isinstance(stage.prune, tuple):
        functions |= {f"prune.{number}": part for number, part in enumerate(stage.prune.code())}
    walk = CodeReader(own)
    found: dict[str, str] = {}
    for role, function in functions.items():
        if function is None:
            continue
        words = list(walk.words(function))
        name = getattr(function, "__qualname__", type(function).__qualname__)
        # A function has its own digest; of another object, such as a partial, this is all that there is.
        found[role] = name if isinstance(function, FunctionType) else f"{name} ({digest_words(words)})"
    for _ in walk.words([case for case in stage.cases if not isinstance(case, _PLAIN)]):
        pass  # only for the code of their classes: what they hold is a setting
    named = dict(list(walk.parts.items())[:_MOST_NAMED])
    found |= {f"code of {name}": digest_words(words) for name, words in named.items()}
    if rest := [word for name in walk.parts if name not in named for word in walk.parts[name]]:
        found[f"code of {len(walk.parts) - len(named)} more functions"] = digest_words(rest)
    return found | {f"value of {name}": value for name, value in walk.values.items()}
