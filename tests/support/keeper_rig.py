"""A client's keeper that a test turns by hand, with a launcher that starts nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starburst_executor.client.handles import handle_of
from starburst_executor.client.keeper import ClientKeeper
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.protocol.records import Launch, decode_client_beat
from tests.support.session_rig import Rig

__all__ = ["Client", "FakeLauncher", "launches"]


class FakeLauncher:
    """Starts nothing and says of each order what the test wants. Shared by the clients of one machine."""

    name = spec = "fake"
    launch_s = 60.0
    keeps_trying = False

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.dead: dict[str, Death] = {}  # by handle, which is also its worker's id
        self.stopped: list[tuple[str, bool]] = []
        self.refusal: Exception | None = None
        self.usd_each: float | None = None

    def check(self, n_slots: int) -> None:
        """Any number will do."""

    def usd_per_hour(self, n_slots: int) -> float | None:
        return None if self.usd_each is None else self.usd_each * n_slots

    def start(self, order: Order, handle: str = "") -> Started:
        if self.refusal is not None:
            raise self.refusal
        self.orders.append(order)
        return Started(f"w{len(self.orders) - 1}", order.n_slots)

    def kill(self, handle: str, words: str = "exit status 1", *, by_signal: bool = False) -> None:
        self.dead[handle] = Death(handle, words, was_killed=by_signal)

    def resume(self, handle: str) -> FakeWorkers:
        return FakeWorkers(self, handle)

    # What its workers answer. Tests replace these.

    def deaths(self, handle: str) -> list[Death]:
        return [self.dead[handle]] if handle in self.dead else []

    def slots_alive(self, handle: str) -> int:
        return 0 if handle in self.dead else self.orders[int(handle[1:])].n_slots

    def describe(self, handle: str) -> str:
        return f"{handle} is on its way"

    def expected(self, handle: str) -> list[str]:
        return []

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        return False

    def drained(self, handle: str) -> list[str]:
        return []

    def stop(self, handle: str, *, at_once: bool) -> None:
        self.stopped.append((handle, at_once))
        self.kill(handle)


class FakeWorkers:
    """The workers of one order, as their launcher wants them."""

    def __init__(self, launcher: FakeLauncher, handle: str) -> None:
        self._launcher = launcher
        self._handle = handle

    def deaths(self) -> list[Death]:
        return self._launcher.deaths(self._handle)

    def slots_alive(self) -> int:
        return self._launcher.slots_alive(self._handle)

    def interruptions(self) -> int:
        return 0

    def expected(self) -> list[str]:
        return self._launcher.expected(self._handle)

    def give_up(self, worker_id: str, words: str) -> bool:
        return self._launcher.give_up(self._handle, worker_id, words)

    def describe(self) -> str:
        return self._launcher.describe(self._handle)

    def shed(self, n_slots: int) -> int:
        self.drain()
        return self._launcher.orders[int(self._handle[1:])].n_slots

    def drained(self) -> list[str]:
        return self._launcher.drained(self._handle)

    def drain(self) -> None:
        self._launcher.stop(self._handle, at_once=False)

    def kill(self) -> None:
        self._launcher.stop(self._handle, at_once=True)

    def end_session(self) -> None:
        self.kill()

    def let_go(self) -> None:
        pass

    def forget(self) -> None:
        pass


class Client:
    """A keeper that the test turns."""

    def __init__(self, rig: Rig, launcher: FakeLauncher | None = None, client_id: str = "c") -> None:
        self.rig = rig
        self.needs = True
        self.claims: set[str] = set()  # that stand in what it collects
        session = rig.another()
        session.manifest.refresh()
        self.session = session
        self.client_id = client_id
        self.keeper = ClientKeeper(
            session,
            client_id,
            launcher,
            order=lambda launch_id, n_slots: Order(launch_id, "memory://m/a-session", "00", n_slots, False),
            needs_workers=lambda: self.needs,
            claims=lambda: frozenset(self.claims),
        )

    def turns(self, seconds: float) -> None:
        until = self.rig.clock.monotonic() + seconds
        while self.rig.clock.monotonic() < until:
            self.rig.clock.advance(max(self.keeper.turn(), 0.01))

    def leaves(self, within_s: float = 120.0) -> bool:
        """Whether it may leave its work behind within so long."""
        self.keeper.ask_to_leave()
        until = self.rig.clock.monotonic() + within_s
        while not self.keeper.may_leave.is_set() and self.rig.clock.monotonic() < until:
            self.rig.clock.advance(max(self.keeper.turn(), 0.01))
        if self.keeper.leave_error is not None:
            raise self.keeper.leave_error
        return self.keeper.may_leave.is_set()

    def beat(self) -> Any:
        stored = self.rig.objects.get(self.rig.keys.client(self.client_id))
        assert stored is not None
        return decode_client_beat(stored.body)


def launches(rig: Rig) -> tuple[Launch, ...]:
    """Those in the manifest, with their handles as the launcher gave them."""
    session = rig.another()
    return tuple(
        replace(launch, handle=handle_of(session.sealer, launch)) for launch in session.manifest.current.launches
    )
