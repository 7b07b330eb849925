"""How objects are pickled: cloudpickle's pickler, with what this library adds to it. The only importer of cloudpickle.

    Pickler ──► a pickle ──► Unpickler, or `loads`
                   └── names the functions of `rebuilding.py`

Loading this module loads cloudpickle; `pickling.py` does so at its first use.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

import cloudpickle

from starburst_executor import source
from starburst_executor.protocol import rebuilding
from starburst_executor.protocol.pickling import PROTOCOL

__all__ = ["Pickler", "has_modules_by_value"]


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles functions, classes and modules by value where they cannot be found by name."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, PROTOCOL)
        # Code within code whose source went along; kept, so that no other object gets its id.
        self._covered: dict[int, CodeType] = {}

    def reducer_override(self, obj: Any) -> Any:
        """What stands for an object; NotImplemented to leave it to the standard library."""
        if type(obj) is CodeType:
            return self._code(obj)
        return super().reducer_override(obj)

    def _code(self, code: CodeType) -> tuple[Any, ...]:
        """With its file's name, which not every version of cloudpickle takes along, and its source."""
        make, fields = self.dispatch_table[CodeType](code)
        lines = "" if id(code) in self._covered else source.source_of(code)
        self._covered.update((id(inner), inner) for inner in source.nested(code))
        # One object for each name, whichever code has it: so equal functions have equal pickles.
        return rebuilding.make_code, (make, fields, sys.intern(code.co_filename), lines)


def has_modules_by_value() -> bool:
    """Whether modules are registered with cloudpickle to travel by value, so that a name alone says nothing."""
    return bool(cloudpickle.list_registry_pickle_by_value())
