"""The bytes of a block: what is under its seal, to which label the seal binds it, and how neighbours become blocks.

    seal (32 bytes) │ B │ length of each, 4 bytes, little-endian │ payload │ payload │ …
                    │ S │ payload that all of them have

The lengths are under the seal, so a flipped byte costs at most the tasks of one block, and nothing is unpickled before its
block's seal was checked (`protocol/seal.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.seal import SEAL_BYTES, Sealer
from starburst_executor.protocol.spans.record import BLOCK_TASKS, CallBlock, OutcomeBlock, Status

__all__ = [
    "MAX_INLINE",
    "Bytes",
    "call_label",
    "cut",
    "cut_neighbours",
    "inline_bytes",
    "inline_calls",
    "offset_of",
    "open_calls",
    "open_outcomes",
    "open_small_calls",
    "outcome_label",
    "packed",
    "same",
    "sealed_calls",
    "sealed_outcomes",
    "unpacked",
]

# The most bytes of calls and outcomes in a status object; a block that would pass it is stored in an object of its own kind.
MAX_INLINE = 112 * 1024
# Tasks share these bytes fairly: each claim and commit rewrites the object, and the client reads it again.
_SHARED_BYTES = 32 * 1024
# A payload up to this size is inline in any case, if all of an object's fit into four times that share.
_LEAST_BYTES, _MOST_BYTES = 512, 128 * 1024
# Payloads share a block up to this many bytes, because a reader of one needs all of them. A big one has a block of its own.
_BLOCK_BYTES = 64 * 1024
_ALONE_BYTES = 8 * 1024

_EACH, _SAME = b"B", b"S"

# Small payloads are copied rather than viewed where that is faster.
_COPIED_BYTES = 1024

Bytes: TypeAlias = bytes | memoryview


def call_label(ordinal: int, sequence: int, n: int, digest: str) -> str:
    """Return the label to which a call block's seal binds it: tasks and function. `sequence` is the first task's index."""
    return f"{ordinal}-{sequence}+{n}/{digest}"


def outcome_label(ordinal: int, sequence: int, n: int, run: int, attempt: int, claim: str) -> str:
    """Return the label to which an outcome block's seal binds it: tasks, run, attempt and claim."""
    return f"{ordinal}-{sequence}+{n}/{run}/{attempt}/{claim}"


