"""What a runner rebuilds: functions, calls, the initializer, and what that has left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starburst_executor import context
from starburst_executor.protocol import calls
from starburst_executor.protocol.rebuilding import Unpickler

__all__ = ["Loader"]


class Loader:
    """Rebuilds the functions of one process, and hands on what its initializer left in `__main__`.

    A function of the client's `__main__` travels by value, with a copy of the globals that it uses. So an initializer
    and the tasks have copies of their own, while in a process pool they share one module. What the initializer has set
    or filled there is therefore put into the globals of each function of `__main__` that is loaded after it.
    """

    def __init__(self) -> None:
        self._left: dict[str, Any] = {}

    def initialize(self, body: bytes) -> None:
        """Rebuild and call an initializer. Raises: whatever it raises."""
        unpickler = _MainUnpickler(calls.function_stream(body))
        with context.loading():
            initializer = unpickler.load()
        before = [dict(found) for found in unpickler.mains]
        initializer()
        for main, was in zip(unpickler.mains, before, strict=True):
            for name, value in main.items():
                # A function or class that was only referred to is left to each pickle: it may have been redefined.
                is_set = name not in was or was[name] is not value or not callable(value)
                if is_set and not name.startswith("__"):
                    self._left[name] = value

    def load(self, body: bytes) -> Callable[..., Any]:
        """As `calls.load_function`."""
        unpickler = _MainUnpickler(calls.function_stream(body))
        with context.loading():
            loaded: Callable[..., Any] = unpickler.load()
        self._hand_on(unpickler)
        return loaded

    def load_call(
        self, body: bytes | memoryview, found: Mapping[bytes, bytes]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As `calls.load_call`."""
        unpickler = _MainUnpickler(calls.opened(body, found))
        with context.loading():
            call = calls.read_call(unpickler)
        self._hand_on(unpickler)
        return call

    def _hand_on(self, unpickler: _MainUnpickler) -> None:
        for main in unpickler.mains:
            main.update(self._left)


class _MainUnpickler(Unpickler):
    """Notes the globals of the functions of `__main__` that it rebuilds."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.mains: list[dict[str, Any]] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        # How cloudpickle rebuilds a function that travels by value.
        return partial(self._make, found) if name == "_make_function" and module.startswith("cloudpickle") else found

    def _make(self, make: Callable[..., Any], code: object, namespace: dict[str, Any], *rest: object) -> Any:
        if namespace.get("__name__") == "__main__" and not any(main is namespace for main in self.mains):
            self.mains.append(namespace)
        return make(code, namespace, *rest)
