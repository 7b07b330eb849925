"""What is asked of a fork server arrives whole, with its descriptors, or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from starburst_executor.launch.local import fork_wire
from starburst_executor.launch.local.fork_wire import Asked


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_a_request_comes_with_its_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    asked = Asked(7, 4, "/a folder", {"NAME": "a value", "BYTES": "\udcff"})
    reading, writing = os.pipe()
    fork_wire.ask(pair[0], asked, [reading, 1, 2])
    os.close(reading)
    taken = fork_wire.take(pair[1])
    assert taken is not None
    assert taken[0] == asked
    os.write(writing, b"through")
    assert os.read(taken[1][0], 100) == b"through"
    for fd in [writing, *taken[1]]:
        os.close(fd)


def test_an_environment_larger_than_the_socket_holds(pair: tuple[socket.socket, socket.socket]) -> None:
    import threading

    asked = Asked(1, 1, "", {f"N{i}": "x" * 10_000 for i in range(100)})
    sender = threading.Thread(target=fork_wire.ask, args=(pair[0], asked, [0, 1, 2]))
    sender.start()
    taken = fork_wire.take(pair[1])
    sender.join()
    assert taken is not None
    assert taken[0] == asked
    for fd in taken[1]:
        os.close(fd)


@pytest.mark.parametrize("sent", [b"", b"\x05", b"\x05\0\0\0", b"\x05\0\0\0abc"])
def test_an_end_in_the_middle_is_an_end(pair: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    pair[0].sendall(sent)
    pair[0].close()
    assert fork_wire.take(pair[1]) is None
