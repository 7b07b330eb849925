"""The bytes of a status object, format 3: one msgpack map, whose length tells its size class and how many tasks are pending.

Claim ids stand in a table; spans and blocks have their numbers in it. See `docs/design/0011-spans.md`.

Guarantee: decoding never runs code and, for any bytes, raises only `RecordInvalid` or `VersionMismatch`. The number of tasks is
checked before anything is made for each.
"""

from __future__ import annotations

from typing import Any

import msgpack

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol.spans.after import AFTER
from starburst_executor.protocol.spans.record import (
    BLOCK_TASKS,
    BLOCKED,
    ENDED,
    MAX_TASKS,
    CallBlock,
    Located,
    OutcomeBlock,
    Place,
    SizeClass,
    Span,
    State,
    Status,
)

__all__ = ["BLOCKED_ORDER", "FORMAT", "decode", "encode", "pending_order", "size_class"]

FORMAT = 3
# The format of an object with tasks that wait for others, which a version without them must refuse.
_FORMAT_AFTER = 4
# In place of `pending_order` if no task is pending and some are claimed, and some are blocked: there are never that many pending tasks.
BLOCKED_ORDER = 7
_PENDING, _CLAIMED, _CANCELLED = int(State.PENDING), int(State.CLAIMED), int(State.CANCELLED)
_SPAN_STATES = frozenset({_PENDING, _CLAIMED, ENDED, _CANCELLED, BLOCKED})
_PAD = 64
_FIELDS = ("ordinal", "first", "functions", "claims", "spans", "calls", "outcomes", "submitted_at", "options", "more")


def size_class(status: Status) -> SizeClass:
    """Return the size class of an object."""
    states = {span.state for span in status.spans}
    if _PENDING in states:
        return SizeClass.ALL_PENDING if len(states) == 1 else SizeClass.SOME_PENDING
    if _CLAIMED in states:
        return SizeClass.SOME_CLAIMED
    if BLOCKED in states:
        return SizeClass.BLOCKED
    return SizeClass.ALL_COMPLETED if states == {ENDED} and not status.failed() else SizeClass.ALL_ENDED


def pending_order(status: Status) -> int:
    """Return 0 if no task is pending, otherwise 1 plus the logarithm to base 4 of their number, rounded down.

    7 if none is pending and some are claimed while others are blocked.
    """
    n_pending = sum(span.n for span in status.spans if span.state == _PENDING)
    if not n_pending and {BLOCKED, _CLAIMED} <= {span.state for span in status.spans}:
        return BLOCKED_ORDER
    return (n_pending.bit_length() + 1) // 2


def encode(status: Status, nonce: str) -> bytes:
    """Return the bytes to store. `nonce` must be fresh for every write.

    They are padded: `size % 8` is the size class, `(size // 8) % 8` is `pending_order`.
    """
    claims: dict[str, int] = {"": 0}
    number = claims.setdefault
    spans = [
        (n, state, run, attempt, failures, losses, together, number(cohort, len(claims)), refusals,
         number(claim, len(claims)), function, options, at)
        for n, state, run, attempt, failures, losses, together, cohort, refusals, claim, function, options, at
        in status.spans
    ]  # fmt: skip
    outcomes = [
        (
            first,
            n,
            run,
            attempt,
            number(claim, len(claims)),
            _place(place, claim),
            failed,
            failures,
            seconds,
            logs,
            more,
        )
        for first, n, run, attempt, claim, place, failed, failures, seconds, logs, more in status.outcomes
    ]
    calls = [(first, n, function, _call_place(place), more) for first, n, function, place, more in status.calls]
    record = {
        "format": _FORMAT_AFTER if status.more is not None and AFTER in status.more else FORMAT,
        "nonce": nonce,
        "ordinal": status.ordinal,
        "first": status.first,
        "functions": status.functions,
        "claims": tuple(claims),
        "spans": spans,
        "calls": calls,
        "outcomes": outcomes,
        "submitted_at": status.submitted_at,
        "options": status.options,
        "more": status.more,
        "pad": b"",
    }
    packed: bytes = msgpack.packb(record)
    n_pad = (size_class(status) + 8 * pending_order(status) - len(packed)) % _PAD
    # The pad is the last field, and an empty pad ends with its length byte, so that it can be extended in place.
    return packed[:-1] + bytes([n_pad]) + b"\0" * n_pad


