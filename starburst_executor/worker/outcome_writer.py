"""Gathers the tasks of a claim that have ended to blocks of outcomes, and writes those that are too big to inline.

    Claim.ended ──cut by (run, attempt)──► blocks of up to 64 neighbours, one seal each ──► inline
                                                                                       └──► outcomes/ (create)
    captured output ──────────────────────────────────────────────────────────────────────► logs/ (create)

Guarantee: an object that a returned block names has been stored. A key is written once, always with the same bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import msgpack

from starburst_executor.errors import PreconditionFailed
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import Located, OutcomeBlock, Status
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.runner.jobs import Completed, Finished

__all__ = ["OutcomeWriter"]

# Outcomes that are too big to inline share objects of up to this many bytes; a bigger outcome has its own object.
_PART_BYTES = 8 * 1024 * 1024


class OutcomeWriter:
    """Writes the outcomes and the captured output of claims. Thread-safe; a single claim is not."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session

    def write(self, claim: Claim) -> list[OutcomeBlock]:
        """Write captured output, and outcomes that are too big to inline; return the blocks for the status object.

        Store: 1 create for outcomes, 1 create for captured output; more if they are larger than 8 MB.
        """
        outcomes, logs = _Part(claim), _Part(claim)
        if claim.returned and not claim.ended and len(claim.spans) == 1:
            ended = [*self._plain_blocks(claim, outcomes)]
        else:
            claim.separate()
            ended = [self._block(claim, positions, outcomes, logs) for positions in blocks.cut(_marked(claim))]
        self._create(claim, outcomes, logs)
        return ended

    def fitted(self, claim: Claim, ended: list[OutcomeBlock], committed: Status) -> list[OutcomeBlock] | None:
        """Return these blocks as they have room in the object: inline ones that have none are written, largest first.

        Args:
            committed: The object as it would be with these blocks.

        Returns:
            None if all have room.

        Store: nothing if they have room; otherwise 1 create.
        """
        surplus = committed.n_inline - blocks.MAX_INLINE
        if surplus <= 0:
            return None
        fitted, part = list(ended), _Part(claim)
        for i in sorted(range(len(fitted)), key=lambda i: -_n_inline(fitted[i])):
            block = fitted[i]
            if surplus <= 0 or type(block.place) is not bytes:
                break
            surplus -= len(block.place)
            fitted[i] = block._replace(place=part.add([block.place]))
        self._create(claim, part, _Part(claim))
        return fitted

    def _plain_blocks(self, claim: Claim, outcomes: _Part) -> Iterator[OutcomeBlock]:
        """Yield the blocks of tasks that have all returned, without an object for each task."""
        for first, run in _joined(claim.returned):
            for start, n in blocks.cut_neighbours([*map(len, run.outcomes)]):
                part, position = run.part(start, start + n), first + start
                yield self._sealed(claim, range(position, position + n), part.outcomes, part.seconds, outcomes)

    def _block(self, claim: Claim, positions: Sequence[int], outcomes: _Part, logs: _Part) -> OutcomeBlock:
        ends = [claim.ended[position] for position in positions]
        _, oks, _, payloads, seconds, stdouts, stderrs, records = zip(*ends, strict=True)
        has_output = any(stdouts) or any(stderrs) or any(records)
        return self._sealed(claim, positions, payloads, seconds, outcomes)._replace(
            failed=() if all(oks) else tuple([i for i, ok in enumerate(oks) if not ok]),
            logs=tuple(_logs(ends, logs)) if has_output else (),
        )

    def _sealed(
        self,
        claim: Claim,
        positions: Sequence[int],
        payloads: Sequence[blocks.Bytes],
        seconds: Sequence[float],
        outcomes: _Part,
    ) -> OutcomeBlock:
        first, n, ref, span = positions[0], len(positions), claim.ref, claim.span(positions[0])
        mark = (span.run, span.attempt, claim.claim_id)
        sealed = blocks.sealed_outcomes(self._session.sealer, ref.ordinal, ref.first + first, mark, payloads)
        is_small = sum(map(len, sealed)) <= blocks.inline_bytes(n, ref.n_tasks)
        return OutcomeBlock(
            first,
            n,
            *mark,
            b"".join(sealed) if is_small else outcomes.add(sealed),
            failures=_failures(claim, positions),
            seconds=array("f", seconds).tobytes() if any(seconds) else b"",
        )

    def _create(self, claim: Claim, outcomes: _Part, logs: _Part) -> None:
        keys, status_id = self._session.keys, claim.ref.status_id
        bodies = [(keys.outcomes(status_id, part), body) for part, body in outcomes.bodies()]
        bodies += [(keys.logs(status_id, part), body) for part, body in logs.bodies()]
        for key, body in bodies:
            try:
                self._session.store.create(key, body)
            except PreconditionFailed:
                # Only this claim writes the key, and always the same bytes: an earlier try has landed.
                continue


