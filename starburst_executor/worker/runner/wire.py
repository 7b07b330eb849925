"""Frames on a stream socket: the format of the messages between agent and runner.

A frame consists of the lengths of its two parts, a head (a short msgpack list whose first item is the kind) and a payload
of bytes, up to gigabytes. A payload that is larger than a buffer is neither joined nor copied. The runner's socket blocks
and the agent's does not, so that the two cannot deadlock while each waits for the other to read.

    agent                                                                       runner
    Outbox ── SETUP · FUNCTION digest · PIECE name · SHARED name, path          Inbox
              FORGET… name · JOBS … ────────────────────────────────────────►
              PLACE is_given
    Inbox  ◄── READY ends · WAKE number · BROKEN ends                           send_frame
           ◄── OUTCOME number, ok, loaded, seconds, ends
           ◄── LEND number · RESUME number

A frame of JOBS has the calls of many jobs of one function as its payload, joined; its head has the other fields
of each run of neighbours, the length of each call, and their options if those are not the defaults. An outcome is in a frame only if it is too big for the ledger (`ledger.py`) or finds no room there.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Container, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgpack

__all__ = [
    "BROKEN",
    "FORGET",
    "FORGET_FUNCTION",
    "FORGET_SHARED",
    "FUNCTION",
    "JOBS",
    "LEND",
    "OUTCOME",
    "PIECE",
    "PLACE",
    "READY",
    "RESUME",
    "SETUP",
    "SHARED",
    "WAKE",
    "Frame",
    "Inbox",
    "Outbox",
    "send_frame",
]

SETUP, FUNCTION, JOBS, PIECE, FORGET, FORGET_FUNCTION, SHARED, FORGET_SHARED = (
    1,
    2,
    3,
    7,
    8,
    9,
    11,
    12,
)  # agent to runner
PLACE = 13  # agent to runner, the answer to LEND
READY, OUTCOME, BROKEN, WAKE, LEND, RESUME = 4, 5, 6, 10, 14, 15  # runner to agent

Payload: TypeAlias = bytes | bytearray | memoryview

_LENGTHS = struct.Struct("<QI")  # payload, head
_BUFFER_BYTES = 256 * 1024
_JOIN_BYTES = 16 * 1024  # below this a copy is cheaper than one more element of sendmsg
_SEND_PARTS = 256  # below every IOV_MAX


class Frame(NamedTuple):
    """One received frame. The receiver owns the payload."""

    head: list[Any]
    payload: bytes | bytearray


def _opening(head: Sequence[object], payload_bytes: int) -> bytes:
    packed: bytes = msgpack.packb(head, unicode_errors="surrogateescape")
    return _LENGTHS.pack(payload_bytes, len(packed)) + packed


def send_frame(sock: socket.socket, head: Sequence[object], payload: Payload = b"") -> None:
    """Send one frame on a blocking socket. Raises: OSError."""
    opening = _opening(head, len(payload))
    if len(payload) <= _JOIN_BYTES:
        sock.sendall(opening + payload)
    else:
        sock.sendall(opening)
        sock.sendall(payload)


class Inbox:
    """Receives frames from a socket, blocking or not. Not thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0  # _buffer[_start:_end] has arrived and has not been returned
        self._end = 0
        self._big: Frame | None = None  # a frame too big for the buffer; it is filled in place
        self._missing = self._buffer[:0]  # the part of it that has not arrived

    def fill(self) -> bool:
        """Receive once; return False at the end of the stream.

        Raises: BlockingIOError if the socket does not block and has no data; OSError.
        """
        if self._big is not None:
            received = self._sock.recv_into(self._missing)
            self._missing = self._missing[received:]
        else:
            received = self._sock.recv_into(self._buffer[self._end :])
            self._end += received
        return received > 0

    def next(self) -> Frame | None:
        """Return the next frame; None if it has not arrived completely."""
        if self._big is not None:
            return self._take_big()
        arrived = self._end - self._start
        if arrived >= _LENGTHS.size:
            payload_bytes, head_bytes = _LENGTHS.unpack_from(self._buffer, self._start)
            opening_bytes = _LENGTHS.size + head_bytes
            if arrived >= opening_bytes + payload_bytes:
                return self._take(opening_bytes, payload_bytes)
            if arrived >= opening_bytes and opening_bytes + payload_bytes > _BUFFER_BYTES:
                self._begin_big(opening_bytes, payload_bytes)
                return self._take_big()
        self._make_room()
        return None

    def _head(self, opening_bytes: int) -> list[Any]:
        packed = self._buffer[self._start + _LENGTHS.size : self._start + opening_bytes]
        return msgpack.unpackb(packed, unicode_errors="surrogateescape")  # type: ignore[no-any-return]  # msgpack has no types; every head is a list

    def _take(self, opening_bytes: int, payload_bytes: int) -> Frame:
        head = self._head(opening_bytes)
        payload_start = self._start + opening_bytes
        self._start = payload_start + payload_bytes
        payload = bytes(self._buffer[payload_start : self._start])
        if self._start == self._end:
            self._start = self._end = 0
        return Frame(head, payload)

    def _begin_big(self, opening_bytes: int, payload_bytes: int) -> None:
        payload = bytearray(payload_bytes)
        early = self._buffer[self._start + opening_bytes : self._end]
        self._missing = memoryview(payload)
        self._missing[: len(early)] = early
        self._missing = self._missing[len(early) :]
        self._big = Frame(self._head(opening_bytes), payload)
        self._start = self._end = 0

    def _take_big(self) -> Frame | None:
        if len(self._missing):
            return None
        frame, self._big = self._big, None
        self._missing = self._buffer[:0]
        return frame

    def _make_room(self) -> None:
        if self._start:
            arrived = self._end - self._start
            self._buffer[:arrived] = self._buffer[self._start : self._end]
            self._start, self._end = 0, arrived