def decode(body: bytes) -> Status:
    """Decode a status object. Raises: RecordInvalid, VersionMismatch."""
    try:
        record = msgpack.unpackb(body, use_list=False)
        if record["format"] not in (FORMAT, _FORMAT_AFTER):
            raise VersionMismatch(
                f"a status object of a format that this version does not support: format={record['format']!r}, known={FORMAT}, {_FORMAT_AFTER}; "
                "use the version of starburst_executor that wrote it"
            )
        ordinal, first, functions, claims, spans, calls, outcomes, submitted_at, options, more = (
            record[name] for name in _FIELDS
        )
        n_tasks = _checked_sizes(spans, calls, outcomes)
        claims = tuple(_checked(claim, str) for claim in claims)
        functions = tuple(_checked(digest, str) for digest in functions)
        _checked(options, tuple)
        return Status(
            _checked(ordinal, int),
            _checked(first, int),
            functions,
            tuple(_span(raw, claims, len(functions), len(options)) for raw in spans),
            tuple(_call_block(raw, n_tasks, len(functions)) for raw in calls),
            tuple(_outcome_block(raw, n_tasks, claims) for raw in outcomes),
            _checked(submitted_at, float),
            tuple(_checked(one, bytes) for one in options),
            _more(more),
        )
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"not a status object: {type(error).__name__}, bytes={len(body)}") from error


# --- places -----------------------------------------------------------------------------------------------------------


def _call_place(place: Place) -> object:
    return place if type(place) is bytes else (place[1], place[2])


def _place(place: Place, claim: str) -> object:
    """Return an outcome's place; its part is stored as a number, because a claim's parts have its id."""
    if type(place) is bytes:
        return place
    part, start, length = place
    return _part_number(str(part), claim), start, length


def _part_number(part: str, claim: str) -> int:
    owner, _, number = part.rpartition("-")
    if owner != claim:
        raise ValueError(f"a part of another claim: {part}, {claim}")
    return int(number)


# --- checks -----------------------------------------------------------------------------------------------------------


def _checked_sizes(spans: Any, calls: Any, outcomes: Any) -> int:
    """Return the number of tasks. Raises: RecordInvalid: there are none, too many, or more blocks than tasks."""
    n_tasks: int = sum(_checked(raw[0], int) for raw in _checked(spans, tuple))
    if not 1 <= n_tasks <= MAX_TASKS:
        raise RecordInvalid(f"an inconsistent status object: tasks={n_tasks}")
    if max(len(_checked(calls, tuple)), len(_checked(outcomes, tuple))) > n_tasks:
        raise RecordInvalid(f"an inconsistent status object: more blocks than tasks={n_tasks}")
    return n_tasks


def _span(raw: tuple[Any, ...], claims: tuple[str, ...], n_functions: int, n_options: int) -> Span:
    n, state, run, attempt, failures, losses, together, cohort, refusals, claim, function, options, at = raw
    for count in raw[:-1]:
        if type(count) is not int or count < 0:
            raise ValueError(count)
    if n < 1 or state not in _SPAN_STATES or function >= n_functions or options > n_options or type(at) is not float:
        raise ValueError(raw)
    return Span(
        n,
        state,
        run,
        attempt,
        failures,
        losses,
        together,
        claims[cohort],
        refusals,
        claims[claim],
        function,
        options,
        at,
    )


def _call_block(raw: tuple[Any, ...], n_tasks: int, n_functions: int) -> CallBlock:
    first, n, function, place, more = raw
    _check_range(first, n, n_tasks)
    if _checked(function, int) >= n_functions:
        raise ValueError(function)
    if type(place) is not bytes:
        start, length = place
        place = Located("", _checked(start, int), _checked(length, int))
    return CallBlock(first, n, function, place, _more(more))


def _outcome_block(raw: tuple[Any, ...], n_tasks: int, claims: tuple[str, ...]) -> OutcomeBlock:
    first, n, run, attempt, number, place, failed, failures, seconds, logs, more = raw
    _check_range(first, n, n_tasks)
    claim = claims[_checked(number, int)]
    if type(place) is not bytes:
        part, start, length = place
        place = Located(f"{claim}-{_checked(part, int)}", _checked(start, int), _checked(length, int))
    if "/" in claim or len(_checked(seconds, bytes)) not in (0, 4 * n):
        raise ValueError(claim)
    _check_offsets(_checked(failed, tuple), n)
    _check_offsets([offset for offset, _ in _checked(failures, tuple)], n)
    _check_offsets([offset for offset, _, _, _ in _checked(logs, tuple)], n)
    for numbers in (*failures, *logs):
        for value in numbers:
            _checked(value, int)
    return OutcomeBlock(
        first, n, _checked(run, int), _checked(attempt, int), claim, place, failed, failures, seconds, logs, _more(more)
    )


def _check_range(first: object, n: object, n_tasks: int) -> None:
    if not 1 <= _checked(n, int) <= BLOCK_TASKS or _checked(first, int) + _checked(n, int) > n_tasks:
        raise ValueError(first, n)


def _check_offsets(offsets: Any, n: int) -> None:
    last = -1
    for offset in offsets:
        if not last < _checked(offset, int) < n:
            raise ValueError(offset)
        last = offset


def _more(value: object) -> Any:
    if value is not None and (type(value) is not dict or not all(type(name) is str for name in value)):
        raise ValueError(value)
    return value


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind or (type(value) is int and value < 0):
        raise ValueError(value)
    return value
