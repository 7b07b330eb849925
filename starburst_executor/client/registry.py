"""Which session lies in which store, noted on this machine, so that a bare id is enough to find it again.

One small file per detached session in the data folder. Nothing secret is in it, and it is only a convenience: where it
cannot be written, or on another machine, the session's URL does the same.
"""

from __future__ import annotations

from contextlib import suppress

from starburst_executor import config
from starburst_executor.protocol.keys import is_session_id

__all__ = ["forget", "known_url", "remember"]


def remember(session_id: str, url: str) -> None:
    """Note a session's URL; silently nothing where no file can be kept."""
    folder = config.registry_folder()
    if folder is not None:
        with suppress(OSError):
            (folder / session_id).write_text(url, encoding="utf-8")


def known_url(session_id: str) -> str | None:
    """The URL noted for a session, if any."""
    folder = config.registry_folder()
    if folder is None or not is_session_id(session_id):
        return None
    try:
        url = (folder / session_id).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # damaged: bytes that are no text
        return None
    return url if "://" in url else None


def forget(session_id: str) -> None:
    """The session was deleted."""
    folder = config.registry_folder()
    if folder is not None and is_session_id(session_id):
        with suppress(OSError):
            (folder / session_id).unlink()
