"""The names of a session's functions, found in their pickles without unpickling anything: no code runs."""

from __future__ import annotations

import pickletools
from collections.abc import Iterable

from starburst_executor.errors import ObjectNotFound, PayloadError, RecordInvalid
from starburst_executor.protocol import calls
from starburst_executor.session.store import SessionStore

__all__ = ["name_in", "names_of"]

# What a pickle calls to make a function, before it names what it is made of.
_HELPERS = ("cloudpickle.cloudpickle", "functools")
_MOST_OPERATIONS = 20_000


def names_of(session: SessionStore, digests: Iterable[str]) -> dict[str, str]:
    """Return names by digest; the beginning of the digest where no name is found, or there is no key. Store: 1 GET each."""
    names = {}
    for digest in digests:
        name = None
        if session.sealer.has_key:
            try:
                body = session.store.get(session.keys.function(digest)).body
                name = name_in(bytes(session.sealer.open_sealed("function", digest, body)))
            except (ObjectNotFound, PayloadError, RecordInvalid):
                name = None
        names[digest] = name or digest[:8]
    return names


def name_in(function: bytes) -> str | None:
    """Return the qualified name in a stored function: `module.name`, or the name alone if it was pickled by value."""
    texts: list[str] = []
    memo: list[str | None] = []
    last: str | None = None
    is_by_value = False
    try:
        for i, (operation, argument, _) in enumerate(pickletools.genops(calls.function_stream(function))):
            kind = operation.name
            if kind in ("SHORT_BINUNICODE", "BINUNICODE"):
                last = str(argument)
                texts.append(last)
            elif kind in ("BINGET", "LONG_BINGET"):
                last = memo[int(argument)] if argument is not None and int(argument) < len(memo) else None
                if last is not None:
                    texts.append(last)
            elif kind == "MEMOIZE":
                memo.append(last)
            elif kind == "STACK_GLOBAL" and not is_by_value:
                module, name = texts[-2:]
                if module not in _HELPERS:
                    return f"{module}.{name}".removeprefix("builtins.")
                is_by_value = name == "_make_function"
                last = None
            elif kind not in ("PROTO", "FRAME"):
                last = None
            if len(texts) > 1 and texts[-2] == "__qualname__":
                return texts[-1]
            if i > _MOST_OPERATIONS:
                break
    except (ValueError, IndexError):
        pass
    return None
