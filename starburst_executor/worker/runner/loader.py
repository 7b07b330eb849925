"""The loader of a runner: functions, calls, the initializer, and the globals that the initializer has set."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starburst_executor import context
from starburst_executor.protocol import calls
from starburst_executor.protocol.rebuilding import Unpickler

__all__ = ["Loader"]


# Looking through more bytes than this costs more than it saves.
_SMALL_BYTES = 512
# The one opcode by which the pickles of calls refer to globals; extension codes refer to the user's own classes only.
_STACK_GLOBAL = pickle.STACK_GLOBAL
_PICKLE = 0x80  # how a call begins that is one pickle


class Loader:
    """Loads the functions of one process, and gives them the globals that its initializer has set in `__main__`.

    A function of the client's `__main__` is pickled by value, with a copy of the globals that it uses. So the initializer
    and the tasks have separate copies, while in a process pool they share one module. Therefore the globals that the
    initializer has set or filled are put into the globals of each function of `__main__` that is loaded after it.

    Args:
        pieces: The pieces of calls that the process has, by name.
    """

    def __init__(self, pieces: Mapping[bytes, bytes]) -> None:
        self._pieces = pieces
        self._left: dict[str, Any] = {}

    def initialize(self, body: bytes) -> None:
        """Load and call an initializer. Raises: any exception that it raises."""
        unpickler = _MainUnpickler(calls.function_stream(body))
        with context.loading():
            initializer = unpickler.load()
        before = [dict(main) for main in unpickler.mains]
        initializer()
        for main, previous in zip(unpickler.mains, before, strict=True):
            for name, value in main.items():
                # A function or class that was only referred to is not handed on: a later pickle may contain a newer definition.
                is_set = name not in previous or previous[name] is not value or not callable(value)
                if is_set and not name.startswith("__"):
                    self._left[name] = value

    def load(self, body: bytes) -> Callable[..., Any]:
        """Load a function like `calls.load_function`, with the globals that the initializer has set."""
        unpickler = _MainUnpickler(calls.function_stream(body))
        with context.loading():
            loaded: Callable[..., Any] = unpickler.load()
        self._hand_on(unpickler)
        return loaded

    def load_call(self, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Load a call like `calls.load_call`, with the globals that the initializer has set. Each task pays for this."""
        if len(body) <= _SMALL_BYTES and _STACK_GLOBAL not in body:
            # It refers to no class, function or module: it rebuilds no function and imports nothing.
            if body[0] == _PICKLE and type(loaded := pickle.loads(body)) is tuple:  # noqa: S301 - sealed, checked by the agent
                return loaded
            return calls.load_call(body, self._pieces)
        unpickler = _MainUnpickler(calls.opened(body, self._pieces))
        with context.loading():
            call = calls.read_call(unpickler)
        self._hand_on(unpickler)
        return call

    def load_value(self, stream: Any, buffers: list[memoryview] | None = None) -> Any:
        """Load a shared value, whose arrays are views of these buffers, or a result, with the globals that the initializer has set."""
        unpickler = _MainUnpickler(stream, buffers)
        with context.loading():
            value = unpickler.load()
        self._hand_on(unpickler)
        return value

    def _hand_on(self, unpickler: _MainUnpickler) -> None:
        for main in unpickler.mains:
            main.update(self._left)


class _MainUnpickler(Unpickler):
    """Records the globals of the functions of `__main__` that it loads."""

    def __init__(self, stream: Any, buffers: list[memoryview] | None = None) -> None:
        super().__init__(stream, buffers=buffers)
        self.mains: list[dict[str, Any]] = []

    def find_class(self, module: str, name: str) -> Any:
        target = super().find_class(module, name)
        # cloudpickle rebuilds a function that was pickled by value with `_make_function`.
        return partial(self._make, target) if name == "_make_function" and module.startswith("cloudpickle") else target

    def _make(self, make: Callable[..., Any], code: object, namespace: dict[str, Any], *rest: object) -> Any:
        if namespace.get("__name__") == "__main__" and not any(main is namespace for main in self.mains):
            self.mains.append(namespace)
        return make(code, namespace, *rest)
