"""The state of a launch on Amazon ECS, as a string for the manifest: ECS tasks, pending calls, slots to start."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import msgpack

from starburst_executor.launch.aws.worker_ids import digits_of
from starburst_executor.launch.bootstrap import worker_id_of

__all__ = ["Call", "EcsHandle"]

# ECS calls the ids of its tasks opaque; ids in the form of new accounts are packed.
_PACKED = re.compile(r"[0-9a-f]{32}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ID_BYTES = 16


class Call(NamedTuple):
    """A RunTask call: its number in the launch, the number of ECS tasks, and the slots of each."""

    number: int
    n_tasks: int
    n_slots: int


@dataclass(frozen=True, slots=True)
class EcsHandle:
    """A launch.

    Attributes:
        session_id: The session of the workers; `startedBy` in ECS.
        launch_id: The prefix of the workers' ids and of the calls' tokens.
        n_slots_each: The slots of each ECS task except the last.
        n_slots: The slots to start; fewer than ordered if the quota allows fewer.
        detached: Whether the workers outlive their client.
        n_calls: The number of calls numbered so far.
        n_tries: The number of consecutive steps that started no worker.
        provider: The index of the current capacity provider.
        repeat: Calls with unclear answers, to be repeated unchanged.
        tasks: Ids of ECS tasks, each with its slots.
        why_fewer: Why fewer slots are started than were ordered.
    """

    session_id: str
    launch_id: str
    n_slots_each: int
    n_slots: int
    detached: bool
    n_calls: int = 0
    n_tries: int = 0
    provider: int = 0
    repeat: tuple[Call, ...] = ()
    tasks: tuple[tuple[str, int], ...] = ()
    why_fewer: str = ""

    def worker_id(self, task_id: str) -> str:
        """Return the id of the worker in an ECS task."""
        return worker_id_of(self.launch_id, digits_of(task_id))

    @property
    def n_started(self) -> int:
        """The slots of the ECS tasks that were started."""
        return sum(n_slots for _, n_slots in self.tasks)

    @property
    def n_left(self) -> int:
        """The slots that no call has requested yet."""
        return max(0, self.n_slots - self.n_started - sum(call.n_tasks * call.n_slots for call in self.repeat))

    def next_calls(self, n_tasks: int, n_calls: int) -> list[Call]:
        """Return the next calls, at most `n_calls` with at most `n_tasks` ECS tasks each. Guarantee: a handle determines them."""
        calls, left = list(self.repeat), self.n_left
        number = self.n_calls
        while left > 0 and len(calls) < n_calls:
            n_slots = min(left, self.n_slots_each)
            calls.append(Call(number, min(n_tasks, left // n_slots), n_slots))
            left -= calls[-1].n_tasks * n_slots
            number += 1
        return calls

    def dump(self) -> str:
        """Return the handle as the manifest stores it."""
        *fields, _, why_fewer = astuple(self)
        names = [task_id for task_id, _ in self.tasks]
        ids = b"".join(map(bytes.fromhex, names)) if all(map(_PACKED.fullmatch, names)) else names
        packed: bytes = msgpack.packb((*fields, ids, [n_slots for _, n_slots in self.tasks], why_fewer))
        return base64.b85encode(packed).decode("ascii")

    @classmethod
    def load(cls, handle: str) -> EcsHandle | None:
        """Parse the result of `dump`; None if it is malformed: anyone who can write to the store can write a handle."""
        try:
            fields = msgpack.unpackb(base64.b85decode(handle), use_list=False)
            *plain, repeat, ids, slots, why_fewer = fields
            if isinstance(ids, bytes):
                ids = [ids[i : i + _ID_BYTES].hex() for i in range(0, len(ids), _ID_BYTES)]
            if not all(map(_ID.fullmatch, ids)):
                return None
            tasks = tuple(zip(ids, slots, strict=True))
            loaded: tuple[Any, ...] = (*plain, tuple(Call(*call) for call in repeat), tasks, why_fewer)
            launch = cls(*loaded)
        except (ValueError, TypeError, binascii.Error, msgpack.UnpackException):
            return None
        return launch if launch._is_sound() else None

    def _is_sound(self) -> bool:
        numbers: list[object] = [self.n_slots_each, self.n_slots, self.n_calls, self.n_tries, self.provider]
        numbers += [number for call in self.repeat for number in call]
        numbers += [n_slots for _, n_slots in self.tasks]
        texts = (self.session_id, self.launch_id, self.why_fewer)
        return (
            all(type(number) is int and number >= 0 for number in numbers)
            and self.n_slots_each > 0
            and all(type(text) is str for text in texts)
            and type(self.detached) is bool
        )
