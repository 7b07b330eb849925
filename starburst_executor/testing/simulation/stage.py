"""Puts the package on a simulated stage: its threads become strands, its clocks are virtual, and its stores are the vault.

While `on_stage` lasts, the modules of the package see `threads` where they look for `threading`, and, unless asked not
to, some constants are smaller, so that ten tasks reach cases that otherwise take ten thousand. The package does not know that
it is simulated.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starburst_executor.client.threads import named
from starburst_executor.errors import StarburstError
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.open import register_scheme
from starburst_executor.testing.simulation import threads
from starburst_executor.testing.simulation.scheduler import Killed, current_process

__all__ = ["on_stage"]

_A = TypeVar("_A")
_B = TypeVar("_B")
_PACKAGE = "starburst_executor."
# Their locks are never held across a wait and are taken for each request, so the real locks are cheaper.
_LEFT_ALONE = ("starburst_executor.testing.", "starburst_executor.store.requests", "starburst_executor.store.limiter")


class _Pool:
    """Replaces `ThreadPoolExecutor`: calls run one after the other."""

    def __init__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
        return iter([function(item) for item in items])

    def shutdown(self, wait: bool = True) -> None:
        pass


class _NoModules:
    """Replaces the user's own modules: there are none."""

    def name(self) -> str:
        return ""

    def store_waiting(self, _: object = None) -> None:
        """Do nothing."""


class _Registry:
    """Replaces `client.registry`: nothing is written on this machine."""

    @staticmethod
    def remember(*_: object) -> None:
        pass

    @staticmethod
    def known_url(_: object) -> str | None:
        return None

    @staticmethod
    def forget(_: object) -> None:
        pass


# Smaller constants by module and name, so that a few tasks make several objects and several epochs.
_SMALL: dict[tuple[str, str], object] = {
    ("client.batches", "_LEAST_STATUS"): 3,
    ("client.once_calls", "_LEAST_STATUS"): 3,
    ("client.batches", "STATUSES_PER_EPOCH"): 2,
    ("protocol.records.once", "STATUSES_PER_EPOCH"): 2,
    ("session.epochs", "STATUSES_PER_EPOCH"): 2,
    ("client.sending", "_REMOTE_SENDERS"): 3,
}


def _stand_ins() -> dict[tuple[str, str], object]:
    """Return the replacements, by module and name, that always apply on stage."""
    return {
        # Longer pauses between polls that are no requests, for fewer steps.
        ("client.keeper", "_DEATHS_S"): 1.0,
        ("worker.leaving", "_SIGNAL_S"): 1.0,
        # Simulated processes are no processes of the system, so only their beats show which of them are alive.
        ("worker.keeper", "identity"): lambda: "",
        **{(f"client.{module}", "named"): _named_if_alive for module in ("engine", "sending", "ending")},
        ("client.parts", "ThreadPoolExecutor"): _Pool,
        ("client.opening", "registry"): _Registry,
        ("client.opening", "_probe"): lambda *_, **__: None,
        # The modules that the simulating process has loaded must not influence a seed.
        ("client.opening", "code_for"): lambda *_: _NoModules(),
        ("client.sending", "code_for"): lambda *_: _NoModules(),
        ("client.executor", "SystemClock"): _clock_here,
        ("client.detached", "SystemClock"): _clock_here,
    }


def _named_if_alive(error: BaseException, session_id: str) -> StarburstError:
    """Drop the errors of a killed process's threads: they are caused by its end."""
    if isinstance(error, Killed):
        raise error
    return named(error, session_id)


def _clock_here() -> Any:
    return current_process().clock


@contextmanager
def on_stage(open_line: Callable[[], ObjectStore], *, small: bool = True) -> Iterator[None]:
    """Run the package in a simulation during the block.

    Args:
        open_line: Makes the store for URLs of the schemes `sim` and `memory`.
        small: Whether constants are reduced, so that ten tasks reach cases that otherwise take ten thousand.
    """
    changes: list[tuple[Any, str, object]] = []
    for (module_name, name), value in {**_stand_ins(), **(_SMALL if small else {})}.items():
        changes.append((importlib.import_module(_PACKAGE + module_name), name, value))
    for name, module in list(sys.modules.items()):
        is_ours = name.startswith(_PACKAGE) and not name.startswith(_LEFT_ALONE)
        if is_ours and getattr(module, "threading", None) is threading:
            changes.append((module, "threading", threads))
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    openers = sys.modules[_PACKAGE + "store.open"]._openers  # noqa: SLF001 - to be put back
    known = dict(openers)
    try:
        for module, name, value in changes:
            setattr(module, name, value)
        register_scheme("sim", lambda _: open_line())
        register_scheme("memory", lambda _: open_line())
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        openers.clear()
        openers.update(known)
