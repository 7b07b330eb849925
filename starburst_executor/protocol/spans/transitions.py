"""The legal transitions of a status object.

                create            claim                     commit, same claim only
      (client) ───────► PENDING ─────────► CLAIMED ──────────────────────► COMPLETED | FAILED ──► next run (retry)
                         │ │ ▲                │ │
            cancel       │ │ └────────────────┘ │   release · refuse · take_back
      CANCELLED ◄────────┘ └────────────────────┴─► CANCELLED: cancel, if its claim was named; end_rest
                                                    FAILED: end_rest; lost too often (take_back)

      (client) ──create, retry──► BLOCKED ──unblock──► PENDING        all tasks that it waits for have completed
                                     └────fail_blocked──► FAILED      one of them has failed or is cancelled; also cancel, end_rest

Every transition is a pure function from one `Status` to the next; it splits the spans that it touches in part, and joins
neighbours that have everything in common. The caller writes the result with a swap on the ETag of the first. A transition leaves
tasks unchanged that do not belong to it, so a stale caller changes nothing: then it returns the same object.

Callers use them as attributes of this module, where the simulation replaces them.

Guarantee: within a run a task that has ended never changes; `attempt` and `run` only grow. Blocks are never split: what was
sealed stays as it is until none of its tasks needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol.options import decoded
from starburst_executor.protocol.spans.after import upstream_of
from starburst_executor.protocol.spans.record import (
    BLOCK_TASKS,
    BLOCKED,
    ENDED,
    CallBlock,
    OutcomeBlock,
    Place,
    Span,
    State,
    Status,
    ranges_of,
)

__all__ = [
    "Outcome",
    "awaits_solo",
    "cancel",
    "claim",
    "commit",
    "end_rest",
    "fail_blocked",
    "has_blocked",
    "has_pending",
    "is_on_last_try",
    "release",
    "retry",
    "take_back",
    "unblock",
    "waits_until",
]

_PENDING, _CLAIMED, _CANCELLED = int(State.PENDING), int(State.CLAIMED), int(State.CANCELLED)
# A claim takes this part of the tasks that were lost together, so that few rounds find the one that is to blame.
_COHORT_PART = 16
_SKEW_S = 60.0
# The longest pause of a task without `backoff`. The timings of its session say how long it really is, which are not in this record.
_MOST_PAUSE_S = 3600.0

# Returns the sealed outcome of a block of tasks that fail: status, position of the first, their number, their span.
Outcome = Callable[[Status, int, int, Span], bytes]


# --- questions --------------------------------------------------------------------------------------------------------


def has_pending(status: Status, now: float | None = None) -> bool:
    """Return whether any task is pending; with a time, whether one may be claimed by then."""
    return any(
        span.state == _PENDING and (now is None or not span.at or waits_until(status, span, now) is None)
        for span in status.spans
    )


def waits_until(status: Status, span: Span, now: float) -> float | None:
    """Return the time before which pending tasks must not be claimed, because they wait for their backoff; None if they need not wait.

    A time that is more than a minute further away than the longest pause that they can have comes from a wrong clock, and is ignored.
    """
    if span.at <= now or span.state != _PENDING:
        return None
    try:
        backoff = decoded(status.options_of(span)).backoff
    except (RecordInvalid, VersionMismatch):
        return None
    most_s = _MOST_PAUSE_S if backoff is None else backoff.most
    return span.at if span.at <= now + most_s + _SKEW_S else None


def has_blocked(status: Status) -> bool:
    """Return whether any task waits for another."""
    return any(span.state == BLOCKED for span in status.spans)


def is_on_last_try(span: Span, max_losses: int) -> bool:
    """Return whether these tasks have lost workers and the next loss fails them: each must have its worker to itself.

    Tasks that have lost no worker are not suspect, even if the first loss fails them (`max_losses` of 1).
    """
    return span.losses > 0 and span.losses >= max_losses - 1


def awaits_solo(status: Status, max_losses: int) -> bool:
    """Return whether a pending task waits for a worker without other tasks."""
    return any(span.state == _PENDING and is_on_last_try(span, max_losses) for span in status.spans)


# --- transitions ------------------------------------------------------------------------------------------------------


def claim(
    status: Status,
    claim_id: str,
    *,
    at_most: int,
    now: float,
    max_losses: int,
    alone: bool = False,
    ahead: bool = False,
) -> tuple[Status, list[int]]:
    """Give up to `at_most` pending tasks, in order, to a claim; return the new status and the claimed positions, maybe none.

    All are of the function of the first. Tasks that have lost a worker are claimed without others, only of one cohort and a
    sixteenth of it, so that a task that kills its worker affects few others, and never while another slice of the same slot
    runs (`ahead`). On its last try only a worker without other tasks may claim a task (`alone`).
    """
    ranges: list[tuple[int, int]] = []
    left = at_most
    kind = None
    for start, span in status.placed() if at_most > 0 else ():
        if span.state != _PENDING or (ahead and span.is_suspect) or waits_until(status, span, now):
            continue
        is_last = is_on_last_try(span, max_losses)
        if (is_last and not alone) or (kind is not None and kind != (span.function, span.options)):
            continue
        if span.is_suspect:
            if not ranges:
                n = 1 if is_last else min(left, span.n, max(1, span.together // _COHORT_PART))
                ranges.append((start, start + n))
            break
        kind = (span.function, span.options)
        n = min(left, span.n)
        ranges.append((start, start + n))
        left -= n
        if not left:
            break

    def claimed(span: Span, _: int) -> Span:
        return span._replace(state=_CLAIMED, attempt=span.attempt + 1, claim=claim_id, at=now)

    return _over(status, ranges, claimed), [i for start, end in ranges for i in range(start, end)]


def commit(
    status: Status,
    claim_id: str,
    ended: Sequence[OutcomeBlock],
    now: float,
    *,
    failures: Mapping[int, int] | None = None,
) -> tuple[Status, list[int]]:
    """End tasks of a claim; return the new status and the positions of those that were still under the claim.

    The caller must drop the outcomes of the other tasks.

    Args:
        ended: Blocks of outcomes, each of one run and attempt under this claim.
        failures: Failed attempts so far of tasks that stay under the claim to be tried again. If this worker dies, the
            worker that claims them next continues the count.
    """
    committed: list[int] = []
    added: list[OutcomeBlock] = []
    changed = status

    def end(span: Span, start: int, stop: int) -> Span:
        if span.state != _CLAIMED or span.claim != claim_id or (span.run, span.attempt) != mark:
            return span
        committed.extend(range(start, stop))
        return span._replace(state=ENDED, failures=0, at=now)

    for block in ended:
        mark, n_before = (block.run, block.attempt), len(committed)
        changed = _over_parts(changed, [(block.first, block.first + block.n)], end)
        if len(committed) > n_before:
            added.append(block)
    changed = _with_failures(changed, claim_id, failures)
    if added:
        changed = replace(changed, outcomes=(*changed.outcomes, *added))
        changed = replace(changed, calls=tuple(_needed_calls(changed)))
    return changed, committed


def release(
    status: Status,
    claim_id: str,
    positions: Iterable[int],
    *,
    refused: bool = False,
    failures: Mapping[int, int] | None = None,
    not_before: Mapping[int, float] | None = None,
) -> Status:
    """Make tasks of a claim pending again, without counting a loss.

    Args:
        refused: Whether to count a refusal for each task.
        failures: Failed attempts so far of tasks that failed under this claim; their next claim continues the count.
        not_before: When some of them may be claimed again, UTC epoch seconds: they wait for their backoff.
    """

    def released(span: Span, _: int) -> Span:
        if span.state != _CLAIMED or span.claim != claim_id:
            return span
        return span._replace(state=_PENDING, claim="", refusals=span.refusals + refused, at=0.0)

    ordered = sorted(set(positions))
    wanted = set(ordered)
    counted = {i: n for i, n in (failures or {}).items() if i in wanted}
    changed = _over(_with_failures(status, claim_id, counted), ranges_of(ordered), released)
    for position, at in (not_before or {}).items():
        if position in wanted and changed.span(position).state == _PENDING and not changed.span(position).at:
            changed = _over(changed, [(position, position + 1)], lambda span, _, at=at: span._replace(at=at))  # type: ignore[misc]  # a default, not an argument
    return changed


def take_back(
    status: Status, claim_ids: Collection[str], *, lost: bool, max_losses: int, now: float, outcome: Outcome
) -> Status:
    """Take tasks from claims whose worker is lost (counting a loss) or no longer names them (no loss).

    Tasks that were lost together become a cohort. Only a task that was lost alone can fail of `max_losses` losses, with `outcome`.
    If `max_losses` is more than 1, it had its last worker to itself.
    """
    for claim_id in sorted(claim_ids):
        status = _taken_back(status, claim_id, lost=lost, max_losses=max_losses, now=now, outcome=outcome)
    return status


def _taken_back(status: Status, claim_id: str, *, lost: bool, max_losses: int, now: float, outcome: Outcome) -> Status:
    ranges = [
        (start, start + span.n) for start, span in status.placed() if span.state == _CLAIMED and span.claim == claim_id
    ]
    n_together = sum(end - start for start, end in ranges)
    added: list[OutcomeBlock] = []

    def taken(span: Span, start: int) -> Span:
        if not lost:
            return span._replace(state=_PENDING, claim="", at=0.0)
        if n_together > 1:
            losses = max(0, min(span.losses + 1, max_losses - 2))
            return span._replace(state=_PENDING, claim="", at=0.0, losses=losses, together=n_together, cohort=claim_id)
        losses = span.losses + 1
        if losses < max_losses:
            return span._replace(state=_PENDING, claim="", at=0.0, losses=losses, together=1, cohort=claim_id)
        added.append(_failed_block(status, start, 1, span, outcome))
        return span._replace(state=ENDED, losses=losses, failures=0, at=now)

    changed = _over(status, ranges, taken)
    return replace(changed, outcomes=(*changed.outcomes, *added)) if added else changed


def cancel(
    status: Status, positions: Iterable[int], now: float, *, claims: Collection[str] = ()
) -> tuple[Status, list[int]]:
    """Cancel the tasks among these that are pending, blocked or held by one of `claims`; return the new status and their positions."""
    cancelled: list[int] = []

    def step(span: Span, start: int, stop: int) -> Span:
        if not span.is_waiting and not (span.state == _CLAIMED and span.claim in claims):
            return span
        cancelled.extend(range(start, stop))
        return span._replace(state=_CANCELLED, at=now)

    return _over_parts(status, ranges_of(sorted(set(positions))), step), cancelled


def end_rest(status: Status, now: float, outcome: Outcome | None, *, pending_only: bool = False) -> Status:
    """End the remaining tasks of a session that is over: cancelled, or failed with `outcome`."""
    added: list[OutcomeBlock] = []
    whole = [(0, status.n_tasks)]

    def end(span: Span, start: int, stop: int) -> Span:
        if span.has_ended or (pending_only and not span.is_waiting):
            return span
        if outcome is None:
            return span._replace(state=_CANCELLED, at=now)
        added.extend(
            _failed_block(status, first, min(BLOCK_TASKS, stop - first), span, outcome)
            for first in range(start, stop, BLOCK_TASKS)
        )
        return span._replace(state=ENDED, failures=0, at=now)

    changed = _over_parts(status, whole, end)
    return replace(changed, outcomes=(*changed.outcomes, *added)) if added else changed


def unblock(status: Status, positions: Iterable[int]) -> Status:
    """Make the blocked tasks among these pending: all tasks for which they wait have completed."""

    def step(span: Span, _: int) -> Span:
        return span._replace(state=_PENDING) if span.state == BLOCKED else span

    return _over(status, ranges_of(sorted(set(positions))), step)


def fail_blocked(status: Status, positions: Iterable[int], now: float, outcome: Outcome) -> Status:
    """Fail the blocked tasks among these, each with an outcome of its own: a task for which it waits has failed or is cancelled."""
    added: list[OutcomeBlock] = []

    def step(span: Span, start: int, stop: int) -> Span:
        if span.state != BLOCKED:
            return span
        added.extend(_failed_block(status, position, 1, span, outcome) for position in range(start, stop))
        return span._replace(state=ENDED, failures=0, at=now)

    changed = _over_parts(status, ranges_of(sorted(set(positions))), step)
    return replace(changed, outcomes=(*changed.outcomes, *added)) if added else changed


def retry(
    status: Status,
    runs: Mapping[int, int],
    function: str | None = None,
    calls: Sequence[tuple[int, int, Place]] = (),
) -> Status:
    """Start the next run of failed tasks; `runs` maps a position to the run that failed, so that a repeated call is harmless.

    Tasks that wait for others are blocked again: those may run again as well.

    Args:
        function: The digest of the function that those with new calls call from now on; the others keep theirs.
        calls: The call blocks sealed for that function: first position, number, and where it is.
    """
    functions = status.functions
    if calls and function is not None and function not in functions:
        functions = (*functions, function)
    kind = functions.index(function) if calls and function is not None else None
    sealed = {first + i for first, n, _ in calls for i in range(n)}
    opened: list[int] = []
    for position in status.failed():
        span = status.span(position)
        has_call = position in sealed or status.call_block(position, span.function) is not None
        if runs.get(position) == span.run and has_call:
            opened.append(position)
    if not opened:
        return status

    waiting = upstream_of(status)

    def again(state: int, function: int | None) -> Callable[[Span, int], Span]:
        return lambda span, _: Span(
            span.n, state, span.run + 1, span.attempt, options=span.options,
            function=span.function if function is None else function,
        )  # fmt: skip

    by_kind: dict[tuple[int, int | None], list[int]] = {}
    for position in opened:
        state = BLOCKED if position in waiting else _PENDING
        by_kind.setdefault((state, kind if position in sealed else None), []).append(position)
    changed = status
    for (state, new_function), positions in by_kind.items():
        changed = _over(changed, ranges_of(positions), again(state, new_function))
    if kind is not None:
        new = (CallBlock(first, n, kind, place) for first, n, place in calls)
        changed = replace(changed, functions=functions, calls=(*changed.calls, *new))
    changed = replace(changed, outcomes=tuple(_needed_outcomes(changed)))
    return replace(changed, calls=tuple(_visible_calls(changed)))


# --- blocks -----------------------------------------------------------------------------------------------------------


def _failed_block(status: Status, first: int, n: int, span: Span, outcome: Outcome) -> OutcomeBlock:
    failures = tuple((i, span.failures) for i in range(n)) if span.failures else ()
    sealed = outcome(status, first, n, span)
    return OutcomeBlock(first, n, span.run, span.attempt, span.claim, sealed, tuple(range(n)), failures)


def _needed_calls(status: Status) -> Iterator[CallBlock]:
    """Yield the blocks of calls without the inline ones of which all tasks have completed.

    A task that has failed may be retried.
    """
    needed = [(start, start + span.n) for start, span in status.placed() if span.state != ENDED]
    needed += [(position, position + 1) for position in status.failed()]
    for block in status.calls:
        end = block.first + block.n
        if type(block.place) is not bytes or any(start < end and block.first < stop for start, stop in needed):
            yield block


def _visible_calls(status: Status) -> Iterator[CallBlock]:
    """Yield the call blocks that are the block of at least one task."""
    functions = [span.function for span in status.spans for _ in range(span.n)]
    used = set()
    for position, function in enumerate(functions):
        for number in range(len(status.calls) - 1, -1, -1):
            block = status.calls[number]
            if block.function == function and block.first <= position < block.first + block.n:
                used.add(number)
                break
    yield from (block for number, block in enumerate(status.calls) if number in used)


def _needed_outcomes(status: Status) -> Iterator[OutcomeBlock]:
    """Yield the outcome blocks that hold the outcome of at least one task."""
    used = {id(block) for start, span in status.placed() for block in status.outcome_blocks(start, span)}
    yield from (block for block in status.outcomes if id(block) in used)


# --- spans ------------------------------------------------------------------------------------------------------------


def _with_failures(status: Status, claim_id: str, failures: Mapping[int, int] | None) -> Status:
    """Set the failures of tasks under a claim."""
    for n_failures in sorted(set((failures or {}).values())):
        positions = sorted(i for i, n in (failures or {}).items() if n == n_failures)

        def count(span: Span, _: int, n_failures: int = n_failures) -> Span:
            is_held = span.state == _CLAIMED and span.claim == claim_id
            return span._replace(failures=n_failures) if is_held and span.failures != n_failures else span

        status = _over(status, ranges_of(positions), count)
    return status


def _over(status: Status, ranges: Sequence[tuple[int, int]], change: Callable[[Span, int], Span]) -> Status:
    return _over_parts(status, ranges, lambda span, start, _: change(span, start)) if ranges else status


def _over_parts(status: Status, ranges: Sequence[tuple[int, int]], change: Callable[[Span, int, int], Span]) -> Status:
    """Return the status with `change` applied to the part of each span that lies in each of these ranges.

    Args:
        ranges: Ascending and disjoint.
        change: Called with span, start and end of the part; returns the same span to leave it.
    """
    spans: list[Span] = []
    is_changed = False
    n_ranges, k = len(ranges), 0
    for start, span in status.placed():
        at, end = start, start + span.n
        while k < n_ranges and ranges[k][1] <= at:
            k += 1
        i = k
        while i < n_ranges and ranges[i][0] < end:
            low, high = max(at, ranges[i][0]), min(end, ranges[i][1])
            i += 1
            part = change(span, low, high)
            if part is span:
                continue
            is_changed = True
            if at < low:
                _append(spans, span, low - at)
            _append(spans, part, high - low)
            at = high
        if at < end:
            _append(spans, span, end - at)
    return replace(status, spans=tuple(spans)) if is_changed else status


def _append(spans: list[Span], span: Span, n: int) -> None:
    """Append `n` tasks of a span; they join the last span if they have everything in common with it."""
    if spans and spans[-1][1:] == span[1:]:
        n += spans.pop().n
    spans.append(span if span.n == n else span._replace(n=n))
