"""Source lines of code that is pickled by value: its pickle includes them, and a runner puts them into `linecache`.

    client: linecache (files, notebook cells, the interactive prompt) ──source_of──► pickle of the code
    runner: pickle of the code ──register──► linecache ──► traceback, warnings, pdb, inspect

On the machine that runs the code, the file of that name may be missing or different. So lines from the pickle take
precedence over the file.
"""

from __future__ import annotations

import dis
import linecache
import sys
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType

__all__ = ["nested", "register", "source_of", "used_globals"]

# Longer source of one function is assumed to be generated, and of no use to a reader.
_MOST_CHARS = 100_000
# Upper bound of plausible line numbers: more lines than any file written by hand has.
_MOST_LINES = 1_000_000
# Number of files whose lines are kept, newest first: each cell of a notebook is a file.
_MOST_FILES = 1_000

_registered: OrderedDict[str, None] = OrderedDict()


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield the code objects within a code object, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from nested(constant)


_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


@lru_cache(maxsize=10_000)
def used_globals(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals that a code loads, and the codes in it; no attributes and no local names, which may be called alike.

    A function that was stored by value has these globals alone, so it has the same names again when it is loaded.
    """
    used = [(step.opname, step.argval) for step in dis.get_instructions(code)]
    stored = {name for operation, name in used if operation == "STORE_NAME"}
    loaded = {name for operation, name in used if operation in _LOADS} - stored
    names = dict.fromkeys(name for name in code.co_names if name in loaded)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(used_globals(constant)))
    return tuple(names)


def source_of(code: CodeType) -> str:
    """Return the source lines of this code and of all code nested in it; empty if this process does not know them."""
    return _source_of(code, code.co_filename)


# The file's name is an argument because code objects that differ only in their file are equal.
@lru_cache(maxsize=512)
def _source_of(code: CodeType, filename: str) -> str:
    lines = linecache.getlines(filename, _globals_of(filename))
    source = "".join(lines[code.co_firstlineno - 1 : max(map(_last_line, (code, *nested(code))))])
    return source if len(source) <= _MOST_CHARS else ""


def _globals_of(filename: str) -> dict[str, object] | None:
    """Return the globals with the loader that finds a program's source in an archive; None for any other file."""
    main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    return main if main.get("__file__") == filename else None


def _last_line(code: CodeType) -> int:
    lines = [line for _, _, line in code.co_lines() if line is not None]
    if sys.version_info >= (3, 11):
        lines += [end for _, end, _, _ in code.co_positions() if end is not None]
    return max(lines, default=code.co_firstlineno)


def register(filename: str, first_line: int, source: str, *, is_believed: bool) -> None:
    """Make these lines of a file available to tracebacks.

    Args:
        is_believed: Whether the lines replace those known for the file; otherwise they are used only if none are known.
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
    # Without a modification time, so that `linecache.checkcache` does not compare it with a file's.
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
    _registered[filename] = None
    _registered.move_to_end(filename)
    if len(_registered) > _MOST_FILES:
        linecache.cache.pop(_registered.popitem(last=False)[0], None)
