"""The names of the variables that are set, to find out whether another program's setting applies. Values are not read."""

from __future__ import annotations

import os

__all__ = ["variable_names"]


def variable_names() -> frozenset[str]:
    """Return the names of all environment variables that are set, including empty ones."""
    return frozenset(os.environ)
