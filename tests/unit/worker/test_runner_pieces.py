"""Big pieces of calls in a runner: handed over once, there for every call that has them, changed by none."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from starburst_executor.protocol import calls, pieces
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.seal import Sealer
from starburst_executor.worker.runner import outgoing
from starburst_executor.worker.runner.handle import Job, Runner, wire
from tests.support.runner_rig import Rig, finished, value_of

SEALER = Sealer(b"k" * 32, "a-session")
KB = 1024


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made


class Feeder:
    """Sends calls in pieces, and notes what crosses the wire for them."""

    def __init__(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runner = runner
        self.crossed: list[tuple[int, int]] = []
        self._numbers = itertools.count(1)
        add = wire.Outbox.add

        def noted(outbox: wire.Outbox, head: Any, body: Any, **number: int) -> None:
            self.crossed.append((head[0], len(body)))
            add(outbox, head, body, **number)

        monkeypatch.setattr(wire.Outbox, "add", noted)

    def send(self, function: Any, *arguments: tuple[Any, ...]) -> None:
        body = calls.dump_function(function)
        self.runner.send([self.job(args) for args in arguments], {"f": body})

    def job(self, args: tuple[Any, ...]) -> Job:
        bodies: dict[bytes, bytes] = {}

        def keep(body: bytes | memoryview) -> Piece:
            name = pieces.name_of(SEALER, body)
            bodies[name] = bytes(body)
            return Piece(name, "0000.0000000000", 0, len(body))

        parts = calls.dump_call_in_parts(args, {}, keep)
        call = parts if isinstance(parts, bytes) else pieces.encode(parts)
        return Job(next(self._numbers), 0, 0, 1, "f", call, tuple(bodies.items()))

    def values(self, n: int) -> list[Any]:
        return [value_of(event) for event in finished(self.runner, n)]

    def n_crossed(self, kind: int) -> int:
        return sum(each == kind for each, _ in self.crossed)


def changed(array: bytearray, number: int) -> tuple[int, int]:
    was = array[0]
    array[0] = 7
    return was, number


def test_a_piece_crosses_once_and_no_task_sees_what_another_did_to_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeder = Feeder(rig.spawn(), monkeypatch)
    shared = bytearray(500 * KB)
    feeder.send(changed, *((shared, i) for i in range(20)))
    assert feeder.values(20) == [(0, i) for i in range(20)]
    feeder.send(changed, (shared, 20))
    assert feeder.values(1) == [(0, 20)]
    assert feeder.n_crossed(wire.PIECE) == 1
    assert sum(n for _, n in feeder.crossed) < 510 * KB


def test_what_was_not_needed_for_longest_is_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "_PIECES_BYTES", 250 * KB)
    feeder = Feeder(rig.spawn(), monkeypatch)
    one, two, three = (bytes([i]) * 100 * KB for i in (1, 2, 3))
    # All at once: what is forgotten must be there for the calls that were sent before.
    order = [one, two, one, three, one, two]
    feeder.send(changed, *((bytearray(body), i) for i, body in enumerate(order)))
    assert feeder.values(6) == [(body[0], i) for i, body in enumerate(order)]
    assert feeder.n_crossed(wire.PIECE) == 4
    assert feeder.n_crossed(wire.FORGET) == 2


def test_what_a_call_needs_is_kept_however_big(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "_PIECES_BYTES", 1)
    feeder = Feeder(rig.spawn(), monkeypatch)
    one, two = b"1" * 100 * KB, b"2" * 100 * KB
    feeder.send(lambda a, b, _: (a[:1], b[:1]), *((one, two, i) for i in range(3)), (two, two, 3))
    assert feeder.values(4) == [(b"1", b"2")] * 3 + [(b"2", b"2")]
    assert feeder.n_crossed(wire.PIECE) == 2
    assert feeder.n_crossed(wire.FORGET) == 1


def test_pieces_of_a_call_that_was_taken_back_are_there_for_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = rig.spawn()
    feeder = Feeder(runner, monkeypatch)
    shared = bytearray(5000 * KB)  # more than the socket takes at once
    feeder.send(changed, *((shared, i) for i in range(5)))
    taken = runner.retract()
    feeder.send(changed, (shared, 5))
    values = feeder.values(6 - len(taken))
    assert values[-1] == (0, 5)
    assert {was for was, _ in values} == {0}
    assert feeder.n_crossed(wire.PIECE) == 1


def test_a_new_runner_has_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Feeder(rig.spawn(), monkeypatch).job((bytearray(100 * KB), 1))
    for _ in range(2):
        runner = rig.spawn()
        runner.send([job], {"f": calls.dump_function(changed)})
        assert [value_of(event) for event in finished(runner, 1)] == [(0, 1)]


def test_functions_that_were_not_wanted_for_longest_are_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "_FUNCTIONS_BYTES", 250 * KB)
    feeder = Feeder(rig.spawn(), monkeypatch)
    bodies = {name: calls.dump_function(partial(first_of, bytes([i]) * 100 * KB)) for i, name in enumerate("abc")}
    # All at once: what is forgotten must be there for the jobs that were sent before.
    order = "abacab"
    feeder.runner.send([Job(i + 1, 0, i, 1, name, calls.dump_call((), {})) for i, name in enumerate(order)], bodies)
    assert feeder.values(6) == ["abc".index(name) for name in order]
    assert feeder.n_crossed(wire.FUNCTION) == 4
    assert feeder.n_crossed(wire.FORGET_FUNCTION) == 2


def test_a_function_that_is_used_stays_however_big(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "_FUNCTIONS_BYTES", 1)
    feeder = Feeder(rig.spawn(), monkeypatch)
    body = calls.dump_function(partial(first_of, bytes(100 * KB)))
    for number in range(1, 4):
        feeder.runner.send([Job(number, 0, 0, 1, "big", calls.dump_call((), {}))], {"big": body})
        assert feeder.values(1) == [0]
    assert feeder.n_crossed(wire.FUNCTION) == 1


def test_a_runner_keeps_nothing_of_functions_that_it_was_told_to_forget(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "_FUNCTIONS_BYTES", 2000 * KB)
    feeder = Feeder(rig.spawn(), monkeypatch)
    n_alive = []
    for number in range(1, 101):
        function = calls.dump_function(made_anew(bytes(1000 * KB)))
        feeder.runner.send([Job(number, 0, 0, 1, str(number), calls.dump_call((), {}))], {str(number): function})
        n_alive += feeder.values(1)
    assert max(n_alive) <= 2 + 32 + 2, n_alive


def first_of(body: bytes) -> int:
    return body[0]


def made_anew(body: bytes) -> Any:
    """A function that travels by value with these bytes, and tells how often they are kept as a global in its process."""
    namespace: dict[str, Any] = {"__name__": "__main__", "BODY": body, "gc": gc, "__builtins__": __builtins__}
    exec(_COUNT, namespace)
    return namespace["count"]


# It refers to itself, so that only the garbage collector finds it.
_COUNT = """
def count():
    kept = [each["BODY"] for each in gc.get_objects() if type(each) is dict and "BODY" in each and count]
    return len({id(body) for body in kept if len(body) == len(BODY)})
"""
