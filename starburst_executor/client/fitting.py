"""What a function's signature tells: whether it accepts the arguments of a call, without calling it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["misfit", "signature_of", "signature_text"]


def misfit(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return why a function does not accept these arguments, as Python words it; empty if it does, or if its signature cannot be read.

    A decorated function accepts what its wrapper accepts: that may add arguments of its own, or take some away.
    """
    signature = signature_of(function, follow_wrapped=False)
    if signature is None:
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


def signature_of(function: Callable[..., Any], *, follow_wrapped: bool = True) -> inspect.Signature | None:
    """Return a function's signature; None if it cannot be read, as of some functions of C modules."""
    with suppress(Exception):  # user code runs here: annotations, `__signature__`
        return inspect.signature(function, follow_wrapped=follow_wrapped)
    return None


def signature_text(function: Callable[..., Any], *, follow_wrapped: bool = True) -> str:
    """Return a function's signature without annotations; empty if it cannot be read."""
    signature = signature_of(function, follow_wrapped=follow_wrapped)
    if signature is None:
        return ""
    parameters = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
