"""What a runner has received beside its jobs, and keeps until the agent has it forgotten: functions, pieces of calls, shared values."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable
from typing import Any, cast

from starburst_executor.protocol.calls import code_of
from starburst_executor.protocol.pieces import Result
from starburst_executor.protocol.references import results_come_from, values_come_from
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.loader import Loader
from starburst_executor.worker.runner.shared_values import LoadedValues

__all__ = ["Received"]

# After loading this many bytes of functions, forgetting one is worth a garbage collection.
_GARBAGE_BYTES = 32 * 2**20


class Received:
    """The functions and pieces of one runner; the other end of `outgoing.Outgoing`."""

    def __init__(self) -> None:
        self._pieces: dict[bytes, bytes] = {}  # until the agent sends FORGET
        self._loader = Loader(self._pieces)
        # Loaded functions, and stored ones not yet loaded, until the agent sends FORGET_FUNCTION.
        self._functions: dict[str, Callable[..., Any]] = {}
        self._bodies: dict[str, bytes] = {}
        self._codes: dict[str, str] = {}  # of all of them: the names of the code that they need
        self._loaded_bytes = 0  # of functions loaded since the last garbage collection for functions
        self._shared = LoadedValues(self._loader.load_value)  # until the agent sends FORGET_SHARED
        values_come_from(self._shared.value)
        results_come_from(self._result)
        # Load the arguments of a call, as `Loader.load_call`.
        self.load_call = self._loader.load_call

    def take(self, frame: wire.Frame) -> None:
        """Keep or forget what a frame says."""
        kind, *names = frame.head
        body = cast("bytes", frame.payload)  # a bytearray if it is big; unpickling accepts both
        if kind == wire.FUNCTION:
            self._bodies[names[0]] = body
            self._codes[names[0]] = code_of(body)
        elif kind == wire.PIECE:
            self._pieces[names[0]] = body
        elif kind == wire.FORGET:
            del self._pieces[names[0]]
        elif kind == wire.FORGET_FUNCTION:
            self._forget_function(names[0])
        elif kind == wire.SHARED:
            self._shared.give(names[0], names[1])
        elif kind == wire.FORGET_SHARED:
            self._shared.forget(names[0])

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

    def code_of(self, digest: str) -> str:
        """Return the name of the code that a function needs; empty if none."""
        return self._codes.get(digest, "")

    def _result(self, ordinal: int, sequence: int) -> Any:
        """Return the result of a task, loaded anew. Raises: KeyError: it was not given."""
        return self._loader.load_value(io.BytesIO(self._pieces[Result(ordinal, sequence).name]))

    def _forget_function(self, digest: str) -> None:
        self._functions.pop(digest, None)
        self._bodies.pop(digest, None)
        self._codes.pop(digest, None)
        if self._loaded_bytes >= _GARBAGE_BYTES:
            # Functions pickled by value and their globals refer to each other, and Python's collector counts objects, not bytes.
            self._loaded_bytes = 0
            gc.collect()
