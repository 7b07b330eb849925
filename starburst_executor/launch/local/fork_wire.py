"""What a client and its fork server say to each other, over one stream socket.

    client ── length, Asked; with it the agent's standard input, output and error ──► fork server
    client ◄── FORKED number pid │ REFUSED number errno │ ENDED number exit code ──── fork server

Its end says "go" to the one and "gone" to the other. Numbers are the client's, since process ids are used again.
Nothing secret passes here: what the fork server has read, all its children could read in their memory.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgpack

__all__ = ["ENDED", "FORKED", "N_FDS", "REFUSED", "REPORT", "Asked", "ask", "take"]

# Kind, number, value.
REPORT = struct.Struct("<cqq")
FORKED, REFUSED, ENDED = b"F", b"R", b"E"
N_FDS = 3

_LENGTH = struct.Struct("<I")


class Asked(NamedTuple):
    """One agent to be forked: what an interpreter of its own would have inherited from the client at this moment."""

    number: int
    n_slots: int
    folder: str
    environment: dict[str, str]


def ask(control: socket.socket, asked: Asked, fds: Sequence[int]) -> None:
    """Send it, with the agent's standard input, output and error. Raises: OSError."""
    body = msgpack.packb(tuple(asked), unicode_errors="surrogateescape")
    socket.send_fds(control, [_LENGTH.pack(len(body))], fds)
    control.sendall(body)


def take(control: socket.socket) -> tuple[Asked, list[int]] | None:
    """The next one and its descriptors, fewer if too many are open here; None at the end, also in the middle of one."""
    head, fds, _, _ = socket.recv_fds(control, _LENGTH.size, N_FDS)
    head += _read(control, _LENGTH.size - len(head)) if head else b""
    body = _read(control, _LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    return (Asked(*msgpack.unpackb(body, unicode_errors="surrogateescape")), fds) if body else None


def _read(control: socket.socket, n_bytes: int) -> bytes:
    """So many bytes, or none if the end comes before."""
    body = b""
    while len(body) < n_bytes:
        more = control.recv(n_bytes - len(body))
        if not more:
            return b""
        body += more
    return body
