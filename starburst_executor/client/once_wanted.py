"""The calls that a client wants to have submitted once: with their keys, labels and texts."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from starburst_executor.client.functions import Prepared
from starburst_executor.client.task_options import NO_OPTIONS, CallOptions
from starburst_executor.protocol.content import short_text
from starburst_executor.protocol.keys import StatusRef

__all__ = ["Call", "Wanted", "call_text", "placing"]


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True)
class Wanted:
    """What a caller wants to have submitted.

    Attributes:
        keys: The digest of each call's key, in the order of the calls.
        given: The keys themselves; None if the arguments are the keys.
        arguments: The digest of function and arguments of each call.
        firsts: By key, the index of its first call.
        options: The options of new tasks.
        label_texts: The label of each call; empty if none has one.
    """

    function: Callable[..., Any]
    prepared: Prepared
    calls: Sequence[Call]
    given: Sequence[object] | None
    keys: list[bytes] = field(default_factory=list)
    arguments: list[bytes] = field(default_factory=list)
    firsts: dict[bytes, int] = field(default_factory=dict)
    options: CallOptions = NO_OPTIONS
    label_texts: Sequence[str] = ()

    def labels(self, keys: Iterable[bytes]) -> bytes:
        """Return the labels of the calls of these keys, as an entry stores them."""
        if not self.label_texts:
            return b""
        return zlib.compress(msgpack.packb([self.label_texts[self.firsts[key]] for key in keys]))

    def texts(self, keys: Iterable[bytes]) -> bytes:
        """Return these keys and their calls as short texts, as an entry stores them; empty if the arguments are the keys."""
        if self.given is None:
            return b""
        indices = [self.firsts[key] for key in keys]
        texts = [(short_text(self.given[i]), call_text(self.calls[i])) for i in indices]
        packed: bytes = msgpack.packb(texts, unicode_errors="surrogatepass")
        return zlib.compress(packed, 1)


def placing(options: CallOptions) -> StatusRef:
    """Return what the keys of the status objects of such tasks say of them; their numbers are the log's."""
    own = options.options
    limit = "" if own.limit is None else own.limit.name
    return StatusRef(0, 0, 1, 0, priority=own.priority or 0, limit=limit, resources=options.resources)


def call_text(call: Call) -> str:
    """Return the arguments of a call as a short text, for messages."""
    parts = [short_text(arg) for arg in call.args] + [f"{name}={short_text(arg)}" for name, arg in call.kwargs.items()]
    return f"({', '.join(parts[:8])}{', …' if len(parts) > 8 else ''})"  # noqa: PLR2004 - as many as fit into a line
