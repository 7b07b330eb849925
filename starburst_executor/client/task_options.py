"""The options of a view's tasks, encoded once for all of them; the label is made for each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from starburst_executor.protocol import options as stored
from starburst_executor.protocol.options import DEFAULT, TaskOptions
from starburst_executor.protocol.resources import text_of

__all__ = ["NO_OPTIONS", "CallOptions"]


class CallOptions(NamedTuple):
    """Options as a submit needs them.

    Attributes:
        packed: What is stored of them; empty for the defaults.
        label: The label of one task; empty without one.
        resources: What keys have of their resources.
    """

    options: TaskOptions
    packed: bytes
    label: str = ""
    resources: str = ""

    @classmethod
    def of(cls, options: TaskOptions) -> CallOptions:
        """Encode options."""
        return cls(options, options.encode(), resources=text_of(options.resources or ()))

    def labelled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallOptions:
        """Return the options of one call, with its label. Raises: ConfigError, and what a function of the user's raises."""
        return self._replace(label=stored.label_of(self.options, args, kwargs))


NO_OPTIONS = CallOptions.of(DEFAULT)