def _logs(ends: Sequence[Finished], logs: _Part) -> Iterator[tuple[int, int, int, int]]:
    for i, end in enumerate(ends):
        if end.stdout or end.stderr or end.records:
            yield i, *logs.number_and_place([_output(end)])


def _joined(runs: Sequence[tuple[int, Completed]]) -> Iterator[tuple[int, Completed]]:
    """Yield runs in order, neighbouring ones as one."""
    last: tuple[int, Completed] | None = None
    for first, run in sorted(runs):
        if last is not None and last[0] + last[1].n == first:
            last = (
                last[0],
                last[1]._replace(outcomes=last[1].outcomes + run.outcomes, seconds=last[1].seconds + run.seconds),
            )
            continue
        if last is not None:
            yield last
        last = (first, run)
    if last is not None:
        yield last


def _marked(claim: Claim) -> Iterator[tuple[int, tuple[int, int], int]]:
    """Yield position, run and attempt, and the bytes of the outcome, of each task that has ended."""
    ended = claim.ended
    positions = sorted(ended)
    for start, span in claim.spans:
        mark = (span.run, span.attempt)
        for position in positions[bisect_left(positions, start) : bisect_left(positions, start + span.n)]:
            yield position, mark, len(ended[position].outcome)


def _failures(claim: Claim, positions: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if not claim.failures and not any(span.failures for _, span in claim.spans):
        return ()
    counted = ((i, claim.n_failures(position)) for i, position in enumerate(positions))
    return tuple((i, n_failures) for i, n_failures in counted if n_failures)


def _n_inline(block: OutcomeBlock) -> int:
    return len(block.place) if type(block.place) is bytes else 0


class _Part:
    """Collects byte strings into objects and returns the location of each."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._number = 0
        self._objects: list[tuple[str, list[blocks.Bytes]]] = []
        self._n_bytes = _PART_BYTES

    def add(self, pieces: Sequence[blocks.Bytes]) -> Located:
        length = sum(map(len, pieces))
        if self._n_bytes + length > _PART_BYTES:
            self._claim.n_parts += 1
            self._number = self._claim.n_parts
            self._objects.append((f"{self._claim.claim_id}-{self._number}", []))
            self._n_bytes = 0
        part, gathered = self._objects[-1]
        gathered.extend(pieces)
        self._n_bytes += length
        return Located(part, self._n_bytes - length, length)

    def number_and_place(self, pieces: Sequence[blocks.Bytes]) -> tuple[int, int, int]:
        """Like `add`; return the object's number within its claim, the start and the length."""
        _, start, length = self.add(pieces)
        return self._number, start, length

    def bodies(self) -> list[tuple[str, blocks.Bytes]]:
        return [(part, b"".join(pieces)) for part, pieces in self._objects]


def _output(end: Finished) -> bytes:
    """Return what a task wrote and logged, for `payloads.decode_output`."""
    packed: bytes = msgpack.packb((end.stdout, end.stderr, *([end.records] if end.records else [])))
    return packed
