"""Makes a launcher from its spec: the only module that knows all launchers.

A spec is a kind and its options, `fargate?cpu=4&memory=8GB&spot=1&env.MODE=fast`; each entry of a mapping is an option of
its own. `launcher=` accepts a spec, and the session's manifest stores one, so that another client can start workers of
the same kind.

    local        workers on this machine                    fargate, fargate-spot    on AWS Fargate
    none         workers are started separately             ec2                      on EC2 instances of the stack
    aws          fargate; batch for a detached session      batch, batch-spot        started, and restarted, by AWS Batch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from starburst_executor.clock import Clock
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.ecs import Ec2, Fargate
from starburst_executor.launch.base import Launcher, Options
from starburst_executor.launch.local.launcher import Local

__all__ = ["is_on_aws", "open_launcher", "read_spec"]

_ON_AWS: dict[str, tuple[type[Fargate] | type[Ec2] | type[Batch], dict[str, Any]]] = {
    "fargate": (Fargate, {}),
    "fargate-spot": (Fargate, {"spot": True}),
    "ec2": (Ec2, {}),
    "batch": (Batch, {}),
    "batch-spot": (Batch, {"spot": True}),
}


def is_on_aws(spec: str) -> bool:
    """Whether the workers of this launcher run on AWS, where they cannot reach a store on this machine."""
    kind = spec.partition("?")[0]
    return kind == "aws" or kind in _ON_AWS


def open_launcher(spec: str, clock: Clock, *, detached: bool) -> Launcher | None:
    """Return the launcher that a spec names; None for "none". Makes no request. Raises: as `read_spec`."""
    options = read_spec(spec, detached=detached)
    return None if options is None else options.open(clock)


def read_spec(spec: str, *, detached: bool) -> Options | None:
    """Return the options that a spec names; None for "none".

    Args:
        detached: Whether the session is detached, which selects the launcher for "aws".
    Raises:
        ConfigError: there is no such launcher, it has no such option, or an option is out of range.
    """
    kind, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if kind == "aws":
        kind = "batch" if detached else "fargate"
    if kind in _ON_AWS:
        made, given = _ON_AWS[kind]
        return made(**{**given, **_typed(spec, made, options)})
    if kind == "local":
        agents = options.pop("agents", "1")
        if agents.isdecimal():
            amounts = {name: int(text) if text.isdecimal() else text for name, text in options.items()}
            return Local(agents=int(agents), resources=amounts or None)
    if kind == "none" and not options:
        return None
    known = ", ".join(["local", "none", "aws", *_ON_AWS])
    raise ConfigError(f"launcher={spec!r}: no such launcher, or no such option of it; the launchers are {known}")


def _typed(spec: str, made: type, options: dict[str, str]) -> dict[str, Any]:
    """Convert options to the types of the launcher's fields."""
    hints = get_type_hints(made)
    known = {field.name: hints[field.name] for field in fields(made)}
    typed: dict[str, Any] = {}
    for name, text in options.items():
        of, _, key = name.partition(".")
        if key and get_origin(known.get(of)) is Mapping:
            typed.setdefault(of, {})[key] = text
            continue
        if name not in known or get_origin(known[name]) is Mapping:
            raise ConfigError(
                f"launcher={spec!r}: no such option: {name!r}; the options are {', '.join(sorted(known))}"
            )
        kinds = [kind for kind in get_args(known[name]) or (known[name],) if kind is not type(None)]
        try:
            typed[name] = _READERS[kinds[0]](text)
        except (ValueError, KeyError):
            raise ConfigError(f"launcher={spec!r}: {name}={text!r} is not {kinds[0].__name__}") from None
    return typed


_READERS: dict[type, Callable[[str], object]] = {
    int: int,
    float: float,
    str: str,
    bool: lambda text: {"1": True, "true": True, "0": False, "false": False}[text.lower()],
}
