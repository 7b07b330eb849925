"""Whether a function would still have the same pickle: everything that goes into it, as it was, compared by identity.

A submit asks this each time, so the answer takes few steps: for each function one comparison of each of its fields, and one of all
globals to which its code may refer. What is mutable, or of an unknown type, has no such facts, and its function is pickled each time.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Collection
from itertools import repeat
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from starburst_executor.protocol.pickling import modules_by_value
from starburst_executor.protocol.rebuilding import Assembled

__all__ = ["Facts", "facts_of"]

# Types of immutable objects that a function may name.
_CONSTANTS = frozenset({int, float, complex, bool, str, bytes, type(None)})
# A function that names more objects than this is pickled each time: comparing them all takes as long.
_MOST_PARTS = 100
_MISSING = object()


class _Fields(NamedTuple):
    """The fields of one function that go into a pickle, and the globals that its code may name."""

    function: Any  # a FunctionType, which type checkers would treat as a method
    code: CodeType
    module: str
    name: str
    defaults: tuple[Any, ...] | None
    annotations: tuple[Any, ...]
    namespace: dict[str, Any]
    names: tuple[str, ...]
    values: tuple[Any, ...]  # `_MISSING` for a name that is no global, such as that of an attribute


class Facts(NamedTuple):
    """What a function's pickle depends on: its own fields, and those of all functions that it names.

    Attributes:
        by_value: Returns the modules that are pickled by value; the pickle was made when there were none.
        n_modules: Importing a submodule of a package that a function names changes the pickle.
        modules: The modules that are named, by their names.
        named: If it is a function of a C module, which is pickled by its name: that.
    """

    function: object
    by_value: Callable[[], Collection[str]]
    n_modules: int
    fields: tuple[_Fields, ...]
    modules: tuple[tuple[str, ModuleType], ...]
    named: str = ""

    def hold(self) -> bool:
        """Return whether the function would have the same pickle now."""
        if len(sys.modules) != self.n_modules or self.by_value():
            return False
        for known, module in self.modules:
            if sys.modules.get(known) is not module:
                return False
        if self.named:
            return getattr(self.modules[0][1], self.named, None) is self.function
        for function, code, module_name, name, defaults, annotated, namespace, names, values in self.fields:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__name__ is not name
                or function.__module__ is not module_name
                or function.__kwdefaults__
                or function.__dict__
            ):
                return False
            found = function.__annotations__
            if len(found) != len(annotated) or (found and not all(map(operator.is_, found.values(), annotated))):
                return False
            if names and not all(map(operator.is_, map(namespace.get, names, repeat(_MISSING)), values)):
                return False
        return True


def facts_of(function: object) -> Facts | None:
    """Return what the pickle of a function depends on; None if a part of it is mutable or of an unknown type."""
    by_value = modules_by_value()
    n_modules = len(sys.modules)
    if by_value():
        return None
    if type(function) is BuiltinFunctionType:
        return _facts_of_builtin(function, by_value, n_modules)
    if type(function) not in (FunctionType, Assembled):
        return None
    todo: list[Any] = [function.shared if isinstance(function, Assembled) else function]
    fields: list[_Fields] = []
    modules: dict[str, ModuleType] = {}
    n_parts = 0
    while todo:
        part = todo.pop()
        n_parts += 1
        if n_parts > _MOST_PARTS:
            return None
        if type(part) is FunctionType:
            if any(part is known.function for known in fields):
                continue
            if part.__closure__ or part.__kwdefaults__ or part.__dict__:
                return None
            of_part = _fields(part)
            fields.append(of_part)
            todo += of_part.defaults or ()
            todo += of_part.annotations
            todo += (value for value in of_part.values if value is not _MISSING)
        elif isinstance(part, ModuleType) and sys.modules.get(part.__name__) is part:
            modules[part.__name__] = part
        elif type(part) not in _CONSTANTS and not _is_builtin(part):
            return None
    return Facts(function, by_value, n_modules, tuple(fields), tuple(modules.items()))


def _facts_of_builtin(
    function: BuiltinFunctionType, by_value: Callable[[], Collection[str]], n_modules: int
) -> Facts | None:
    module, name = function.__self__, function.__name__
    if type(module) is not ModuleType or getattr(module, name, None) is not function:
        return None  # a method, or not pickled by this name
    if function.__module__ != module.__name__ or sys.modules.get(module.__name__) is not module:
        return None
    return Facts(function, by_value, n_modules, (), ((module.__name__, module),), name)


def _fields(function: FunctionType) -> _Fields:
    namespace = function.__globals__
    names = _names(function.__code__)
    return _Fields(
        function,
        function.__code__,
        function.__module__,
        function.__name__,
        function.__defaults__,
        tuple(function.__annotations__.values()),
        namespace,
        names,
        tuple(namespace.get(name, _MISSING) for name in names),
    )


def _names(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals to which a function's code may refer, and those of attributes."""
    codes, names = [code], list[str]()
    while codes:
        code = codes.pop()
        names += code.co_names
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return tuple(dict.fromkeys(names))


def _is_builtin(part: object) -> bool:
    return type(part) in (type, BuiltinFunctionType) and part.__module__ == "builtins"
