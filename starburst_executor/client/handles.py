"""Launchers' handles as they stand in the manifest: with a seal, since by a handle workers are stopped.

# Guarantee: a launcher is given no handle but those that somebody with the session's key has written for that very
launch. Whoever can merely write the store must not choose which processes, ECS tasks and jobs a client stops, nor which
session's key it deletes.
"""

from __future__ import annotations

import base64
import hmac
import logging
from functools import lru_cache

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.records import Launch
from starburst_executor.protocol.seal import Sealer

__all__ = ["handle_of", "sealed_handle"]

_log = logging.getLogger(__name__)

# Before the handle itself, which may hold this sign; a seal's characters do not.
_SEPARATOR = "."


def sealed_handle(sealer: Sealer, launch: Launch, handle: str) -> str:
    """A handle as it is stored in `launch`."""
    return f"{_seal(sealer, launch, handle)}{_SEPARATOR}{handle}"


def handle_of(sealer: Sealer, launch: Launch) -> str:
    """The launch's handle; empty if it has none, or one that bears a wrong seal, which is logged."""
    if not launch.handle:
        return ""
    seal, _, handle = launch.handle.partition(_SEPARATOR)
    try:
        if hmac.compare_digest(seal.encode(), _seal(sealer, launch, handle).encode()):
            return handle
    except RecordInvalid:
        pass  # a launcher's name with a NUL
    _warn(sealer.session_id, launch.launch_id)
    return ""


@lru_cache(maxsize=1024)
def _warn(session_id: str, launch_id: str) -> None:
    """Once for each: handles are looked at ten times a second."""
    _log.warning(
        "a launch bears a wrong seal; its workers are left alone: session=%s, launch=%s", session_id, launch_id
    )


def _seal(sealer: Sealer, launch: Launch, handle: str) -> str:
    # The name too: what one launcher has written must not be read by another.
    place = f"{launch.launcher}/{launch.launch_id}"
    return base64.urlsafe_b64encode(sealer.seal("handle", place, handle.encode())).decode("ascii")
