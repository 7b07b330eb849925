"""Fingerprints of a stage: of its configuration, and of the code of its functions.

The code's fingerprint follows what a function does, not where it stands: byte code, constants, names, defaults, the values in its
closure, and each of the user's own functions and classes that it refers to, recursively. A comment, another line number or
another folder changes nothing. Installed packages count by their names alone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from starburst_executor.modules import own_loaded
from starburst_executor.protocol import pickling
from starburst_executor.study.selection import By, Where
from starburst_executor.study.stage import Stage

__all__ = ["codes_of", "config_of"]

_DIGITS = 16
_MOST = 5_000  # objects of one function; what comes later is not looked at


def config_of(stage: Stage, parents: tuple[str, ...], study_seed: int) -> str:
    """Return the fingerprint of a stage's settings, without its functions: 16 hexadecimal digits."""
    import json

    gate = stage.gate
    rules = stage.abort_if
    plain = {
        "name": stage.name,
        "trials": stage.trials,
        "cases": [_plain(case) for case in stage.cases],
        "select": stage.selection.described(),
        "depends_on": list(parents),
        "options": [stage.options.timeout, stage.options.retries],
        "gate": None if gate is None else [gate.timeout, gate.then],
        "abort_if": [rules.failed, rules.after, rules.no_progress, rules.budget_usd],
        "metrics": {
            name: [metric.direction, metric.unit, metric.key, metric.regex, metric.file]
            for name, metric in stage.metrics.items()
        },
        "seed": study_seed if stage.seed is None else stage.seed,
        "command": stage.command,
        "prune": stage.prune,
    }
    text = json.dumps(plain, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]


def codes_of(stages: Iterable[Stage]) -> dict[str, str]:
    """Return the fingerprint of each stage's functions, by the stage's name: 16 hexadecimal digits."""
    own = frozenset(own_loaded())
    return {stage.name: _code_of(stage, own) for stage in stages}


def _code_of(stage: Stage, own: frozenset[str]) -> str:
    functions: list[Any] = [stage.run, stage.abort_if.function]
    functions += [metric.function for metric in stage.metrics.values()]
    if isinstance(stage.selection, Where):
        functions.append(stage.selection.predicate)
    if isinstance(stage.selection, By):
        functions.append(stage.selection.function)
    digest = hashlib.sha256()
    for word in _Walk(own).words([one for one in functions if one is not None]):
        digest.update(word.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()[:_DIGITS]


def _plain(case: Any) -> Any:
    import json

    try:
        json.dumps(case, sort_keys=True)
    except (TypeError, ValueError):
        return hashlib.sha256(pickling.dumps(case)).hexdigest()
    return case


class _Walk:
    """Goes through the objects that a function refers to. Each is described once."""

    def __init__(self, own: frozenset[str]) -> None:
        self._seen: dict[int, Any] = {}  # keeps them, so that no other object gets their ids
        self._own = own

    def words(self, functions: list[Any]) -> Iterator[str]:
        for function in functions:
            yield from self._of(function)

    def _of(self, value: Any) -> Iterator[str]:
        if isinstance(value, (str, bytes, int, float, complex, bool, type(None))):
            yield repr(value)
            return
        if id(value) in self._seen or len(self._seen) > _MOST:
            yield "again"
            return
        self._seen[id(value)] = value
        if isinstance(value, functools.partial):
            yield from self._of(value.func)
            yield from self._of(value.args)
            yield from self._of(value.keywords)
        elif isinstance(value, MethodType):
            yield from self._of(value.__func__)
            yield from self._of(value.__self__)
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, ModuleType):
            yield from self._module(value)
        elif isinstance(value, (tuple, list)):
            for one in value:
                yield from self._of(one)
        elif isinstance(value, (set, frozenset)):
            yield from sorted("".join(self._of(one)) for one in value)
        elif isinstance(value, Mapping):
            for key, one in sorted(value.items(), key=lambda item: repr(item[0])):
                yield repr(key)
                yield from self._of(one)
        elif (wrapped := getattr(value, "__wrapped__", None)) is not None:
            yield from self._of(wrapped)
        else:
            yield from self._object(value)

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield function.__qualname__
        if not self._is_own(function.__module__):
            yield function.__module__ or ""
            return
        yield from self._code(function.__code__, function.__doc__)
        yield from self._of(function.__defaults__)
        yield from self._of(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                yield from self._of(cell.cell_contents)
            except ValueError:  # the cell is empty
                yield "empty"
        namespace = function.__globals__
        for name in _names(function.__code__):
            if name in namespace:
                yield name
                yield from self._of(namespace[name])

    def _code(self, code: CodeType, doc: str | None = None) -> Iterator[str]:
        yield code.co_code.hex()
        yield " ".join(code.co_names + code.co_varnames + code.co_freevars)
        for number, constant in enumerate(code.co_consts):
            if number == 0 and constant == doc:
                continue
            if isinstance(constant, CodeType):
                yield from self._code(constant)
            else:
                yield repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)

    def _class(self, kind: type) -> Iterator[str]:
        yield f"{kind.__module__}.{kind.__qualname__}" if not self._is_own(kind.__module__) else kind.__qualname__
        if not self._is_own(kind.__module__):
            return
        for base in kind.__bases__:
            yield from self._of(base)
        for name, attribute in sorted(vars(kind).items()):
            if name in ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"):
                continue
            yield name
            inner = attribute.__func__ if isinstance(attribute, (staticmethod, classmethod)) else attribute
            yield from self._of(inner.fget if isinstance(inner, property) else inner)

    def _module(self, module: ModuleType) -> Iterator[str]:
        yield module.__name__
        file = getattr(module, "__file__", None)
        if self._is_own(module.__name__) and isinstance(file, str) and file.endswith(".py"):
            try:
                yield hashlib.sha256(Path(file).read_bytes()).hexdigest()
            except OSError:
                yield "gone"

    def _object(self, value: Any) -> Iterator[str]:
        kind = type(value)
        yield kind.__qualname__ if self._is_own(kind.__module__) else f"{kind.__module__}.{kind.__qualname__}"
        # Of an object of a library, such as a logger or a lock, the class counts alone: its state is none of the program's.
        if self._is_own(kind.__module__):
            yield from self._class(kind)
            state = getattr(value, "__dict__", None)
            if isinstance(state, dict):
                yield from self._of(state)

    def _is_own(self, module: str | None) -> bool:
        top = (module or "").partition(".")[0]
        return top in ("__main__", "__mp_main__") or top in self._own


def _names(code: CodeType) -> list[str]:
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(_names(constant)))
    return list(names)
