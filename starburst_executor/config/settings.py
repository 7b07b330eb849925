"""The settings of a session, each resolved as argument > `STARBURST_*` variable > config file > default.

Guarantees that every setting is checked, whatever its source, and that an error names the value, the allowed values and
the source. This module does not know which stores exist: it checks only the form of a URL.
"""

from __future__ import annotations

import math
import operator
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from starburst_executor.config.aws import TABLE, aws_table
from starburst_executor.config.file import read_config_file, write_value
from starburst_executor.config.folders import default_store, default_store_to_read
from starburst_executor.errors import ConfigError

__all__ = ["LAUNCHERS", "Settings", "explained", "resolve", "store_to_read", "write_setting"]

_MIB = 2**20
LAUNCHERS = ("local", "none", "aws", "fargate", "fargate-spot", "ec2", "batch", "batch-spot")


@dataclass(frozen=True, slots=True)
class _Rule:
    """The allowed values of a setting: its type and, for numbers, its range; `optional` ones may be None, spelled "none"."""

    kind: type
    lowest: float = 0
    highest: float = math.inf
    optional: bool = False
    choices: tuple[str, ...] = ()
    unit: str = "seconds"
    form: str = ""
    form_words: str = ""

    def allowed(self) -> str:
        if self.form:
            words = self.form_words
        elif self.kind is bool:
            words = "true or false"
        elif self.kind is str:
            *first, last = [repr(choice) for choice in self.choices] or ["a text"]
            words = f"{', '.join(first)} or {last}" if first else last
        elif self.highest == math.inf:
            words = f"at least {self.lowest:.15g}"
        else:
            words = f"{self.lowest:.15g}..{self.highest:.15g}"
        return f"{words}, or none" if self.optional else words


def _setting(rule: _Rule, **default: Any) -> Any:
    return field(metadata={"rule": rule}, **default)


