"""Notes on this machine which store holds which session, so that an id alone is enough to find a session again.

One small file per detached session in the data folder. It contains no secrets and is only a convenience: where it cannot
be written, or on another machine, use the session's URL.
"""

from __future__ import annotations

from contextlib import suppress

from starburst_executor import config
from starburst_executor.protocol.keys import is_session_id
from starburst_executor.store.url import split_url

__all__ = ["all_ids", "forget", "known_stores", "known_url", "remember"]

# The number of sessions whose notes are read in search of a store.
_LAST = 1000


def remember(session_id: str, url: str) -> None:
    """Note a session's URL; do nothing if no file can be written."""
    folder = config.registry_folder(to_write=True)
    if folder is not None:
        with suppress(OSError):
            (folder / session_id).write_text(url, encoding="utf-8")


def known_url(session_id: str) -> str | None:
    """Return the URL that was noted for a session, or None."""
    folder = config.registry_folder(to_write=False)
    if folder is None or not is_session_id(session_id):
        return None
    try:
        url = (folder / session_id).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # damaged: the bytes are not text
        return None
    return url if "://" in url else None


def all_ids() -> list[str]:
    """Return the ids of all noted sessions, the oldest first."""
    folder = config.registry_folder(to_write=False)
    if folder is None:
        return []
    with suppress(OSError):
        return sorted(path.name for path in folder.iterdir() if is_session_id(path.name))
    return []


def known_stores() -> list[str]:
    """Return the URLs of the stores of the last 1,000 noted sessions, the newest first."""
    urls = [known_url(session_id) for session_id in reversed(all_ids()[-_LAST:])]
    return list(dict.fromkeys(split_url(url)[0] for url in urls if url is not None))


def forget(session_id: str) -> None:
    """Remove the note of a session that was deleted, and its key, if one was imported."""
    config.forget_session_key(session_id)
    folder = config.registry_folder(to_write=False)
    if folder is not None and is_session_id(session_id):
        with suppress(OSError):
            (folder / session_id).unlink()
