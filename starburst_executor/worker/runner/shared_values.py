"""The shared values of one runner: mapped from the agent's files and loaded when the first call needs them."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starburst_executor.protocol.references import open_laid

__all__ = ["LoadedValues"]


class LoadedValues:
    """The values that this process has been given, by name. Buffers of arrays are views of the mapped file, so they are read-only.

    Args:
        load: Loads a value from the stream of its pickle and its buffers.
    """

    def __init__(self, load: Callable[[io.BytesIO, list[memoryview]], Any]) -> None:
        self._load = load
        self._paths: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def give(self, name: str, path: str) -> None:
        """Note where a value is."""
        self._paths[name] = path

    def forget(self, name: str) -> None:
        """Forget a value; arrays that tasks have kept stay valid."""
        self._paths.pop(name, None)
        self._values.pop(name, None)

    def value(self, name: str) -> Any:
        """Return a value. Raises: KeyError: it was not given; any exception that unpickling raises."""
        if name in self._values:
            return self._values[name]
        with Path(self._paths[name]).open("rb") as file:
            body = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        pickled, buffers = open_laid(body)
        value = self._values[name] = self._load(io.BytesIO(pickled), buffers)
        return value
