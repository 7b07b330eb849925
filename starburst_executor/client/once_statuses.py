"""Makes the status objects of an entry in the log of keys. They follow from the entry and its calls, so any client makes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from starburst_executor.client.once_calls import LEAST_INLINE_BYTES
from starburst_executor.protocol import pieces
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.labels import packed_labels
from starburst_executor.protocol.pieces import Piece, Result
from starburst_executor.protocol.records import OnceEntry
from starburst_executor.protocol.spans import after, blocks
from starburst_executor.protocol.spans.after import AFTER, Upstream
from starburst_executor.protocol.spans.record import BLOCKED, Span, State, Status
from starburst_executor.session.store import SessionStore

__all__ = ["status_of"]


def status_of(
    session: SessionStore,
    entry: OnceEntry,
    ref: StatusRef,
    records: Sequence[bytes],
    places: Sequence[tuple[int, int]],
) -> Status:
    """Return a new status object of an entry.

    Args:
        records: The records of all calls of the entry.
        places: Where each of them is among the stored ones: start and length.
    """
    sealer, first = session.sealer, ref.first - entry.first
    called: dict[int, bytes] = {}
    waits: dict[int, tuple[Upstream, ...]] = {}
    for position in range(first, first + ref.n_tasks):
        record = records[position]
        if len(record) > LEAST_INLINE_BYTES and pieces.decode(record) is None:
            start, length = places[position]
            place = Piece(pieces.name_of(sealer, record), entry.calls_id, entry.start + start, length)
            record = pieces.encode([place])
        called[position - first] = record
        if upstream := _upstream_in(session, record):
            waits[position - first] = upstream
    calls = blocks.inline_calls(sealer, ref.ordinal, ref.first, entry.function, called)
    now = session.clock.now()
    labels = entry.label_texts()[first : first + ref.n_tasks]
    return Status(
        *(
            ref.ordinal,
            ref.first,
            (entry.function,),
            tuple(_spans(ref.n_tasks, waits, options=1 if entry.options else 0)),
            calls,
        ),
        submitted_at=now,
        options=(entry.options,) if entry.options else (),
        more={**packed_labels(labels), **({AFTER: after.encoded(waits)} if waits else {})} or None,
    )


def _upstream_in(session: SessionStore, record: bytes) -> tuple[Upstream, ...]:
    """Return the tasks whose results a call needs, as its record names them."""
    keys = session.keys
    upstream = []
    for part in pieces.decode(record) or ():
        if isinstance(part, Result):
            ref = keys.parse_status(keys.statuses + part.place)
            upstream.append(Upstream("", 0) if ref is None else Upstream(part.place, part.sequence - ref.first))
    return tuple(upstream)


def _spans(n_tasks: int, waits: Mapping[int, object], *, options: int) -> Iterator[Span]:
    """Yield the spans of new tasks, of which those wait for others."""
    for waiting, positions in groupby(range(n_tasks), waits.__contains__):
        yield Span(len(list(positions)), BLOCKED if waiting else State.PENDING, options=options)
