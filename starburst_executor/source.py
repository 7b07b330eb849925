"""The source lines of code that travels by value: taken along by its pickle, put where tracebacks look for them.

    client: linecache (files, notebook cells, the interactive prompt) ──source_of──► pickle of the code
    runner: pickle of the code ──register──► linecache ──► traceback, warnings, pdb, inspect

A file of that name may be missing where the code runs, or be another one. So what was sent is believed rather than what
lies there.
"""

from __future__ import annotations

import linecache
import sys
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType

__all__ = ["nested", "register", "source_of"]

# More source than this for one function is generated, and of no use to a reader.
_MOST_CHARS = 100_000
# What line numbers are believed: more lines than any file has that somebody wrote.
_MOST_LINES = 1_000_000
# File names whose lines are kept, the newest ones: each cell of a notebook is one.
_MOST_FILES = 1_000

_registered: OrderedDict[str, None] = OrderedDict()


def nested(code: CodeType) -> Iterator[CodeType]:
    """The code objects within a code object, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from nested(constant)


def source_of(code: CodeType) -> str:
    """The source lines of this code and of all that is nested in it; empty if they are not known here."""
    return _source_of(code, code.co_filename)


# Code objects that differ in nothing but their file are equal.
@lru_cache(maxsize=512)
def _source_of(code: CodeType, filename: str) -> str:
    lines = linecache.getlines(filename, _globals_of(filename))
    source = "".join(lines[code.co_firstlineno - 1 : max(map(_last_line, (code, *nested(code))))])
    return source if len(source) <= _MOST_CHARS else ""


def _globals_of(filename: str) -> dict[str, object] | None:
    """What finds the source of a program in an archive, which is no file."""
    main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    return main if main.get("__file__") == filename else None


def _last_line(code: CodeType) -> int:
    lines = [line for _, _, line in code.co_lines() if line is not None]
    if sys.version_info >= (3, 11):
        lines += [end for _, end, _, _ in code.co_positions() if end is not None]
    return max(lines, default=code.co_firstlineno)


def register(filename: str, first_line: int, source: str, *, is_believed: bool) -> None:
    """Let tracebacks find these lines of a file.

    Args:
        is_believed: Rather than what is known of the file here; otherwise only where nothing is known of it.
    """
    sent = source.splitlines(keepends=True)
    until = first_line - 1 + len(sent)
    known = linecache.getlines(filename)
    if not 1 <= first_line <= _MOST_LINES or known[first_line - 1 : until] == sent:
        return
    if known and not is_believed and filename not in _registered:
        return
    lines = [*known, *["\n"] * (until - len(known))]
    lines[first_line - 1 : until] = sent
    # Without a time of change, so that nobody looks whether the file has another one.
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
    _registered[filename] = None
    _registered.move_to_end(filename)
    if len(_registered) > _MOST_FILES:
        linecache.cache.pop(_registered.popitem(last=False)[0], None)
