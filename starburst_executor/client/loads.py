"""Names the loads of the user's own modules, for workers that import those modules from the same files.

A runner imports a module only once. So when this process has loaded a module again (`importlib.reload`, autoreload in a
notebook), later submits name other *loads*, and run in new runners. The name is computed from the files as they were when
they were loaded: two clients with the same code share runners, and a client that reattaches after the code was edited
does not get runners with the old code.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from starburst_executor.modules import own_loaded
from starburst_executor.protocol.keys import loads_name

__all__ = ["Load", "Loads", "are_unchanged", "loads_of"]


class Load(NamedTuple):
    """A loaded module; without its spec for a module that loads itself at the first access of an attribute."""

    name: str
    module: ModuleType
    spec: ModuleSpec | None


def loads_of(own: Iterable[str]) -> list[Load]:
    """Return the own modules that are loaded. A second load makes a new module, `importlib.reload` a new spec."""
    tops = frozenset(own)
    return [
        Load(name, module, module.__spec__ if type(module) is ModuleType else None)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in tops
    ]


def are_unchanged(loads: Iterable[Load]) -> bool:
    """Whether none of these modules has been loaded again since."""
    # A loop, and no generator: every submit calls this.
    modules = sys.modules
    for name, module, spec in loads:
        if modules.get(name) is not module or (spec is not None and module.__spec__ is not spec):
            return False
    return True


class _Known(NamedTuple):
    name: str
    n_loaded: int
    loads: dict[str, Load]


class Loads:
    """The loads of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _known
        self._known: _Known | None = None

    def name(self) -> str:
        """Return the name of the loads for a function that is sent now; empty if no own module is loaded."""
        known = self._known  # unlocked: one reference to an immutable record
        # The usual case ends here: every submit calls this.
        if known is not None and len(sys.modules) == known.n_loaded and are_unchanged(known.loads.values()):
            return known.name
        with self._lock:
            known = self._known
            n_loaded = len(sys.modules)  # counted first: the next call notices what another thread imports meanwhile
            loads = {load.name: load for load in loads_of(own_loaded())}
            name = _named("", loads.values()) if known is None else _renamed(known, loads)
            # Unloaded modules are kept: one that is imported again later is another load.
            kept = {} if known is None else known.loads
            self._known = _Known(name, n_loaded, {**kept, **loads})
            return name

    def store_waiting(self, _: Callable[[], BaseException | None] = lambda: None) -> None:
        """Do nothing: workers on this machine import the same files."""


def _renamed(known: _Known, loads: dict[str, Load]) -> str:
    again = [load for name, load in loads.items() if name in known.loads and not _is_same(load, known.loads[name])]
    return _named(known.name, again)


def _is_same(load: Load, other: Load) -> bool:
    return load.module is other.module and load.spec is other.spec


def _named(before: str, loads: Iterable[Load]) -> str:
    files = [_file(load) for load in sorted(loads, key=lambda load: load.name)]
    if not files:
        return before
    return loads_name(hashlib.sha256(repr((before, files)).encode()).hexdigest()[:32])


def _file(load: Load) -> tuple[str, str, int, int]:
    origin = load.spec.origin if load.spec is not None and load.spec.has_location else None
    try:
        stat = Path(origin or "").stat()
    except (OSError, ValueError):
        return load.name, str(origin), 0, 0
    return load.name, str(origin), stat.st_mtime_ns, stat.st_size