_FAILURES = _Rule(
    str,
    optional=True,
    form=r"\d{1,12}|(\d{1,2}(\.\d{1,3})?|100)%",
    form_words="a number of tasks, or a share of them such as 10%",
)
_DOLLARS = _Rule(float, 0.01, optional=True, unit="dollars")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a session; made by `resolve`, which checks them.

    Attributes:
        workers: How many tasks run at once, over all agents.
        store: URL of the object store, without credentials.
        launcher: What starts workers, a kind with its options: "fargate?cpu=4&spot=1"; "none": workers join by hand.
        retries: How often a task that raises is tried again.
        max_losses: A task fails after this number of lost workers, since it probably kills them.
        task_timeout: Seconds that one try may take, or None.
        max_tasks_per_child: A runner child is replaced after this number of tasks; None means never.
        absolute_timeout: Seconds after which the session expires, or None.
        max_result_bytes: A larger result fails its task.
        warn_result_bytes: A larger result is worth a warning.
        queue_bytes: Most bytes of calls that wait to be written; `submit` blocks when they are exceeded.
        keep: Whether an attached session's objects stay in the store when it ends.
        launch_timeout: Seconds within which the first worker must beat; None means the launcher's own default.
        code_exclude: Patterns of the user's own modules that are not sent to workers, separated by commas or spaces.
        max_hourly_cost: Workers that cost more dollars an hour are not started, or None.
        cost_alert_threshold: Workers that cost more dollars an hour are worth a warning, or None.
        budget_usd: The session ends when its workers have cost this many dollars in all, or None.
        max_failures: The session ends when more than this number of its tasks have failed, or more than this share (`10%`), or None.
        task_logs: The lowest level of the `logging` records of tasks that are passed on to the client, 20 for INFO, or None.
    """

    workers: int = _setting(_Rule(int, 1, 10_000))
    store: str = _setting(_Rule(str))
    launcher: str = _setting(_Rule(str, choices=LAUNCHERS), default="local")
    retries: int = _setting(_Rule(int, 0, 100), default=0)
    max_losses: int = _setting(_Rule(int, 1, 100), default=3)
    task_timeout: float | None = _setting(_Rule(float, 0.001, 31_622_400, optional=True), default=None)
    max_tasks_per_child: int | None = _setting(_Rule(int, 1, optional=True), default=None)
    absolute_timeout: float | None = _setting(_Rule(float, 1, 31_622_400, optional=True), default=None)
    max_result_bytes: int = _setting(_Rule(int, 1), default=4096 * _MIB)
    warn_result_bytes: int = _setting(_Rule(int, 1), default=256 * _MIB)
    queue_bytes: int = _setting(_Rule(int, _MIB), default=256 * _MIB)
    keep: bool = _setting(_Rule(bool), default=False)
    launch_timeout: float | None = _setting(_Rule(float, 1, 604_800, optional=True), default=None)
    code_exclude: str = _setting(_Rule(str), default="")
    max_hourly_cost: float | None = _setting(_DOLLARS, default=None)
    cost_alert_threshold: float | None = _setting(_DOLLARS, default=None)
    budget_usd: float | None = _setting(_DOLLARS, default=None)
    max_failures: str | None = _setting(_FAILURES, default=None)
    task_logs: int | None = _setting(_Rule(int, 1, 100, optional=True), default=None)


def resolve(detached: bool, *, store_of: Callable[[str], str | None] | None = None, **arguments: object) -> Settings:
    """Resolve every setting: argument > variable > config file > default.

    Args:
        detached: Whether the session outlives this process; its default store must then be permanent.
        store_of: Asked, if no store is named, for the store that goes with a launcher; None from it, or without it,
            the embedded default.
        arguments: The fields of `Settings`, and `max_workers` for `workers`. None means not given.
    Raises:
        ConfigError: a value is out of range, or `workers` and `max_workers` differ.
        TypeError: an argument has a wrong type or an unknown name.
    """
    given = _one_workers({name: value for name, value in arguments.items() if value is not None})
    settled = {name: value for name, (value, _) in _settled(given).items()}
    settled.setdefault("workers", _cpu_count())
    if "store" not in settled:
        launcher = settled.get("launcher", "local")
        named = store_of(launcher) if store_of is not None else None
        settled["store"] = named or default_store(detached=detached)
    return Settings(**settled)


def _settled(given: dict[str, object]) -> dict[str, tuple[Any, str]]:
    """Return the settings that are not the default, checked, each with its origin. Takes the arguments out of `given`."""
    file_path, from_file = _from_file()
    settled: dict[str, tuple[Any, str]] = {}
    for one in fields(Settings):
        rule: _Rule = one.metadata["rule"]
        variable = f"STARBURST_{one.name.upper()}"
        if one.name in given:
            settled[one.name] = _checked(one.name, given.pop(one.name), rule, None), "an argument"
        elif text := os.environ.get(variable):
            settled[one.name] = _checked(one.name, _from_text(text, rule), rule, variable), variable
        elif one.name in from_file:
            value = from_file[one.name]
            origin = str(file_path)
            settled[one.name] = _checked(one.name, None if value == "none" else value, rule, origin), origin
    if given:
        raise TypeError(f"unknown setting: {next(iter(given))!r}")
    return settled


def explained() -> dict[str, tuple[Any, str]]:
    """Return every setting of detached sessions with its value and its origin: a variable, the config file, or "default".

    Creates nothing; where sessions cannot be kept in the default store, its origin says why.

    Raises: ConfigError: a value is out of range.
    """
    settled = _settled({})
    if "store" not in settled:
        store, problem = default_store_to_read()
        settled["store"] = store, f"default, which cannot be used: {problem}" if problem else "default"
    settled.setdefault("workers", (_cpu_count(), "default"))
    return {one.name: settled.get(one.name, (one.default, "default")) for one in fields(Settings)}


def store_to_read(named: str | None = None) -> str:
    """Return the URL of the store in which detached sessions are: the named one, else that of the variable, the config file or the default.

    For what only reads: unlike `resolve` it creates nothing, and a default store that cannot be written is one without sessions.

    Raises: ConfigError: a value is out of range.
    """
    settled = _settled({} if named is None else {"store": named})
    return str(settled["store"][0]) if "store" in settled else default_store_to_read()[0]


def write_setting(name: str, text: str | None) -> Path:
    """Write a setting into the config file, or take it out; return the file's path. Needs the extra `cli`.

    Raises: ConfigError: there is no such setting, the value is out of range, or the file cannot be written.
    """
    rules = {one.name: one.metadata["rule"] for one in fields(Settings)}
    if name not in rules:
        raise ConfigError(f"unknown setting: {name!r}; known are {', '.join(rules)}")
    if text is None:
        return write_value(name, None)
    value = _checked(name, _from_text(text, rules[name]), rules[name], "what was typed")
    return write_value(name, "none" if value is None else value)


def check_setting(name: str, value: object, source: str) -> None:
    """Raise ConfigError if a setting does not take this value; the message has the source instead of the setting's name."""
    rules = {one.name: one.metadata["rule"] for one in fields(Settings)}
    _checked(name, value, rules[name], source)


