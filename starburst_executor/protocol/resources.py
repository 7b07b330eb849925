"""Resources: what a task needs of its worker, what a worker has; as users give them and as keys of status objects have them.

    {"gpu": 1, "memory": "8GB"} ──resources_of──► (("gpu", 1), ("memory", 8000000000)) ──text_of──► 1xgpu.8000000000xmemory

Any name may be used; `memory` is in bytes. Amounts are whole numbers.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from starburst_executor.errors import ConfigError

__all__ = ["GPU", "MEMORY", "RESOURCES", "Amounts", "amounts_of", "are_met", "resources_of", "text_of", "whole_number"]

Amounts: TypeAlias = "tuple[tuple[str, int], ...]"

GPU, MEMORY = "gpu", "memory"
_MOST_NAMES = 8
_MOST = 10**15
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]i?)?b?", re.IGNORECASE)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ONE = r"[1-9][0-9]{0,15}x[a-z][a-z0-9_]{0,31}"
# The form of `text_of`, as a regular expression.
RESOURCES = rf"{_ONE}(?:\.{_ONE}){{0,{_MOST_NAMES - 1}}}"


def resources_of(given: Mapping[str, object] | Amounts, *, may_be_zero: bool = False) -> Amounts:
    """Return resources that a user gave, checked and sorted by name. Raises: ConfigError.

    Args:
        may_be_zero: Whether an amount may be 0, as of a worker that has none.
    """
    amounts = {}
    try:
        named = dict(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"resources={given!r}: must be a mapping of names to amounts, such as {{'gpu': 1}}"
        ) from error
    for name, value in named.items():
        if type(name) is not str or not _NAME.fullmatch(name):
            raise ConfigError(
                f"resource {name!r}: a name is a letter and up to 31 letters, digits and '_', in lower case"
            )
        least = 0 if may_be_zero else 1
        amount = whole_number(_bytes(value) if name == MEMORY else value)
        if amount is None or not least <= amount <= _MOST:
            what = "a number of bytes, or a text such as '8GB'" if name == MEMORY else "a whole number"
            raise ConfigError(f"resource {name}={value!r}: must be {what}, {least}..{_MOST:,}")
        amounts[name] = amount
    if len(amounts) > _MOST_NAMES:
        raise ConfigError(f"more than {_MOST_NAMES} resources: {', '.join(sorted(amounts))}")
    return tuple(sorted(amounts.items()))


def whole_number(value: Any) -> int | None:
    """Return a whole number of any kind, NumPy's too, as Python's; None for what is none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def text_of(amounts: Amounts) -> str:
    """Return resources as the key of a status object has them; empty for none."""
    return ".".join(f"{amount}x{name}" for name, amount in amounts)


@lru_cache(maxsize=1024)
def amounts_of(text: str) -> Amounts:
    """Return the resources of `text_of`."""
    pairs = (one.partition("x") for one in text.split(".") if one)
    return tuple((name, int(amount)) for amount, _, name in pairs)


def are_met(text: str, available: Mapping[str, int]) -> bool:
    """Return whether this much is available of each resource."""
    return all(available.get(name, 0) >= amount for name, amount in amounts_of(text))


def _bytes(value: object) -> object:
    """Return the number of bytes that a text or a number such as 8e9 stands for; any other value as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if match is None else int(float(match[1]) * _UNITS[(match[2] or "").lower()])
