"""Launchers' handles in the manifest: stored with a seal, since a client stops workers by their handle.

Guarantee: a launcher only gets handles that a holder of the session's key has written for that launch. A program that
can write the store, but has no key, must not choose which processes, ECS tasks and jobs a client stops, nor which
session's key it deletes.
"""

from __future__ import annotations

import base64
import hmac
import logging
from functools import lru_cache

from starburst_executor.errors import RecordInvalid
from starburst_executor.launch.base import Launcher, Workers
from starburst_executor.protocol.records import Launch
from starburst_executor.protocol.seal import Sealer

__all__ = ["handle_of", "sealed_handle", "workers_of"]

_log = logging.getLogger(__name__)

# Between seal and handle. The handle may contain this character; a seal cannot.
_SEPARATOR = "."


def sealed_handle(sealer: Sealer, launch: Launch, handle: str) -> str:
    """Return the form of a handle that is stored in `launch`."""
    return f"{_seal(sealer, launch, handle)}{_SEPARATOR}{handle}"


def handle_of(sealer: Sealer, launch: Launch) -> str:
    """Return the launch's handle; empty if it has none, or one with a wrong seal, which is logged."""
    if not launch.handle:
        return ""
    seal, _, handle = launch.handle.partition(_SEPARATOR)
    try:
        if hmac.compare_digest(seal.encode(), _seal(sealer, launch, handle).encode()):
            return handle
    except RecordInvalid:
        pass  # the launcher's name contains a NUL, which no seal allows
    _warn(sealer.session_id, launch.launch_id)
    return ""


def workers_of(sealer: Sealer, launcher: Launcher, launch: Launch) -> Workers | None:
    """Return the workers of a launch; None if another launcher started it, or it has no handle that can be trusted."""
    handle = handle_of(sealer, launch) if launch.launcher == launcher.name else ""
    return launcher.resume(handle) if handle else None


@lru_cache(maxsize=1024)
def _warn(session_id: str, launch_id: str) -> None:
    """Warn once for each launch: handles are read ten times a second."""
    _log.warning(
        "a launch has a wrong seal; its workers are not stopped or counted: session=%s, launch=%s",
        session_id,
        launch_id,
    )


def _seal(sealer: Sealer, launch: Launch, handle: str) -> str:
    # The seal covers the launcher's name: a handle of one launcher must not be valid for another.
    place = f"{launch.launcher}/{launch.launch_id}"
    return base64.urlsafe_b64encode(sealer.seal("handle", place, handle.encode())).decode("ascii")
