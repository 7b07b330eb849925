"""Status objects for tests: pending tasks, ends of tasks, and changes of single ones that no transition makes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.record import OutcomeBlock, Place, Span, State, Status, ranges_of
from starburst_executor.session.store import SessionStore

__all__ = ["end", "ended", "ends", "outcome_of", "pending", "with_call", "with_failed", "with_outcome", "with_spans"]


def pending(
    sealer: Sealer, pickles: Sequence[bytes], *, ordinal: int = 0, first: int = 0, digest: str = "f" * 32
) -> Status:
    """Tasks of one function as a client creates them, with inline calls."""
    calls = blocks.inline_calls(sealer, ordinal, first, digest, dict(enumerate(pickles)))
    return Status(ordinal, first, (digest,), (Span(len(pickles)),), calls)


def ends(
    sealer: Sealer,
    current: Status,
    positions: Iterable[int],
    body: bytes,
    *,
    failed: bool = False,
    seconds: float = 0.01,
) -> list[OutcomeBlock]:
    """The outcomes of claimed tasks, all with this body."""
    found = []
    marks = {i: (span.run, span.attempt, span.claim) for i in positions for span in [current.span(i)]}
    for block in blocks.cut((i, mark, len(body)) for i, mark in sorted(marks.items())):
        mark, n = marks[block[0]], len(block)
        parts = blocks.sealed_outcomes(sealer, current.ordinal, current.first + block[0], mark, [body] * n)
        which = tuple(range(n)) if failed else ()
        durations = array("f", [seconds] * n).tobytes()
        found.append(OutcomeBlock(block[0], n, *mark, b"".join(parts), which, seconds=durations))
    return found


def ended(sealer: Sealer, current: Status, claim_id: str, body: bytes, now: float, *, failed: bool = False) -> Status:
    """The status after a claim's worker has ended all its tasks, all with this outcome."""
    held = ends(sealer, current, current.under(claim_id), body, failed=failed)
    return transitions.commit(current, claim_id, held, now)[0]


def end(
    sealer: Sealer, current: Status, claim_id: str, positions: Iterable[int], body: bytes, *, failed: bool = False
) -> Status:
    """The status after a claim's worker has ended some of its tasks, all with this outcome."""
    return transitions.commit(current, claim_id, ends(sealer, current, positions, body, failed=failed), 3.0)[0]


def with_spans(current: Status, positions: Iterable[int], **changes: Any) -> Status:
    """The status with other fields of the spans of these tasks."""
    ranges = ranges_of(sorted(positions))
    return transitions._over(current, ranges, lambda span, _: span._replace(**changes))


def with_call(current: Status, position: int, place: Place) -> Status:
    """The status with another stored call of one task, and of those in its block."""
    block = current.entry(position).call
    assert block is not None
    found = tuple(other._replace(place=place) if other is block else other for other in current.calls)
    return replace(current, calls=found)


def with_failed(current: Status, n: int) -> Status:
    """The status with the first n tasks failed, without outcomes that could be read, and all others pending."""
    current = with_spans(current, range(current.n_tasks), state=State.PENDING, claim="", attempt=0)
    current = with_spans(current, range(n), state=State.COMPLETED, claim="w.1", attempt=1)
    found = [
        OutcomeBlock(b[0], len(b), 1, 1, "w.1", b"", tuple(range(len(b))))
        for b in blocks.cut((i, 0, 0) for i in range(n))
    ]
    return replace(current, outcomes=tuple(found))


def with_outcome(current: Status, position: int, place: Place) -> Status:
    """The status with another stored outcome of one task, and of those in its block."""
    block = current.entry(position).outcome
    assert block is not None
    found = tuple(other._replace(place=place) if other is block else other for other in current.outcomes)
    return replace(current, outcomes=found)


def outcome_of(session: SessionStore, key: str, current: Status, position: int) -> bytes:
    """The verified outcome of a task that has ended."""
    ref, block = session.keys.parse_status(key), current.entry(position).outcome
    assert ref is not None
    assert block is not None
    return bytes(session.payloads.outcomes(ref.status_id, current, block)[position - block.first])