def _one_workers(arguments: dict[str, object]) -> dict[str, object]:
    """`max_workers` and `workers` are one setting; a bad value raises the standard library's error."""
    if "max_workers" not in arguments:
        return arguments
    max_workers = arguments.pop("max_workers")
    if "workers" in arguments and arguments["workers"] != max_workers:
        raise ConfigError(
            f"workers={arguments['workers']!r} and max_workers={max_workers!r}: are one setting, give one"
        )
    if isinstance(max_workers, (int, float)) and not isinstance(max_workers, bool) and max_workers <= 0:
        raise ConfigError(f"max_workers={max_workers!r} (an argument): max_workers must be greater than 0")
    return {**arguments, "workers": max_workers}


def _from_text(text: str, rule: _Rule) -> object:
    """Convert a variable's text to the value it spells; return the text itself if it spells none, for the error message."""
    text = text.strip()
    if rule.optional and text.lower() == "none":
        return None
    if rule.kind is bool:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.lower(), text)
    if rule.kind is not str:
        with suppress(ValueError):
            return rule.kind(text)
    return text


def _checked(name: str, value: Any, rule: _Rule, source: str | None) -> object:
    """Return the value in the setting's own type. `source` None means an argument: a wrong type is then a `TypeError`."""

    def refuse() -> NoReturn:
        origin = "an argument" if source is None else f"from {source}"
        raise ConfigError(f"{name}={value!r} ({origin}): must be {rule.allowed()}")

    if value is None:
        return None if rule.optional else refuse()
    try:
        settled = _in_type(value, rule.kind)
    except TypeError:
        if source is not None:
            refuse()
        noun = {int: "an integer", float: f"a number of {rule.unit}", str: "a string", bool: "a bool"}[rule.kind]
        raise TypeError(f"{name} must be {noun}, not {type(value).__name__}") from None
    # Each launcher checks its own options: `launch/open.py`.
    if rule.choices and str(settled).partition("?")[0] not in rule.choices:
        refuse()
    if rule.kind in (int, float) and not rule.lowest <= settled <= rule.highest:
        refuse()
    if rule.form and not re.fullmatch(rule.form, settled):
        refuse()
    if name == "store" and not re.match(r"[a-z][a-z0-9+.-]*:.", settled):
        origin = "an argument" if source is None else f"from {source}"
        raise ConfigError(f"store={value!r} ({origin}): must be a URL such as sqlite:///folder or s3://bucket/prefix")
    return settled


def _in_type(value: Any, kind: type) -> Any:
    if isinstance(value, bool) is not (kind is bool):
        raise TypeError
    if kind is int:
        return operator.index(value)
    if kind is float and not isinstance(value, str):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError
    return value


def _from_file() -> tuple[Path | None, dict[str, object]]:
    path, record = read_config_file()
    aws_table(record, path)
    known = [one.name for one in fields(Settings)]
    for name in record:
        if name not in known and name != TABLE:
            raise ConfigError(f"unknown setting: {name!r} (from {path}); known are {', '.join(known)}")
    return path, record


def _cpu_count() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
