"""Policies of users, registered by name, for files and mappings.

@selecting("sampled")                      @aborting("too_slow")
def sampled(row, *, every): …              def too_slow(progress, *, seconds): …

select: {sampled: {every: 3}}              abort_if: {too_slow: {seconds: 60}}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starburst_executor.errors import ConfigError

__all__ = ["OWN_ABORTING", "OWN_SELECTING", "OwnPolicy", "aborting", "own_policy", "selecting"]

F = TypeVar("F", bound=Callable[..., Any])

OWN_SELECTING: dict[str, Callable[..., Any]] = {}
OWN_ABORTING: dict[str, Callable[..., Any]] = {}
# What a mapping for `select` or `abort_if` may hold besides.
_OF_SELECT = ("top", "k", "pareto", "most", "where", "function", "at_least", "at_most", "within")
_OF_ABORT_IF = ("failed", "after", "no_progress", "budget_usd", "budget_left", "no_improvement", "doomed", "policies")
_TAKEN = (*_OF_SELECT, *_OF_ABORT_IF)
_ROW_OR_TABLE = (1, 2)


@dataclass(frozen=True)
class OwnPolicy:
    """A registered function with its arguments. A value: it travels with its stage, so a driver elsewhere needs no registration.

    Attributes:
        name: Under which it was registered.
        function: As it was registered.
        arguments: Its keyword arguments, plain values.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *given: Any) -> Any:
        return self.function(*given, **self.arguments)

    @property
    def text(self) -> str:
        """What it is, in words."""
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in sorted(self.arguments.items()))})"


def selecting(name: str) -> Callable[[F], F]:
    """Register a function for `select`: a predicate of one trial, or a function of the table and of a dict that is stored. The same name again, by the same function, is harmless.

    Its further parameters are keyword-only; a file or a mapping gives them: `select: {sampled: {every: 3}}`.

    Raises: ConfigError: the name is taken or no identifier, or the function has other parameters.

    >>> from starburst_executor.study.policies import selecting
    >>> @selecting("sampled")
    ... def sampled(row, *, every):
    ...     return row.index % every == 0
    """
    return _registering(name, OWN_SELECTING, _ROW_OR_TABLE, "a trial, or the table and a dict")


def aborting(name: str) -> Callable[[F], F]:
    """Register a function for `abort_if`, of a `StageProgress`: what it returns, if true, is the reason to abort. Otherwise as `selecting`.

    >>> from starburst_executor.study.policies import aborting
    >>> @aborting("too_slow")
    ... def too_slow(progress, *, seconds):
    ...     return f"idle for {progress.idle_s:.0f} s" if progress.idle_s > seconds else ""
    """
    return _registering(name, OWN_ABORTING, (1,), "a StageProgress")


def _registering(
    name: str, registry: dict[str, Callable[..., Any]], n_given: tuple[int, ...], given: str
) -> Callable[[F], F]:
    if not name.isidentifier() or name in _TAKEN:
        raise ConfigError(f"name={name!r}: a policy's name is an identifier, and none of {', '.join(_TAKEN)}")

    def register(function: F) -> F:
        known = registry.get(name)
        if known is not None and _place(known) != _place(function):
            raise ConfigError(f"name={name!r}: a policy of that name is registered: {_place(known)}")
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        n_positional = sum(one.kind in positional for one in inspect.signature(function).parameters.values())
        if n_positional not in n_given:
            raise ConfigError(
                f"policy {name}: {_place(function)} must take {given}, and its further parameters after a *: they are keyword-only"
            )
        registry[name] = function
        return function

    return register


def own_policy(name: str, arguments: object, registry: Mapping[str, Callable[..., Any]], where: str) -> OwnPolicy:
    """Return a registered policy with its arguments. Raises: ConfigError."""
    function = registry[name]
    known = [one.name for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY]
    if not isinstance(arguments, Mapping) or not set(arguments) <= set(known):
        raise ConfigError(f"{where}: {name}={arguments!r}: must be a mapping of {', '.join(known) or 'nothing'}")
    needed = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.KEYWORD_ONLY and one.default is one.empty and one.name not in arguments
    ]
    if needed:
        raise ConfigError(f"{where}: {name}: needs {', '.join(needed)}")
    return OwnPolicy(name, function, dict(arguments))


def _place(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
