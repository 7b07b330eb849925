"""What is set in the environment, by name: whether a setting of somebody else's applies is asked here, its value never."""

from __future__ import annotations

import os

__all__ = ["variable_names"]


def variable_names() -> frozenset[str]:
    """The names of all environment variables that are set, to something or to nothing."""
    return frozenset(os.environ)