class _Part(NamedTuple):
    frame: int  # the number of the frame that it belongs to
    jobs: Sequence[range]  # the numbers of the jobs of that frame
    body: memoryview


class Outbox:
    """Queues and sends frames on a non-blocking socket. Not thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._parts: deque[_Part] = deque()
        self._n_frames = 0
        self._begun = 0  # the frame whose bytes were sent last: it can no longer be dropped

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, head: Sequence[object], payload: Payload, *, jobs: Sequence[range] = ()) -> None:
        """Queue one frame; `jobs` are the numbers of the jobs with which it can be dropped."""
        self._n_frames += 1
        opening = _opening(head, len(payload))
        if len(payload) <= _JOIN_BYTES:
            self._parts.append(_Part(self._n_frames, jobs, memoryview(opening + payload)))
        else:
            self._parts.append(_Part(self._n_frames, jobs, memoryview(opening)))
            self._parts.append(_Part(self._n_frames, jobs, memoryview(payload)))

    def flush(self) -> None:
        """Send as much as the socket accepts now. Raises: OSError if the other end is gone."""
        while self._parts:
            bodies = [self._parts[i].body for i in range(min(len(self._parts), _SEND_PARTS))]
            try:
                sent = self._sock.sendmsg(bodies)
            except BlockingIOError:
                return
            self._forget(sent)

    def drop(self, jobs: Container[int]) -> None:
        """Drop the frames that have only jobs among these, except one that is already partly sent."""
        self._parts = deque(part for part in self._parts if part.frame == self._begun or not _is_for(part, jobs))

    def _forget(self, sent: int) -> None:
        while sent:
            part = self._parts.popleft()
            self._begun = part.frame
            if sent < len(part.body):
                self._parts.appendleft(part._replace(body=part.body[sent:]))
                return
            sent -= len(part.body)


def _is_for(part: _Part, jobs: Container[int]) -> bool:
    return bool(part.jobs) and all(number in jobs for numbers in part.jobs for number in numbers)
