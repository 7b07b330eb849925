"""The calls of a `map` whose arguments are plain values: sent by blocks, without futures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

from starburst_executor import tracing
from starburst_executor.client.functions import Prepared
from starburst_executor.client.map_results import Results
from starburst_executor.client.sending import Sending
from starburst_executor.client.task_options import CallOptions
from starburst_executor.protocol import calls

__all__ = ["PlainCalls"]

# Items of these types are at hand, so that gathering some of them keeps no task from starting. Any other iterable may wait
# between two items, perhaps for the first one's result.
_AT_HAND = frozenset({range, list, tuple, str, bytes, dict, set, frozenset})
_AT_ONCE = 512


class PlainCalls:
    """Sends the calls of one `map`: those with plain arguments by blocks, into rows of its source.

    Args:
        iterables: The items.
    """

    def __init__(
        self,
        sending: Sending,
        prepared: Prepared,
        options: CallOptions,
        source: Results[Any],
        iterables: Iterable[Iterable[Any]],
    ) -> None:
        self._sending = sending
        self._prepared = prepared
        self._options = options
        self._source = source
        self._at_once = _AT_ONCE if all(type(items) in _AT_HAND for items in iterables) else 1

    def send(self, items: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Send calls, and yield in between those that need a future, because an argument is no plain value or the call is traced.

        Assumes: the caller has sent such a call before it takes the next one.
        """
        while gathered := list(islice(items, self._at_once)):
            is_traced = tracing.active() is not None
            packed = [None if is_traced else calls.dump_plain(args, {}) for args in gathered]
            if None not in packed:
                self._send(cast("list[bytes]", packed))
                continue
            for args, call in zip(gathered, packed, strict=True):
                if call is None:
                    yield args
                else:
                    self._send([call])

    def _send(self, packed: list[bytes]) -> None:
        row = self._sending.submit_calls(self._prepared, packed, self._options, self._source)
        if row is not None:
            self._source.add_row(row)
