"""What a runner has received beside its jobs, and keeps until the agent has it forgotten: functions and pieces of calls."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.loader import Loader

__all__ = ["Received"]

# After loading this many bytes of functions, forgetting one is worth a garbage collection.
_GARBAGE_BYTES = 32 * 2**20


class Received:
    """The functions and pieces of one runner; the other end of `outgoing.Outgoing`."""

    def __init__(self) -> None:
        self._loader = Loader()
        # Loaded functions, and stored ones not yet loaded, until the agent sends FORGET_FUNCTION.
        self._functions: dict[str, Callable[..., Any]] = {}
        self._bodies: dict[str, bytes] = {}
        self._loaded_bytes = 0  # of functions loaded since the last garbage collection for functions
        self._pieces: dict[bytes, bytes] = {}  # until the agent sends FORGET
        # Load the arguments of a call, as `Loader.load_call`. Each task pays for this.
        self.load_call = partial(self._loader.load_call, pieces=self._pieces)

    def take(self, frame: wire.Frame) -> None:
        """Keep or forget what a frame says."""
        kind, *names = frame.head
        body = cast("bytes", frame.payload)  # a bytearray if it is big; unpickling accepts both
        if kind == wire.FUNCTION:
            self._bodies[names[0]] = body
        elif kind == wire.PIECE:
            self._pieces[names[0]] = body
        elif kind == wire.FORGET:
            del self._pieces[names[0]]
        elif kind == wire.FORGET_FUNCTION:
            self._forget_function(names[0])

    def initialize(self, body: bytes) -> None:
        """Load and call an initializer. Raises: any exception that it raises."""
        self._loader.initialize(body)

    def function(self, digest: str) -> Callable[..., Any]:
        """Return a function, loaded. Raises: any exception that loading raises."""
        function = self._functions.get(digest)
        if function is None:
            # The body is kept until it has been loaded: a module that is missing now may exist for a later task.
            function = self._functions[digest] = self._loader.load(self._bodies[digest])
            self._loaded_bytes += len(self._bodies.pop(digest))
        return function

    def _forget_function(self, digest: str) -> None:
        self._functions.pop(digest, None)
        self._bodies.pop(digest, None)
        if self._loaded_bytes >= _GARBAGE_BYTES:
            # Functions pickled by value and their globals refer to each other, and Python's collector counts objects, not bytes.
            self._loaded_bytes = 0
            gc.collect()
