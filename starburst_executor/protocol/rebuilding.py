"""What pickles refer to by name, to be rebuilt from: functions of this module are part of what is stored.

`loads` rebuilds anywhere. In a runner an `Unpickler` of its own does: there, what was sent is believed rather than what
lies on that machine.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import CodeType
from typing import Any

from starburst_executor import source

__all__ = ["Unpickler", "make_code"]


def make_code(make: Callable[..., CodeType], fields: tuple[Any, ...], filename: str, lines: str) -> CodeType:
    """A code object with its file's name. Its lines are shown by tracebacks where the file is not known."""
    return _make_code(make, fields, filename, lines, is_believed=False)


def _make_code(
    make: Callable[..., CodeType], fields: tuple[Any, ...], filename: str, lines: str, *, is_believed: bool = True
) -> CodeType:
    code = make(*fields).replace(co_filename=filename)
    if lines:
        source.register(filename, code.co_firstlineno, lines, is_believed=is_believed)
    return code


class Unpickler(pickle.Unpickler):
    """Rebuilds what runs here and was made elsewhere."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names."""
        if module == __name__:
            return _HERE.get(name) or super().find_class(module, name)
        return super().find_class(module, name)


_HERE: dict[str, Callable[..., Any]] = {"make_code": _make_code}
