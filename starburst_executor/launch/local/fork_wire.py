"""The protocol between a client and its fork server, over one stream socket.

    client ── length, Asked; with it the agent's standard input, output and error ──► fork server
    client ◄── FORKED number pid │ REFUSED number errno │ ENDED number exit code ──── fork server

When the client closes the socket, the fork server ends; when the fork server closes it, the client knows that it has
ended. The client numbers its requests, since process ids are reused. The socket carries no secrets: all agents could
read in their memory what the fork server has received.
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
    """A request to fork an agent, with the state that a new interpreter would inherit from the client at this moment."""

    number: int
    n_slots: int
    folder: str
    environment: dict[str, str]


def ask(control: socket.socket, asked: Asked, fds: Sequence[int]) -> None:
    """Send a request, with the agent's standard input, output and error. Raises: OSError."""
    body = msgpack.packb(tuple(asked), unicode_errors="surrogateescape")
    socket.send_fds(control, [_LENGTH.pack(len(body))], fds)
    control.sendall(body)


def take(control: socket.socket) -> tuple[Asked, list[int]] | None:
    """Receive the next request and its descriptors, fewer if this process has too many open; None at the end of the connection,
    also within a request.
    """
    head, fds, _, _ = socket.recv_fds(control, _LENGTH.size, N_FDS)
    head += _read(control, _LENGTH.size - len(head)) if head else b""
    body = _read(control, _LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    return (Asked(*msgpack.unpackb(body, unicode_errors="surrogateescape")), fds) if body else None


def _read(control: socket.socket, n_bytes: int) -> bytes:
    """Read `n_bytes`, or return none if the connection ends before."""
    body = b""
    while len(body) < n_bytes:
        more = control.recv(n_bytes - len(body))
        if not more:
            return b""
        body += more
    return body