def inline_bytes(n: int, n_tasks: int) -> int:
    """Return the size in bytes up to which a sealed block of `n` tasks is stored inline in a status object of `n_tasks`."""
    return max(n * min(_LEAST_BYTES, _MOST_BYTES // n_tasks), _SHARED_BYTES * n // n_tasks)


def packed(payloads: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return what is to be sealed for these payloads, in parts, so that a big one, which is alone, is not copied."""
    head = _EACH + struct.pack(f"<{len(payloads)}I", *map(len, payloads))
    return [head, *payloads] if len(payloads) == 1 else [b"".join((head, *payloads))]


def same(payload: bytes) -> list[bytes | memoryview]:
    """Return what is to be sealed for any number of tasks with the same payload, in parts."""
    return [_SAME, payload]


def unpacked(content: Bytes, n: int) -> list[Bytes]:
    """Return the payloads of a block of `n` tasks whose seal was checked: of a view views, or copies if they are small.

    Raises: RecordInvalid.
    """
    kind = bytes(content[:1])
    if kind == _SAME:
        return [content[1:]] * n
    start = 1 + 4 * n
    if kind != _EACH or len(content) < start:
        raise RecordInvalid(f"a block that cannot be read: kind={kind!r}, tasks={n}, bytes={len(content)}")
    lengths = struct.unpack_from(f"<{n}I", content, 1)
    if start + sum(lengths) != len(content):
        raise RecordInvalid(f"a block with wrong lengths: tasks={n}, bytes={len(content)}")
    length = max(lengths, default=0)
    if length <= _COPIED_BYTES and lengths.count(length) == n:
        # Neighbours are often alike, and this is five times as fast as a loop.
        return list(struct.unpack_from(f"{length}s" * n, content, start))
    payloads: list[Bytes] = []
    for length in lengths:
        payloads.append(content[start : start + length])
        start += length
    return payloads


def sealed_calls(
    sealer: Sealer, ordinal: int, sequence: int, digest: str, payloads: Sequence[bytes | memoryview]
) -> list[bytes | memoryview]:
    """Return a sealed block of calls, in parts. `sequence` is the index of the first task among its submitter's."""
    parts = packed(payloads)
    return [sealer.seal("calls", call_label(ordinal, sequence, len(payloads), digest), *parts), *parts]


def inline_calls(
    sealer: Sealer, ordinal: int, first: int, digest: str, records: Mapping[int, bytes], *, function: int = 0
) -> tuple[CallBlock, ...]:
    """Return the blocks of these calls, all inline.

    Args:
        first: The index of the status object's first task among its submitter's.
        records: The calls by position, ascending.
    """
    found = []
    for block in cut((position, 0, len(record)) for position, record in records.items()):
        parts = sealed_calls(sealer, ordinal, first + block[0], digest, [records[position] for position in block])
        found.append(CallBlock(block[0], len(block), function, b"".join(parts)))
    return tuple(found)


def sealed_outcomes(
    sealer: Sealer,
    ordinal: int,
    sequence: int,
    mark: tuple[int, int, str],
    payloads: Sequence[bytes | memoryview],
    *,
    same_for: int = 0,
) -> list[bytes | memoryview]:
    """Return a sealed block of outcomes, in parts.

    Args:
        sequence: The index of the first task among its submitter's.
        mark: Run, attempt and claim.
        same_for: If not 0, the number of tasks that all have the one payload.
    """
    parts = same(bytes(payloads[0])) if same_for else packed(payloads)
    label = outcome_label(ordinal, sequence, same_for or len(payloads), *mark)
    return [sealer.seal("outcomes", label, *parts), *parts]


def open_calls(sealer: Sealer, status: Status, block: CallBlock, body: bytes | memoryview) -> list[Bytes]:
    """Return the payloads of a call block, once its seal is verified. Raises: RecordInvalid."""
    label = call_label(status.ordinal, status.first + block.first, block.n, status.functions[block.function])
    return unpacked(sealer.open_sealed("calls", label, body), block.n)


def open_small_calls(sealer: Sealer, status: Status, block: CallBlock, body: bytes) -> list[bytes]:
    """Return copies of the payloads, like `open_calls`: less work than views if they are small and all are needed."""
    label = call_label(status.ordinal, status.first + block.first, block.n, status.functions[block.function])
    return cast("list[bytes]", unpacked(bytes(sealer.open_sealed("calls", label, body)), block.n))


def open_outcomes(sealer: Sealer, status: Status, block: OutcomeBlock, body: bytes | memoryview) -> list[Bytes]:
    """Return the payloads of an outcome block, once its seal is verified. Raises: RecordInvalid."""
    sequence = status.first + block.first
    label = outcome_label(status.ordinal, sequence, block.n, block.run, block.attempt, block.claim)
    return unpacked(sealer.open_sealed("outcomes", label, body), block.n)


def offset_of(content: memoryview, n: int, i: int) -> int:
    """Return where the payload of the i-th of `n` tasks begins in a sealed block, counted from the beginning of its seal."""
    if bytes(content[:1]) == _SAME:
        return SEAL_BYTES + 1
    lengths: tuple[int, ...] = struct.unpack(f"<{i}I", content[1 : 1 + 4 * i])
    return SEAL_BYTES + 1 + 4 * n + sum(lengths)


def cut(items: Iterable[tuple[int, Hashable, int]]) -> Iterator[list[int]]:
    """Cut tasks into blocks; yield the positions of each.

    Args:
        items: Position, mark and size in bytes of each, by ascending position. Only neighbours with the same mark share a block.
    """
    block: list[int] = []
    last: Hashable = None
    n_bytes = 0
    for position, mark, size in items:
        is_full = n_bytes + size > _BLOCK_BYTES or size > _ALONE_BYTES or n_bytes >= _BLOCK_BYTES
        if block and (is_full or position != block[-1] + 1 or mark != last or len(block) >= BLOCK_TASKS):
            yield block
            block, n_bytes = [], 0
        block.append(position)
        last = mark
        n_bytes = n_bytes + size if size <= _ALONE_BYTES else _BLOCK_BYTES
    if block:
        yield block


def cut_neighbours(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut neighbouring tasks with the same mark into the same blocks as `cut`; yield the first task and the number of each."""
    for start in range(0, len(sizes), BLOCK_TASKS):
        of_block = sizes[start : start + BLOCK_TASKS]
        if sum(of_block) > _BLOCK_BYTES or max(of_block) > _ALONE_BYTES:
            yield from ((block[0], len(block)) for block in cut((i, 0, sizes[i]) for i in range(start, len(sizes))))
            return
        yield start, len(of_block)
